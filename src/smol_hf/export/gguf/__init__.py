"""The target `gguf`: files for llama.cpp, written by llama.cpp's own converter.

Read `target` (the files and the commands), `refusals` (what llama.cpp computes differently), `source_folder` (the
pre-tokenizer and the chat template), `converter` (finds and runs the converter), `asking` (answers of llama.cpp).
`convert_job` and `answer_job` run in processes of their own, without smol_hf.
"""
