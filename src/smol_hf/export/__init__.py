"""Export checkpoints to other engines, and compare the engines' results with the checkpoint.

Read `target` (what each target declares), `export` (the command), `comparison` (equal tokens), and then the targets:
`native`, `gguf`, `onnx`, `page`, `mlx`. `registry` lists them.
"""
