"""Pictures of a fit: densities side by side, or marginal densities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from glow.evaluation.vectors import Array, log_prob
from glow.inference.posterior import Draws, Grid, grid_of, on_grid
from glow.inference.targets import Target
from glow.models.flow import Flow

MAX_PANELS = 36


def plot_posterior(draws: Draws, flow: Flow, target: Target) -> Figure:
    """Draw target and fit side by side in two dimensions; otherwise the marginal densities of the fit."""
    return plot_fit(draws, flow, target) if target.num_dims == 2 else plot_marginals(draws, target.dimensions)


def plot_fit(draws: Draws, flow: Flow, target: Target, resolution: int = 200) -> Figure:
    """Draw the densities of target and flow on one colour scale."""
    figure = Figure(figsize=(8.8, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    low, high = grid_of(target, draws, 300).extent()
    shown = densities(flow, target, Grid(low, high, on_grid(target, low, high, resolution)))
    for axes, title, value in zip(panels, (f"target {target.name}", "flow"), shown, strict=True):
        bounds = (low[0], high[0], low[1], high[1])
        image = axes.imshow(value, extent=bounds, origin="lower", vmin=0, vmax=shown[0].max(), cmap="viridis")
        axes.set(title=title, xlabel=target.dimensions[0], ylabel=target.dimensions[1])
    figure.colorbar(image, ax=list(panels), shrink=0.8)
    return figure


def densities(flow: Flow, target: Target, grid: Grid) -> tuple[Array, Array]:
    """Return the densities of target and flow on a grid, ``[n, n]`` each; that of the target is normalised there."""
    fitted = np.exp(log_prob(flow, grid.points())).reshape(grid.log_density.shape)
    return np.exp(grid.log_density - grid.log_normalizer), fitted


def plot_marginals(draws: Draws, names: Sequence[str]) -> Figure:
    """Draw a histogram of each dimension, at most the first 36."""
    count = min(len(names), MAX_PANELS)
    columns = min(6, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.2 * columns, 1.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name, x in zip(panels[:count], names[:count], draws.samples.T[:count], strict=True):
        axes.hist(x, bins=80, range=tuple(np.quantile(x, [0.0005, 0.9995])), density=True, color="C0")
        axes.axvline(0, color="0.6", linewidth=0.8)
        axes.set_title(name, fontsize=8)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure
