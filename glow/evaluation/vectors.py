"""What a flow of vectors is measured by and looks like: KL divergence, likelihood, and pictures."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from glow.data.vectors.densities import Density
from glow.models.flow import Flow

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
        """Average one value a vector."""
        return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))), len(values))


def kl_divergence(flow: Flow, density: Density, points: Array) -> Estimate:
    """Estimate ``KL(density || flow) = E[log density(x) - log flow(x)]`` by vectors ``[N, D]`` drawn of the density."""
    points = points.astype(np.float64)
    return Estimate.of(density.log_prob(points) - log_prob(flow, points))


@torch.no_grad()
def log_prob(flow: Flow, points: Array) -> Array:
    """Return the log-density of a flow at ``[N, D]``: ``[N]``, in nats, computed in float64 and in eval mode."""
    device = next(flow.parameters()).device
    exact = copy.deepcopy(flow).double().eval()
    batches = torch.from_numpy(points.astype(np.float64)).split(BATCH_SIZE)
    return torch.cat([exact.log_prob(batch.to(device)).cpu() for batch in batches]).numpy()


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
    """Draw the density of a flow where the data ``[N, 2]`` lies, beside the true one if it is known."""
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
        # One scale for both, that of the first.
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
    """Return the corners of where the first two dimensions of all but a thousandth lie, and a tenth more."""
    low, high = np.quantile(points[:, :2].astype(np.float64), [0.0005, 0.9995], axis=0)
    margin = 0.1 * (high - low)
    return low - margin, high + margin
