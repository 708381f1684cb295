"""The command `smol-hf`: options, help and printed results.

Read `main` first (the list of commands), then `parser` (how options and recipe keys are read) and `printing` (how
results are shown), then the module of a command. A module imports the libraries that its command needs when the
command runs, so that help is quick.
"""
