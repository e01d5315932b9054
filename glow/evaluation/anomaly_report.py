"""The files of scored images: scores.csv with a row for each image, scores.json, and scores.png with histograms."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from glow.evaluation.anomaly import SCORES, AnomalyScore, Auroc, Code
from glow.evaluation.figures import BLUE, ORANGE, png
from glow.evaluation.likelihood import Estimate, ImageScore
from glow.evaluation.table import cell
from glow.files.writing import to_utf8, write_together

NUM_BINS = 40


@dataclass(frozen=True)
class ScoredSet:
    """The scores of a set of images, and the entries of scores.json about the set (``name`` and more)."""

    facts: Mapping[str, Any]
    scores: Sequence[AnomalyScore]

    @staticmethod
    def of(
        facts: Mapping[str, Any], likelihoods: Sequence[ImageScore], codes: Sequence[Code], typical: float
    ) -> ScoredSet:
        """Combine the likelihood and the code of each image; ``typical`` is the bits/dim of in-distribution images."""
        pairs = zip(likelihoods, codes, strict=True)
        return ScoredSet(facts, [AnomalyScore.of(likelihood, code, typical) for likelihood, code in pairs])

    @property
    def name(self) -> str:
        """What the set is called."""
        return self.facts["name"]

    def values(self, score: str) -> np.ndarray:
        """Return one of SCORES of every image."""
        return np.array([getattr(image, score) for image in self.scores])

    def summarize(self) -> dict[str, Any]:
        """Return the entries of scores.json about the set: facts, and means with their standard errors."""
        means = {score: asdict(Estimate.of(self.values(score))) for score in SCORES}
        means["code_bits_per_dim"] = asdict(Estimate.of([image.code.bits_per_dim for image in self.scores]))
        return {**self.facts, **means}


def areas(data: ScoredSet, outliers: ScoredSet) -> dict[str, Auroc]:
    """Return the AUROC of each score."""
    return {score: Auroc.of(data.values(score), outliers.values(score)) for score in SCORES}


def write_scores(
    directory: Path, data: ScoredSet, outliers: Sequence[ScoredSet], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the three files; return the content of scores.json, which begins with ``facts``."""
    compared = [
        {**other.summarize(), "auroc": {score: asdict(area) for score, area in areas(data, other).items()}}
        for other in outliers
    ]
    summary = {**facts, "data": data.summarize(), "outliers": compared}
    write_together({
        directory / "scores.csv": _csv([data, *outliers]),
        directory / "scores.png": png(_histograms(data, outliers), 100),
        directory / "scores.json": json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    })  # fmt: skip
    return summary


def summary_text(summary: Mapping[str, Any]) -> str:
    """Return the means of each set, and the AUROC of each score for the outliers, as text."""
    lines = []
    for scored in (summary["data"], *summary["outliers"]):
        mean, length = scored["bits_per_dim"]["mean"], scored["code_bits_per_dim"]["mean"]
        lines.append(
            f"{scored['name']}: {scored['num_images']} images, {mean:.4f} bits/dim by the model, "
            f"{length:.4f} as PNG or WebP"
        )
        for score, area in scored.get("auroc", {}).items():
            error = area["standard_error"]
            lines.append(f"  AUROC of {score}: {area['auroc']:.4f}" + ("" if error is None else f" ± {error:.4f}"))
    return "\n".join(lines)


def _csv(sets: Sequence[ScoredSet]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["set", "key", *SCORES, "code_bits_per_dim", "code"])
    for scored in sets:
        for image in scored.scores:
            numbers = [*(getattr(image, score) for score in SCORES), image.code.bits_per_dim]
            writer.writerow([cell(scored.name), cell(image.key), *map(repr, numbers), image.code.name])
    return stream.getvalue()


def _histograms(data: ScoredSet, outliers: Sequence[ScoredSet]) -> Figure:
    """Draw a column for each score and a row for each set of outliers; one row of the data if there are none.

    The first and the last bin also count the values beyond them.
    """
    rows: list[ScoredSet | None] = list(outliers) or [None]
    figure = Figure(figsize=(11, 0.6 + 2.4 * len(rows)), layout="constrained")
    for axes_row, other in zip(figure.subplots(len(rows), len(SCORES), squeeze=False), rows, strict=True):
        for axes, score in zip(axes_row, SCORES, strict=True):
            series = [(data.name, data.values(score), BLUE)]
            if other is not None:
                series.append((other.name, other.values(score), ORANGE))
                axes.set_title(f"AUROC {areas(data, other)[score].auroc:.3f}", fontsize=10)
            low, high = _shown(series[0][1])
            shown = [np.clip(values, low, high) for _, values, _ in series]
            edges = np.histogram_bin_edges(np.concatenate(shown), bins=NUM_BINS).tolist()
            for (name, _, color), values in zip(series, shown, strict=True):
                shares = np.full(len(values), 1 / len(values))
                label = to_utf8(name).decode().replace("$", r"\$")  # $ begins a formula
                axes.hist(values, edges, weights=shares, histtype="stepfilled", color=color, alpha=0.6, label=label)
            axes.spines[["top", "right"]].set_visible(False)
            if other is rows[-1]:
                axes.set_xlabel(SCORES[score])
        axes_row[0].set_ylabel("share of images")
        axes_row[0].legend(frameon=False, fontsize=9)
    return figure


def _shown(values: np.ndarray) -> tuple[float, float]:
    """Return the range of the figure: that of the data, with margins that leave the bins of the data visible."""
    low, high = float(values.min()), float(values.max())
    margin = 1.5 * (high - low) + 1e-3
    return low - margin, high + margin
