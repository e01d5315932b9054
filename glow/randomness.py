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
    return np.random.Generator(np.random.Philox(key=_key(seed, purpose, *index)))


class Restarted:
    """One generator that is restarted for each of many images: making one takes ten times as long.

    Attributes:
        rng: After ``restart``, the generator of its arguments; until the next ``restart``.
    """

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._start = self._bits.state
        self.rng = np.random.Generator(self._bits)

    def restart(self, seed: int, purpose: str, *index: int | str) -> np.random.Generator:
        """Return the generator of ``(seed, purpose, index)``, as ``generator`` does."""
        self._start["state"]["key"] = _key(seed, purpose, *index)
        self._bits.state = self._start
        return self.rng


def _key(seed: int, purpose: str, *index: int | str) -> np.ndarray:
    digest = hashlib.blake2b(repr((seed, purpose, *index)).encode(), digest_size=16).digest()
    return np.frombuffer(digest, dtype="<u8")


def uniform_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw float32 noise in the open interval (0, 1): the centres of 2^15 equal cells.

    The sum of an 8-bit grey level and this noise is exact in float32, so no dequantised pixel is rounded into the next
    level.
    """
    return noise_of(noise_words(rng, shape)[None], shape)[0]


def noise_words(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw the random bits of ``uniform_noise``, uint64 ``[ceil(elements / 4)]``."""
    # Four 16-bit words from each raw 64 bits: several times as fast as rng.integers, and every image needs this.
    return rng.bit_generator.random_raw(-(-math.prod(shape) // 4))


def noise_of(words: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Turn the bits of ``noise_words``, uint64 ``[N, M]``, into noise, float32 ``[N, *shape]``."""
    halves = words.astype("<u8", copy=False).view("<u2")[:, : math.prod(shape)]
    noise = (halves >> 1).astype(np.float32)
    noise += np.float32(0.5)
    noise *= np.float32(2**-15)
    return noise.reshape(len(words), *shape)


def mixed_bits(values: np.ndarray) -> np.ndarray:
    """Return 64 bits that depend on all bits of each value, uint64 of the same shape.

    Source: Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators" (2014), the finaliser of SplitMix64.
    """
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
