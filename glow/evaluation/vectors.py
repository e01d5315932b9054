"""Measure and draw a flow of vectors: KL divergence, likelihood, pictures."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from glow.data.vectors.densities import Density
from glow.data.vectors.points import VectorData
from glow.models.flow import Flow
from glow.randomness import generator

BATCH_SIZE = 10_000
Array = np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A mean over vectors, in nats, its standard error, and the number of vectors."""

    nats: float
    standard_error: float
    num_points: int

    def __str__(self) -> str:
        return f"{self.nats:.4f} ± {self.standard_error:.4f} nats"

    @staticmethod
    def of(values: Array) -> Estimate:
        """Average the values, one for each vector."""
        return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))), len(values))


@dataclass(frozen=True)
class Comparison:
    """A flow beside its data.

    Attributes:
        held_out: Mean log-density of held-out vectors.
        kl: ``KL(data || flow)``; None if the density of the data is not known.
    """

    held_out: Estimate
    kl: Estimate | None

    def describe(self) -> dict[str, Any]:
        """Return the entries of samples.json."""
        described = {"held_out_log_prob": asdict(self.held_out)}
        return described if self.kl is None else described | {"kl": asdict(self.kl)}

    def __str__(self) -> str:
        lines = [f"log p(x) of held-out vectors: {self.held_out}"]
        return "\n".join(lines if self.kl is None else [*lines, f"KL(data || flow): {self.kl}"])


def compare_with_data(flow: Flow, data: VectorData, num_kl_points: int, seed: int) -> Comparison:
    """Measure a flow on held-out vectors, and on ``num_kl_points`` new draws of the density if that is known."""
    held_out = Estimate.of(log_prob(flow, data.held_out))
    if data.density is None:
        return Comparison(held_out, None)
    points = data.density.sample(generator(data.config.seed, "kl", seed), num_kl_points)
    return Comparison(held_out, kl_divergence(flow, data.density, points))


def kl_divergence(flow: Flow, density: Density, points: Array) -> Estimate:
    """Estimate ``KL(density || flow) = E[log density(x) - log flow(x)]`` from draws ``[N, D]`` of the density."""
    points = points.astype(np.float64)
    return Estimate.of(density.log_prob(points) - log_prob(flow, points))


@torch.no_grad()
def log_prob(flow: Flow, points: Array) -> Array:
    """Return the log-density of a flow at points ``[N, D]``: ``[N]``, nats, computed in float64 and in eval mode."""
    device = next(flow.parameters()).device
    exact = copy.deepcopy(flow).double().eval()
    batches = torch.from_numpy(points.astype(np.float64)).split(BATCH_SIZE)
    return torch.cat([exact.log_prob(batch.to(device)).cpu() for batch in batches]).numpy()


def plot_comparison(flow: Flow, data: VectorData, samples: Array) -> dict[str, Figure]:
    """Draw samples beside data, and densities, by file name; densities of two dimensions only, nothing of one."""
    figures = {}
    if flow.num_dims > 1:
        figures["samples.png"] = plot_points(data.points, samples)
    if flow.num_dims == 2:
        figures["density.png"] = plot_density(flow, data.points, data.density)
    return figures


def plot_points(points: Array, samples: Array) -> Figure:
    """Draw data and samples side by side: the first two dimensions of ``[N, D]``."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    low, high = extent(points)
    for axes, title, shown in zip(
        figure.subplots(1, 2), ("data", "samples of the flow"), (points, samples), strict=True
    ):
        axes.scatter(shown[:, 0], shown[:, 1], s=2, alpha=0.4, linewidths=0)
        axes.set(title=title, xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    return figure


def plot_density(flow: Flow, points: Array, density: Density | None, resolution: int = 300) -> Figure:
    """Draw the density of a flow in the area of the data ``[N, 2]``, beside the true density if it is known."""
    low, high = extent(points)
    axis = [np.linspace(low[d], high[d], resolution) for d in (0, 1)]
    grid = np.stack(np.meshgrid(*axis), axis=-1).reshape(-1, 2)
    shown: list[tuple[str, Callable[[Array], Array]]] = [("density of the flow", lambda x: log_prob(flow, x))]
    if density is not None:
        shown.insert(0, ("true density", density.log_prob))
    values = [np.exp(function(grid)).reshape(resolution, resolution) for _, function in shown]
    figure = Figure(figsize=(4 * len(shown) + 0.8, 4), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (title, _), value in zip(panels, shown, values, strict=True):
        # Both use the scale of the first.
        image = axes.imshow(
            value,
            extent=(low[0], high[0], low[1], high[1]),
            origin="lower",
            cmap="viridis",
            vmin=0,
            vmax=values[0].max(),
        )
        axes.set(title=title)
    figure.colorbar(image, ax=list(panels), shrink=0.8)
    return figure


def picture(figure: Figure) -> Array:
    """Return a figure as uint8 ``[H, W, 3]``."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def extent(points: Array) -> tuple[Array, Array]:
    """Return two corners around the first two dimensions of 99.9% of the points, with a margin of a tenth."""
    low, high = np.quantile(points[:, :2].astype(np.float64), [0.0005, 0.9995], axis=0)
    margin = 0.1 * (high - low)
    return low - margin, high + margin
