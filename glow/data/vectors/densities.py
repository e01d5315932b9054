"""Densities in two dimensions to test flows on: their samples can be drawn, and their values are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from glow.config import VectorDataConfig
from glow.randomness import generator

Array = np.ndarray


class Density(Protocol):
    """A probability density."""

    def sample(self, rng: np.random.Generator, count: int) -> Array:
        """Draw vectors, float64 ``[count, 2]``."""

    def log_prob(self, x: Array) -> Array:
        """Return the log-density ``[N]``, in nats, of ``x [N, 2]``; -inf where the density is 0."""


@dataclass(frozen=True)
class Mixture:
    """A mixture of K Gaussians.

    Attributes:
        weights: ``[K]``.
        means: ``[K, D]``.
        factors: The lower Cholesky factors of the covariances, ``[K, D, D]``.
    """

    weights: Array
    means: Array
    factors: Array

    def sample(self, rng: np.random.Generator, count: int) -> Array:
        """Draw a component, and then a vector of it, for each sample."""
        component = rng.choice(len(self.weights), size=count, p=self.weights)
        noise = rng.standard_normal((count, self.means.shape[1]))
        return self.means[component] + np.einsum("nij,nj->ni", self.factors[component], noise)

    def log_prob(self, x: Array) -> Array:
        """Return the log-density: a sum over the components."""
        offsets = x[:, None] - self.means  # [N, K, D]
        standard = np.einsum("kij,nkj->nki", np.linalg.inv(self.factors), offsets)  # [N, K, D]
        log_volumes = np.log(np.diagonal(self.factors, axis1=1, axis2=2)).sum(1)  # [K]
        constants = np.log(self.weights) - log_volumes - 0.5 * x.shape[1] * math.log(2 * math.pi)
        return np.logaddexp.reduce(constants - 0.5 * np.square(standard).sum(2), axis=1)


def random_mixture(seed: int, num_components: int = 4) -> Mixture:
    """Draw a mixture: means in the square of side 8 around 0, standard deviations between 0.3 and 1 along random axes,
    and weights from Dirichlet(4, ..., 4).
    """
    rng = generator(seed, "mixture")
    weights = rng.dirichlet(np.full(num_components, 4.0))
    means = rng.uniform(-4, 4, size=(num_components, 2))
    angle = rng.uniform(0, math.pi, size=num_components)
    stds = rng.uniform(0.3, 1, size=(num_components, 2))
    rotation = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1).reshape(-1, 2, 2)
    covariances = np.einsum("kij,kj,klj->kil", rotation, np.square(stds), rotation)
    return Mixture(weights, means, np.linalg.cholesky(covariances))


@dataclass(frozen=True)
class Moons:
    """Two interleaved half circles of radius 1, plus Gaussian noise."""

    noise: float = 0.1

    def sample(self, rng: np.random.Generator, count: int) -> Array:
        """Draw a moon, an angle and the noise for each sample."""
        upper, lower = _moons(rng.uniform(0, math.pi, size=count))
        points = np.where(rng.random(count)[:, None] < 0.5, upper, lower)
        return points + self.noise * rng.standard_normal((count, 2))

    def log_prob(self, x: Array) -> Array:
        """Integrate over the angle, by 300 midpoints; they are closer than an eighth of the noise."""
        angles = (np.arange(300) + 0.5) * (math.pi / 300)
        total = np.full(len(x), -np.inf)
        for center in np.concatenate(_moons(angles)):
            total = np.logaddexp(total, -0.5 * np.square((x - center) / self.noise).sum(1))
        return total - math.log(2 * len(angles)) - math.log(2 * math.pi * self.noise**2)


@dataclass(frozen=True)
class Rings:
    """Circles around 0 of equal probability; the distance from 0 is Gaussian around the radius."""

    radii: tuple[float, ...] = (1.0, 2.0, 3.0)
    noise: float = 0.1

    def sample(self, rng: np.random.Generator, count: int) -> Array:
        """Draw a ring, a distance and an angle for each sample."""
        radius = rng.choice(self.radii, size=count) + self.noise * rng.standard_normal(count)
        angle = rng.uniform(0, 2 * math.pi, size=count)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)

    def log_prob(self, x: Array) -> Array:
        """Spread the density of the distance over the circle; a negative distance counts on the other side."""
        r = np.linalg.norm(x, axis=1)[:, None]
        standard = [(sign * r - np.array(self.radii)) / self.noise for sign in (1, -1)]
        log_normal = np.logaddexp.reduce(-0.5 * np.square(np.concatenate(standard, axis=1)), axis=1)
        constant = math.log(len(self.radii)) + 0.5 * math.log(2 * math.pi) + math.log(self.noise)
        return log_normal - constant - np.log(2 * math.pi * r[:, 0])


@dataclass(frozen=True)
class Checkerboard:
    """Uniform on the 8 dark squares, of side 2, of a board of 4 by 4 around 0."""

    def sample(self, rng: np.random.Generator, count: int) -> Array:
        """Draw a dark square and a point in it for each sample."""
        row = rng.integers(4, size=count)
        column = 2 * rng.integers(2, size=count) + row % 2
        return 2 * (np.stack([column, row], axis=1) + rng.random((count, 2))) - 4

    def log_prob(self, x: Array) -> Array:
        """Return -log 32 on dark squares."""
        square = np.floor(x / 2)
        is_dark = (square.sum(1) % 2 == 0) & (np.abs(x) < 4).all(1)
        return np.where(is_dark, -math.log(32), -np.inf)


DENSITIES: dict[str, Callable[[int], Density]] = {
    "mixture": random_mixture,
    "moons": lambda seed: Moons(),
    "rings": lambda seed: Rings(),
    "checkerboard": lambda seed: Checkerboard(),
}


def density_of(config: VectorDataConfig) -> Density | None:
    """Return the density of a config; None when its vectors come from a file."""
    return DENSITIES[config.name](config.seed) if config.name in DENSITIES else None


def _moons(angle: Array) -> tuple[Array, Array]:
    """Return the points of both half circles at an angle, ``[N, 2]`` each."""
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return upper, np.array([1.0, 0.5]) - upper
