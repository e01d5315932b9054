"""How well a flow fits a target: bounds, importance weights, grids."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from glow.evaluation.vectors import BATCH_SIZE, Array, Estimate
from glow.inference.targets import Target
from glow.models.flow import Flow
from glow.randomness import generator

MAX_GRID_ERROR = 0.01  # in nats, between a grid and a grid of half the resolution


@dataclass(frozen=True)
class Draws:
    """Samples ``[n, D]`` of a flow, and the log-densities of flow and target at them, ``[n]``; float64, in nats."""

    samples: Array
    log_flow: Array
    log_target: Array

    @property
    def elbo(self) -> Estimate:
        """The evidence lower bound."""
        return Estimate.of(self.log_target - self.log_flow)

    @property
    def log_normalizer(self) -> Estimate:
        """The log of the target's integral, by importance sampling. It misses regions that the flow does not reach."""
        weights, largest = self._weights()
        mean = weights.mean()
        relative_error = float(weights.std(ddof=1) / mean / math.sqrt(len(weights)))
        return Estimate(float(np.log(mean)) + largest, relative_error, len(weights))

    @property
    def effective_fraction(self) -> float:
        """The effective sample size of the importance weights, divided by the number of samples.

        Source: Kish's formula, ``(sum w)^2 / sum w^2``.
        """
        weights, _ = self._weights()
        return float(np.square(weights.sum()) / np.square(weights).sum() / len(weights))

    def _weights(self) -> tuple[Array, float]:
        """Return the importance weights divided by the largest, and the log of the largest."""
        log_weights = self.log_target - self.log_flow
        largest = float(log_weights.max())
        return np.exp(log_weights - largest), largest


def noise_batches(num_dims: int, count: int, seed: int) -> Iterator[Array]:
    """Yield ``count`` rows of standard normal noise in batches, float64 ``[n, D]``; row i depends on the seed and i."""
    rng = generator(seed, "posterior")
    for start in range(0, count, BATCH_SIZE):
        yield rng.standard_normal((min(BATCH_SIZE, count - start), num_dims))


@torch.no_grad()
def draw(flow: Flow, target: Target, noise: Iterable[Array]) -> Draws:
    """Map noise to samples of the flow, in float64 and in eval mode.

    Raises:
        ValueError: when the target is not finite at a sample.
    """
    exact_flow, exact_target = _exact(flow), _exact(target)
    device = flow.base.mean.device
    parts = []
    for batch in noise:
        samples, log_flow = exact_flow.sample_and_log_prob(torch.from_numpy(batch).to(device))
        log_target = exact_target(samples)
        parts.append([values.double().cpu().numpy() for values in (samples, log_flow, log_target)])
    draws = Draws(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    broken = np.flatnonzero(~np.isfinite(draws.log_target - draws.log_flow))
    if len(broken):
        first = draws.samples[broken[0]].round(3).tolist()[:8]
        raise ValueError(
            f"target {target.name}: NaN or infinite at {len(broken)} of {len(draws.samples)} samples of the flow, "
            f"first at {first}"
        )
    return draws


@dataclass(frozen=True)
class Grid:
    """A log-density on a grid.

    Attributes:
        low: Lower corner of the rectangle, ``[2]``.
        high: Upper corner, ``[2]``.
        log_density: At the midpoints of the cells, ``[n, n]``; the row index belongs to the second dimension.
    """

    low: Array
    high: Array
    log_density: Array

    @property
    def log_normalizer(self) -> float:
        """The log of the integral over the rectangle, in nats."""
        return float(np.logaddexp.reduce(self.log_density, axis=None) + math.log(self.cell.prod()))

    @property
    def cell(self) -> Array:
        """The sides of a cell, ``[2]``."""
        return (self.high - self.low) / len(self.log_density)

    @property
    def edge(self) -> float:
        """The share of the mass in the outermost cells. If it is large, the rectangle is too small."""
        mass = np.exp(self.log_density - np.logaddexp.reduce(self.log_density, axis=None))
        mass[1:-1, 1:-1] = 0
        return float(mass.sum())

    def extent(self, share: float = 1e-3) -> tuple[Array, Array]:
        """Return the corners of a rectangle with all of the mass but about this share."""
        mass = np.exp(self.log_density - self.log_density.max())
        corners = []
        for dimension, axis in enumerate((0, 1)):
            cumulative = mass.sum(axis).cumsum() / mass.sum()
            first, last = np.searchsorted(cumulative, [share / 2, 1 - share / 2])
            corners.append(self.low[dimension] + np.array([first, last + 1]) * self.cell[dimension])
        low, high = np.array(corners).T
        return low, high

    def points(self) -> Array:
        """Return the midpoints, ``[n * n, 2]``."""
        return _midpoints(self.low, self.high, len(self.log_density))


def grid_of(target: Target, draws: Draws, resolution: int = 1000) -> Grid:
    """Evaluate a target of two dimensions on its square, or, if it is not known, on three times the range of the
    samples.
    """
    if target.half_width is not None:
        low, high = np.full(2, -target.half_width), np.full(2, target.half_width)
    else:
        smallest, largest = draws.samples.min(0), draws.samples.max(0)
        low, high = 2 * smallest - largest, 2 * largest - smallest
    return Grid(low, high, on_grid(target, low, high, resolution))


@torch.no_grad()
def on_grid(target: Target, low: Array, high: Array, resolution: int) -> Array:
    """Return the log-density of a target at the midpoints of the cells of a rectangle, ``[n, n]``; -inf is allowed.

    Raises:
        ValueError: when the target is NaN at a point.
    """
    exact, device = _exact(target), target.origin.device
    points = torch.from_numpy(_midpoints(low, high, resolution))
    values = torch.cat([exact(batch.to(device)).double().cpu() for batch in points.split(BATCH_SIZE)])
    if values.isnan().any():
        first = points[values.isnan()][0].numpy().round(3).tolist()
        raise ValueError(
            f"target {target.name}: NaN at {int(values.isnan().sum())} of {len(values)} points, as {first}"
        )
    return values.numpy().reshape(resolution, resolution)


def _midpoints(low: Array, high: Array, resolution: int) -> Array:
    axes = [low[d] + (np.arange(resolution) + 0.5) * (high[d] - low[d]) / resolution for d in (0, 1)]
    return np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)


def describe(draws: Draws, target: Target) -> dict[str, Any]:
    """Return the quality of the fit, in nats, and mean, spread and correlations of the posterior, as plain values."""
    described: dict[str, Any] = {
        "target": target.name,
        "num_dims": target.num_dims,
        "elbo": asdict(draws.elbo),
        "importance": {
            "log_normalizer": asdict(draws.log_normalizer),
            "effective_sample_fraction": draws.effective_fraction,
        },
    }
    if target.num_dims == 2:
        grid, elbo = grid_of(target, draws), draws.elbo
        coarse = Grid(grid.low, grid.high, on_grid(target, grid.low, grid.high, len(grid.log_density) // 2))
        described["quadrature"] = {
            "log_normalizer_nats": grid.log_normalizer,
            "coarse_log_normalizer_nats": coarse.log_normalizer,
            "low": grid.low.tolist(),
            "high": grid.high.tolist(),
            "edge_mass": grid.edge,
        }
        # If the two grids differ, the cells are too large for this target, and the divergence would be wrong.
        if abs(grid.log_normalizer - coarse.log_normalizer) < MAX_GRID_ERROR:
            kl = Estimate(grid.log_normalizer - elbo.nats, elbo.standard_error, elbo.num_points)
            described["kl"] = asdict(kl)
    return described | {
        "dimensions": [
            _describe_dimension(name, x) for name, x in zip(target.dimensions, draws.samples.T, strict=True)
        ],
        "correlation": np.atleast_2d(np.corrcoef(draws.samples.T)).tolist(),
    }


def _describe_dimension(name: str, x: Array) -> dict[str, Any]:
    quantiles = dict(zip(("q05", "q50", "q95"), np.quantile(x, [0.05, 0.5, 0.95]).tolist(), strict=True))
    return {"name": name, "mean": float(x.mean()), "std": float(x.std(ddof=1)), **quantiles}


def _exact(module: Any) -> Any:
    """Return a float64 copy in eval mode."""
    assert isinstance(module, nn.Module)
    return copy.deepcopy(module).double().eval()
