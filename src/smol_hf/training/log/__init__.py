"""Output of a run: the start-up summary, log lines, counters and records.

Read `startup_summary`, then `console`.
"""
