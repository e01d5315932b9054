"""The results of a race: a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from glow.benchmarking.race import Finish, seconds_to
from glow.evaluation.likelihood import Estimate


def standings(finishes: Mapping[str, Finish]) -> str:
    """Return a Markdown table: each contestant beside the first one, on the same images.

    Args:
        finishes: What each contestant reached; they measured the same images.
    """
    titles = ["contestant", "parameters", "MACs an image", "steps", "CPU s", "bits/dim", "beside the first"]
    titles.append("passes its end after")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    first = next(iter(finishes.values()))
    for name, finish in finishes.items():
        cells = [name, f"{finish.num_parameters:,}", f"{finish.num_macs / 1e6:,.1f} M", f"{finish.num_steps:,}"]
        cells += [f"{finish.cpu_seconds:,.0f}", _describe(Estimate.of(finish.bits_per_dim))]
        if finish is first:
            cells += ["", ""]
        else:
            apart = np.subtract(finish.bits_per_dim, first.bits_per_dim)
            passed = seconds_to(finish.curve, first.curve[-1][2])
            cells += [_describe(Estimate.of(apart), sign="+"), "never" if passed is None else f"{passed:,.0f} s"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _describe(value: Estimate, sign: str = "") -> str:
    return f"{value.mean:{sign}.4f}" + (f" ± {value.standard_error:.4f}" if value.standard_error is not None else "")


def plot(finishes: Mapping[str, Finish]) -> Figure:
    """Draw bits/dim on the way over CPU time."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, finish in finishes.items():
        seconds, _, values = zip(*finish.curve, strict=True)
        axes.plot(seconds, values, marker=".", label=f"{name} ({np.mean(finish.bits_per_dim):.3f})")
    ends = [value for finish in finishes.values() for _, _, value in finish.curve[1:]]
    axes.set_ylim(min(ends) - 0.05, np.quantile(ends, 0.9) + 0.3)
    axes.set(xlabel="CPU time in seconds", ylabel="bits/dim of held-out images (lower is better)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure
