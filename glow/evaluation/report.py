"""The files of an evaluation: bpd.json, per_image.csv, and report.html, one file that opens offline."""

from __future__ import annotations

import base64
import csv
import datetime
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from glow.data.read.reader import SplitReader
from glow.evaluation.baselines import Baseline
from glow.evaluation.classes import marginal_bits_per_dim, reliability, summarize_classes
from glow.evaluation.figures import plot_histogram, plot_levels, plot_reliability, plot_training_curve, svg
from glow.evaluation.likelihood import Estimate, ImageScore
from glow.evaluation.table import cell
from glow.files.writing import write_together
from glow.sampling.images import image_grid


@dataclass(frozen=True)
class Evaluation:
    """Everything that a report shows.

    Attributes:
        scores: One for each image of the split.
        facts: What was measured, and how: the entries of bpd.json that are not computed from the scores.
        baselines: Simple densities to compare with.
        extremes: Images (uint8 ``[H, W, 3]`` or ``[H, W]``) of the most and least likely, by key.
        grids: Grids of real images and of samples by caption: PNG, or PNG files.
        metrics: Lines of metrics.jsonl.
    """

    scores: Sequence[ImageScore]
    facts: Mapping[str, Any]
    baselines: Sequence[Baseline] = ()
    extremes: Mapping[str, np.ndarray] = field(default_factory=dict)
    grids: Mapping[str, bytes | Path] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()


def extreme_scores(scores: Sequence[ImageScore], count: int = 5) -> tuple[list[ImageScore], list[ImageScore]]:
    """Return the ``count`` most and least likely images."""
    ordered = sorted(scores, key=lambda score: score.bits_per_dim)
    return ordered[:count], ordered[::-1][:count]


def extreme_images(reader: SplitReader, scores: Sequence[ImageScore]) -> dict[str, np.ndarray]:
    """Return the most and least likely images of a split by key: uint8 ``[H, W, 3]`` or ``[H, W]``.

    Args:
        reader: The split.
        scores: One for each of its images, in order.
    """
    most, least = extreme_scores(scores)
    keys = {score.key for score in (*most, *least)}
    images = {}
    for number, score in enumerate(scores):
        if score.key in keys:
            image = reader.decode(reader.read([number])[number])
            images[score.key] = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    return images


def real_grid(images: Tensor) -> bytes:
    """Return uint8 images ``[N, C, H, W]`` as a PNG, arranged and enlarged as the grids of samples are."""
    return _png(image_grid(images))


def headline(summary: Mapping[str, Any]) -> str:
    """Return the result of a valid bpd.json as one line."""
    mean, error, count = summary["bits_per_dim"], summary["standard_error"], summary["num_images"]
    images = f"{count} images of {summary['dataset']['name']}:{summary['dataset']['split']}"
    if error is None:
        return f"{mean:.4f} bits/dim ({images})"
    return f"{mean:.4f} ± {error:.4f} bits/dim (mean ± standard error, {images})"


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """Return the content of bpd.json; with a non-finite image, ``valid`` is false and the figures are null."""
    scores, baselines = evaluation.scores, evaluation.baselines
    invalid = [score.key for score in scores if not np.isfinite([score.bits_per_dim, *score.log_prob_by_class]).all()]
    valid = not invalid
    values = np.array([score.bits_per_dim for score in scores])
    estimate = Estimate.of(values) if valid else None
    parts = np.mean([score.parts for score in scores], axis=0).tolist() if valid else None
    by_class = valid and all(score.log_prob_by_class for score in scores)
    return {
        "bits_per_dim": estimate.mean if estimate else None,
        "standard_error": estimate.standard_error if estimate else None,
        "num_images": len(values),
        **evaluation.facts,
        "classes": summarize_classes(scores, evaluation.facts["num_dims"]) if by_class else None,
        "parts": {"dequantisation": parts[0], "levels": parts[1:]} if parts else None,
        "baselines": {each.name: _compare(values, each) for each in baselines if valid or each.bits_per_dim is None},
        "valid": valid,
        "invalid_keys": invalid,
    }


def _compare(values: np.ndarray, baseline: Baseline) -> dict[str, Any]:
    """Return the entry of bpd.json about a baseline, given the bits/dim of the images under the model."""
    if baseline.bits_per_dim is None:
        return {"bits_per_dim": None, "reason": baseline.reason}
    difference = Estimate.of(values - np.asarray(baseline.bits_per_dim))
    return {
        "bound": "elbo",
        "num_noise_samples": 1,
        "bits_per_dim": Estimate.of(baseline.bits_per_dim).mean,
        "model_minus_baseline": difference.mean,
        "standard_error": difference.standard_error,
    }


def write_report(directory: Path, evaluation: Evaluation) -> dict[str, Any]:
    """Write the three files; return the content of bpd.json."""
    summary = summarize(evaluation)
    write_together({
        directory / "per_image.csv": _csv(evaluation),
        directory / "report.html": _render(evaluation, summary),
        directory / "bpd.json": json.dumps(summary, indent=1) + "\n",
    })  # fmt: skip
    return summary


def verdict(summary: Mapping[str, Any]) -> str:
    """Return what a valid bpd.json means, in one sentence: whether the model is better than the baselines."""
    measured = {name: each for name, each in summary["baselines"].items() if each["bits_per_dim"] is not None}
    if not measured:
        return "No baseline was measured, so there is nothing to compare with."
    name, best = min(measured.items(), key=lambda item: item[1]["bits_per_dim"])
    difference, error = best["model_minus_baseline"], best["standard_error"]
    by = f"{abs(difference):.3f} bits/dim"
    if error is None or abs(difference) <= 2 * error:
        return f"These images do not tell whether the model is better than the best baseline ({name}): measure more."
    if difference > 0:
        return f"Warning: a simple baseline ({name}) is better by {by}; train longer, or a larger model."
    return f"The model is better than the best baseline ({name}) by {by}."


def _csv(evaluation: Evaluation) -> str:
    num_levels = len(evaluation.scores[0].parts) - 1
    baselines = [baseline for baseline in evaluation.baselines if baseline.bits_per_dim is not None]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
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
        writer.writerow([cell(score.key), label, repr(score.bits_per_dim), *map(repr, score.parts), *others])
    return stream.getvalue()


def _render(evaluation: Evaluation, summary: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files("glow.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8"))
    most, least = extreme_scores(evaluation.scores)
    plots: dict[str, str | None] = {"histogram": None, "levels": None, "training": None, "reliability": None}
    if summary["valid"]:
        plots["histogram"] = _picture(plot_histogram(evaluation.scores, evaluation.baselines))
        plots["levels"] = _picture(plot_levels(summary["parts"]))
        if summary["classes"]:
            plots["reliability"] = _picture(plot_reliability(reliability(evaluation.scores)))
    if any("validation/bits_per_dim" in line or "train/bits_per_dim" in line for line in evaluation.metrics):
        plots["training"] = _picture(plot_training_curve(evaluation.metrics))
    return template.render(
        summary=summary,
        verdict=verdict(summary) if summary["valid"] else "",
        date=datetime.date.today().isoformat(),
        plots=plots,
        most=most,
        least=least,
        pictures={key: _data_url(_png(image), "image/png") for key, image in evaluation.extremes.items()},
        grids={
            caption: _data_url(grid.read_bytes() if isinstance(grid, Path) else grid, "image/png")
            for caption, grid in evaluation.grids.items()
        },
    )


def _picture(figure: Figure) -> str:
    return _data_url(svg(figure), "image/svg+xml")


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _data_url(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
