"""Baselines: the densities that they say they are."""

import math

import numpy as np
import torch

from glow.data.read.batch import Batch
from glow.evaluation.baselines import GaussianBaseline, HistogramBaseline


def random_batch(count, levels, shape=(1, 2, 2), seed=0):
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, levels, (count, *shape), generator=rng, dtype=torch.uint8) * (256 // levels)
    return Batch([str(n) for n in range(count)], images, torch.rand(count, *shape, generator=rng), None)


def test_gaussian_baseline_is_the_density_of_the_fitted_gaussian():
    train, test = random_batch(500, 16), random_batch(50, 16, seed=1)
    baseline = GaussianBaseline([train.part(0, 200), train.part(200, 500)], num_bits=4)
    x, y = ((b.images / 16 + b.noise.double()).flatten(1) for b in (train, test))
    fitted = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T, correction=0))
    expected = -fitted.log_prob(y) / (4 * math.log(2))
    assert np.allclose(baseline.bits_per_dim(test), expected, atol=1e-9)


def test_histogram_baseline_of_uniform_levels_is_their_bits():
    baseline = HistogramBaseline([random_batch(20_000, 4)], num_bits=2, num_dims=4)
    assert np.allclose(baseline.bits_per_dim(random_batch(50, 4, seed=1)), 2, atol=0.1)
    tiny = HistogramBaseline([random_batch(2, 4)], num_bits=2, num_dims=4)
    assert np.isfinite(tiny.bits_per_dim(random_batch(50, 4, seed=1))).all()
