"""The figures of a report."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from glow.evaluation.baselines import Baseline
from glow.evaluation.classes import Reliability
from glow.evaluation.likelihood import ImageScore

BLUE, ORANGE, GREY = "#2563a8", "#c2571a", "#8a8f98"


def plot_histogram(scores: Sequence[ImageScore], baselines: Sequence[Baseline]) -> Figure:
    """Draw the bits/dim of the images under the model and under the baselines."""
    figure = Figure(figsize=(6.4, 3), layout="constrained")
    axes = figure.add_subplot()
    series = {"model": np.array([score.bits_per_dim for score in scores])}
    series |= {b.name: np.asarray(b.bits_per_dim) for b in baselines if b.bits_per_dim is not None}
    bins = np.histogram_bin_edges(np.concatenate(list(series.values())), bins=48).tolist()
    for (name, values), color in zip(series.items(), (BLUE, ORANGE, GREY), strict=False):
        style: Literal["step", "stepfilled"] = "stepfilled" if name == "model" else "step"
        axes.hist(
            values, bins=bins, histtype=style, color=color, alpha=0.85, label=f"{name} (mean {values.mean():.3f})"
        )
    axes.set(xlabel="bits/dim of one image (lower is likelier)", ylabel="images")
    axes.legend(frameon=False)
    return _plain(figure)


def plot_levels(parts: Mapping[str, Any]) -> Figure:
    """Draw the contributions of dequantisation and of each level to the bits/dim, ``parts`` of bpd.json."""
    values = [parts["dequantisation"], *parts["levels"]]
    names = ["dequantisation", *(f"level {number + 1}" for number in range(len(parts["levels"])))]
    figure = Figure(figsize=(6.4, 0.5 * len(values) + 0.8), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(names, values, color=[GREY] + [BLUE] * (len(values) - 1))
    axes.bar_label(bars, fmt="%.3f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set(xlabel="contribution in bits/dim (they add up to the total)")
    return _plain(figure)


def plot_reliability(bins: Reliability) -> Figure:
    """Draw how often the most probable class is right, over its probability."""
    figure = Figure(figsize=(6.4, 3), layout="constrained")
    axes = figure.add_subplot()
    width = bins.edges[1] - bins.edges[0]
    axes.bar(bins.edges[:-1], np.nan_to_num(bins.accuracies), width, align="edge", color=BLUE, edgecolor="white")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    for edge, count, accuracy in zip(bins.edges, bins.counts, np.nan_to_num(bins.accuracies), strict=False):
        if count:
            axes.annotate(f"{count:,}", (edge + width / 2, accuracy), ha="center", va="bottom", fontsize=8)
    axes.set(xlabel="probability of the most probable class", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.1))
    return _plain(figure)


def plot_training_curve(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the bits/dim of training and validation over the steps, given the lines of metrics.jsonl."""
    figure = Figure(figsize=(6.4, 3), layout="constrained")
    axes = figure.add_subplot()
    shown: list[float] = []
    for name, color in (("train", GREY), ("validation", BLUE)):
        points = [(m["step"], m.get(f"{name}/bits_per_dim")) for m in metrics]
        points = [(step, value) for step, value in points if isinstance(value, int | float) and math.isfinite(value)]
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=color, label=name, marker="o" if name == "validation" else "", markersize=3)
            shown += values
    # The first values are much higher than all others.
    if shown:
        low, high = min(shown), float(np.quantile(shown, 0.95))
        axes.set_ylim(low - 0.05 * (high - low + 0.1), high + 0.1 * (high - low + 0.1))
        axes.legend(frameon=False)
    axes.set(xlabel="step", ylabel="bits/dim")
    return _plain(figure)


def _plain(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def png(figure: Figure, dpi: int = 120) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG; without a date and with fixed ids, it is always the same."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "glow"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
