"""`smol-hf estimate`: size, memory and cost of a step.

Read `target`, `estimate`, `traced_step`, `apple`.
"""
