"""Random numbers depend on seed, purpose and index alone; noise lies strictly between 0 and 1."""

import numpy as np

from glow.randomness import generator, uniform_noise


def test_streams_of_random_numbers_differ_in_every_argument():
    draws = [
        uniform_noise(generator(*arguments), (4,)).tobytes()
        for arguments in [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", "1"), (0, "a", 1, 1)]
    ]
    assert len(set(draws)) == len(draws)


def test_noise_is_strictly_between_0_and_1_at_its_ends():
    class Ends:
        bit_generator = type("Bits", (), {"random_raw": lambda self, count: np.array([2**64 - 2**16] * count, "u8")})()

    noise = uniform_noise(Ends(), (5,))
    assert noise.dtype == np.float32
    assert 0 < noise[0] == noise[4] < 2**-15 < 1 - 2**-15 < noise[1] < 1


def test_noise_is_uniform_and_its_cells_are_independent():
    noise = uniform_noise(generator(0, "test"), (1000, 3, 11))
    assert noise.shape == (1000, 3, 11)
    counts = np.bincount((noise.ravel() * 32).astype(int), minlength=32)
    assert ((counts - noise.size / 32) ** 2).sum() / (noise.size / 32) < 70  # chi-squared, 31 degrees of freedom
    for lag in (1, 2, 3, 4):  # of neighbouring 16-bit words of the generator
        assert abs(np.corrcoef(noise.ravel()[:-lag], noise.ravel()[lag:])[0, 1]) < 4 / np.sqrt(noise.size)
