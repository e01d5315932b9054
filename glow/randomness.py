"""Random numbers that depend on a seed, a purpose and an index, and on nothing else."""

from __future__ import annotations

import hashlib
import math

import numpy as np


def generator(seed: int, purpose: str, *index: int | str) -> np.random.Generator:
    """Return the generator of ``(seed, purpose, index)``.

    A hash of the arguments is the 128-bit key of a Philox generator. So two images, samples or epochs share a stream
    with negligible probability. (torch's CPU generator keeps only 32 bits of its seed.)

    Args:
        seed: The seed of the run.
        purpose: What the numbers are for, such as ``"shuffle"``.
        index: Which of them: an epoch, the key of an image, the number of a sample.
    """
    digest = hashlib.blake2b(repr((seed, purpose, *index)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype="<u8")))


def uniform_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw float32 noise in the open interval (0, 1): the centres of 2^15 equal cells.

    The sum of an 8-bit grey level and this noise is exact in float32, so no dequantised pixel is rounded into the next
    level.
    """
    # Four 16-bit words from each raw 64 bits: several times as fast as rng.integers, and every image needs this.
    size = math.prod(shape)
    words = rng.bit_generator.random_raw(-(-size // 4)).astype("<u8", copy=False).view("<u2")[:size]
    return (((words >> 1).astype(np.float32) + np.float32(0.5)) * np.float32(2**-15)).reshape(shape)
