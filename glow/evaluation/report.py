"""What an evaluation writes: bpd.json, per_image.csv, and report.html, one file that opens offline."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jinja2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from glow.evaluation.classes import Reliability, marginal_bits_per_dim, reliability, summarize_classes
from glow.evaluation.likelihood import Estimate, ImageScore

BLUE, ORANGE, GREY = "#2563a8", "#c2571a", "#8a8f98"


@dataclass(frozen=True)
class Baseline:
    """Bits/dim of another density on the same images with the same noise, one an image; or the reason why not."""

    name: str
    bits_per_dim: Sequence[float] | None
    reason: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Everything a report tells.

    Attributes:
        scores: One for each image of the split.
        facts: What was measured and how: the entries of bpd.json that are not computed from the scores.
        baselines: Densities to compare with.
        extremes: Images (uint8 ``[H, W, 3]`` or ``[H, W]``) of the most and least likely, by key.
        grids: Sample grids by caption, as PNG files.
        metrics: Lines of metrics.jsonl.
    """

    scores: Sequence[ImageScore]
    facts: Mapping[str, Any]
    baselines: Sequence[Baseline] = ()
    extremes: Mapping[str, np.ndarray] = field(default_factory=dict)
    grids: Mapping[str, Path] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()


def extreme_scores(scores: Sequence[ImageScore], count: int = 5) -> tuple[list[ImageScore], list[ImageScore]]:
    """Return the ``count`` most and least likely images."""
    ordered = sorted(scores, key=lambda score: score.bits_per_dim)
    return ordered[:count], ordered[::-1][:count]


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """Return the content of bpd.json; with a non-finite image, ``valid`` is false and the figures are null."""
    values = np.array([score.bits_per_dim for score in evaluation.scores])
    by_class = all(score.log_prob_by_class for score in evaluation.scores)
    class_values = np.array([score.log_prob_by_class for score in evaluation.scores]) if by_class else values
    valid = bool(np.isfinite(values).all() and np.isfinite(class_values).all())
    estimate = Estimate.of(values) if valid else None
    parts = np.mean([score.parts for score in evaluation.scores], axis=0).tolist() if valid else None
    baselines: dict[str, dict[str, float | str | None]] = {}
    for baseline in evaluation.baselines:
        if baseline.bits_per_dim is None:
            baselines[baseline.name] = {"bits_per_dim": None, "reason": baseline.reason}
        elif valid:
            difference = Estimate.of(values - np.asarray(baseline.bits_per_dim))
            baselines[baseline.name] = {
                "bound": "elbo",
                "num_noise_samples": 1,
                "bits_per_dim": Estimate.of(baseline.bits_per_dim).mean,
                "model_minus_baseline": difference.mean,
                "standard_error": difference.standard_error,
            }
    return {
        "bits_per_dim": estimate.mean if estimate else None,
        "standard_error": estimate.standard_error if estimate else None,
        "num_images": len(values),
        **evaluation.facts,
        "classes": summarize_classes(evaluation.scores, evaluation.facts["num_dims"]) if valid and by_class else None,
        "parts": {"dequantisation": parts[0], "levels": parts[1:]} if parts else None,
        "baselines": baselines,
        "valid": valid,
        "invalid_keys": [
            score.key
            for score in evaluation.scores
            if not np.isfinite([score.bits_per_dim, *score.log_prob_by_class]).all()
        ],
    }


def write_report(directory: Path, evaluation: Evaluation) -> dict[str, Any]:
    """Write the three files; return the content of bpd.json."""
    directory.mkdir(parents=True, exist_ok=True)
    summary = summarize(evaluation)
    _write_csv(directory / "per_image.csv", evaluation)
    (directory / "report.html").write_text(_render(evaluation, summary), encoding="utf-8")
    (directory / "bpd.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def _write_csv(path: Path, evaluation: Evaluation) -> None:
    num_levels = len(evaluation.scores[0].parts) - 1
    baselines = [baseline for baseline in evaluation.baselines if baseline.bits_per_dim is not None]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        levels = [f"level_{level + 1}" for level in range(num_levels)]
        classes = ["bits_per_dim_without_label", "predicted"] if evaluation.scores[0].log_prob_by_class else []
        names = [*levels, *(baseline.name for baseline in baselines), *classes]
        writer.writerow(["key", "label", "bits_per_dim", "dequantisation", *names])
        for row, score in enumerate(evaluation.scores):
            others = [repr(float((baseline.bits_per_dim or [])[row])) for baseline in baselines]
            label = "" if score.label is None else score.label
            if classes:
                marginal = marginal_bits_per_dim(score, evaluation.facts["num_dims"])
                others += [repr(marginal), str(int(np.argmax(score.log_prob_by_class)))]
            writer.writerow([score.key, label, repr(score.bits_per_dim), *map(repr, score.parts), *others])


def _render(evaluation: Evaluation, summary: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files("glow.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8"))
    most, least = extreme_scores(evaluation.scores)
    plots: dict[str, str | None] = {"histogram": None, "levels": None, "training": None, "reliability": None}
    if summary["valid"]:
        plots["histogram"] = _svg(_histogram(evaluation))
        plots["levels"] = _svg(_levels(summary["parts"]))
        if summary["classes"]:
            plots["reliability"] = _svg(_reliability(reliability(evaluation.scores)))
    if any("validation/bits_per_dim" in line or "train/bits_per_dim" in line for line in evaluation.metrics):
        plots["training"] = _svg(_training_curve(evaluation.metrics))
    return template.render(
        summary=summary,
        plots=plots,
        most=most,
        least=least,
        pictures={key: _data_url(_png(image), "image/png") for key, image in evaluation.extremes.items()},
        grids={caption: _data_url(path.read_bytes(), "image/png") for caption, path in evaluation.grids.items()},
    )


def _histogram(evaluation: Evaluation) -> Figure:
    figure = Figure(figsize=(6.4, 3), layout="constrained")
    axes = figure.add_subplot()
    series = {"model": np.array([score.bits_per_dim for score in evaluation.scores])}
    series |= {b.name: np.asarray(b.bits_per_dim) for b in evaluation.baselines if b.bits_per_dim is not None}
    bins = np.histogram_bin_edges(np.concatenate(list(series.values())), bins=48).tolist()
    for (name, values), color in zip(series.items(), (BLUE, ORANGE, GREY), strict=False):
        style: Literal["step", "stepfilled"] = "stepfilled" if name == "model" else "step"
        axes.hist(
            values, bins=bins, histtype=style, color=color, alpha=0.85, label=f"{name} (mean {values.mean():.3f})"
        )
    axes.set(xlabel="bits/dim of one image (lower is likelier)", ylabel="images")
    axes.legend(frameon=False)
    return _plain(figure)


def _levels(parts: Mapping[str, Any]) -> Figure:
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


def _reliability(bins: Reliability) -> Figure:
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


def _training_curve(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(6.4, 3), layout="constrained")
    axes = figure.add_subplot()
    shown: list[float] = []
    for name, color in (("train", GREY), ("validation", BLUE)):
        points = [(m["step"], m[f"{name}/bits_per_dim"]) for m in metrics if f"{name}/bits_per_dim" in m]
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=color, label=name, marker="o" if name == "validation" else "", markersize=3)
            shown += values
    # The first steps are far off the scale of everything that follows.
    low, high = min(shown), float(np.quantile(shown, 0.95))
    axes.set_ylim(low - 0.05 * (high - low + 0.1), high + 0.1 * (high - low + 0.1))
    axes.set(xlabel="step", ylabel="bits/dim")
    axes.legend(frameon=False)
    return _plain(figure)


def _plain(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _svg(figure: Figure) -> str:
    """Draw a figure as an image URL; without a date and with a fixed salt of its ids, always the same one."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "glow"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _data_url(buffer.getvalue(), "image/svg+xml")


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _data_url(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
