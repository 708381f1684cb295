"""Types of the options of the benchmarks."""

import argparse


def positive(word):
    if int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} is not above 0")
    return int(word)
