"""Output of a run: the start-up summary, log lines, counters, records, and the steps that it skipped.

Read `startup_summary`, `console`, `lines`, `skipped_steps`, then `run_log`, which reads the log again.
"""
