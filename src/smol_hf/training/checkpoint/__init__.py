"""Training checkpoints: saving, verifying and resuming.

Read `checkpoints`, `saving`, `same_run`, `interruption`, `run_folder`, `stage_record`.
"""
