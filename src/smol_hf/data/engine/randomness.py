"""Randomness that depends on a key alone: never on what was drawn before, so any draw can be made again anywhere."""

from __future__ import annotations

import hashlib

import numpy as np

DRAWS_OF_A_KEY = 256


def generator(*key) -> np.random.Generator:
    """A counter-based generator (Philox, Salmon et al. 2011) of numbers that are a function of `key`."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


class Draws:
    """Uniform numbers in [0, 1), one for each counter value under a key."""

    def __init__(self, *key):
        self.key = key
        self.page = -1
        self.numbers = np.empty(0)

    def __getitem__(self, counter: int) -> float:
        page, place = divmod(counter, DRAWS_OF_A_KEY)
        if page != self.page:
            self.page, self.numbers = page, generator(*self.key, page).random(DRAWS_OF_A_KEY)
        return float(self.numbers[place])
