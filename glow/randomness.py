"""Random numbers that depend on a seed, what they are for, and an index, and on nothing else."""

from __future__ import annotations

import hashlib
import math

import numpy as np


def generator(seed: int, purpose: str, *index: int | str) -> np.random.Generator:
    """Return the generator of ``(seed, purpose, index)``.

    The 128-bit key of a Philox counter generator is a hash of the arguments, so that two images, samples or epochs
    share a stream with negligible probability (torch's CPU generator keeps only 32 bits of its seed).
    """
    digest = hashlib.blake2b(repr((seed, purpose, *index)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype="<u8")))


def uniform_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw float32 noise in the open interval (0, 1): the centres of 2^15 equal cells.

    Added to a level of 8 bits such noise is still exact in float32, so that no dequantised pixel is rounded into the
    next level.
    """
    # Four 16-bit words out of each raw 64 bits: several times as fast as rng.integers, and every image needs some.
    size = math.prod(shape)
    words = rng.bit_generator.random_raw(-(-size // 4)).astype("<u8", copy=False).view("<u2")[:size]
    return (((words >> 1).astype(np.float32) + np.float32(0.5)) * np.float32(2**-15)).reshape(shape)
