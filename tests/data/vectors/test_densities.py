"""Densities in two dimensions: their samples, and their values."""

import numpy as np
import pytest
import torch

from glow.config import VectorDataConfig
from glow.data.vectors.densities import DENSITIES, density_of, random_mixture
from glow.randomness import generator


@pytest.mark.parametrize("name", DENSITIES)
def test_density_integrates_to_one_and_is_that_of_its_samples(name):
    density = DENSITIES[name](3)
    points = density.sample(generator(0, "test"), 100_000)
    assert points.shape == (100_000, 2)
    side, count = 14.0, 280
    axis = (np.arange(count) + 0.5) * (side / count) - side / 2
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    mass = np.exp(density.log_prob(grid)) * (side / count) ** 2
    assert abs(mass.sum() - 1) < 2e-3
    # The share of samples in each cell of a coarse histogram is the mass of the density there.
    cells = [np.linspace(-side / 2, side / 2, 36)] * 2
    expected, *_ = np.histogram2d(grid[:, 0], grid[:, 1], cells, weights=mass)
    drawn, *_ = np.histogram2d(points[:, 0], points[:, 1], cells)
    assert np.abs(drawn / len(points) - expected).max() < 0.003


def test_mixture_density_is_that_of_torch():
    mixture = random_mixture(7)
    assert np.isclose(mixture.weights.sum(), 1)
    components = torch.distributions.MultivariateNormal(
        torch.from_numpy(mixture.means), scale_tril=torch.from_numpy(mixture.factors)
    )
    reference = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.from_numpy(mixture.weights)), components
    )
    x = np.random.default_rng(0).normal(size=(50, 2)) * 3
    assert np.allclose(mixture.log_prob(x), reference.log_prob(torch.from_numpy(x)).numpy())


def test_seed_decides_the_mixture():
    assert np.array_equal(random_mixture(1).means, random_mixture(1).means)
    assert not np.array_equal(random_mixture(1).means, random_mixture(2).means)


def test_every_density_has_a_name_in_the_configuration():
    assert all(density_of(VectorDataConfig(name)) is not None for name in DENSITIES)
    assert density_of(VectorDataConfig("file", "x.npy")) is None
