"""What scoring images writes: scores.csv, one row an image, scores.json, and scores.png, the histograms."""

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

from glow.evaluation.anomaly import SCORES, AnomalyScore, Auroc
from glow.evaluation.likelihood import Estimate
from glow.evaluation.report import BLUE, ORANGE

NUM_BINS = 40


@dataclass(frozen=True)
class ScoredSet:
    """The scores of a set of images, and what scores.json tells of where they lie (``name`` and more)."""

    facts: Mapping[str, Any]
    scores: Sequence[AnomalyScore]

    @property
    def name(self) -> str:
        """What the set is called."""
        return self.facts["name"]

    def values(self, score: str) -> np.ndarray:
        """Return one of SCORES of every image."""
        return np.array([getattr(image, score) for image in self.scores])

    def summarize(self) -> dict[str, Any]:
        """Return what scores.json tells of the set: means and their standard errors."""
        means = {score: asdict(Estimate.of(self.values(score))) for score in SCORES}
        means["code_bits_per_dim"] = asdict(Estimate.of([image.code.bits_per_dim for image in self.scores]))
        return {**self.facts, **means}


def areas(data: ScoredSet, outliers: ScoredSet) -> dict[str, Auroc]:
    """Return the AUROC of each score."""
    return {score: Auroc.of(data.values(score), outliers.values(score)) for score in SCORES}


def write_scores(
    directory: Path, data: ScoredSet, outliers: Sequence[ScoredSet], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the three files; return the content of scores.json, to which ``facts`` belong too."""
    compared = [
        {**other.summarize(), "auroc": {score: asdict(area) for score, area in areas(data, other).items()}}
        for other in outliers
    ]
    summary = {**facts, "data": data.summarize(), "outliers": compared}
    # Nothing is written before there is everything to write.
    contents = {
        "scores.csv": _csv([data, *outliers]).encode(),
        "scores.png": _png(_histograms(data, outliers)),
        "scores.json": (json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return summary


def _csv(sets: Sequence[ScoredSet]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["set", "key", *SCORES, "code_bits_per_dim", "code"])
    for scored in sets:
        for image in scored.scores:
            numbers = [*(getattr(image, score) for score in SCORES), image.code.bits_per_dim]
            writer.writerow([scored.name, image.key, *map(repr, numbers), image.code.name])
    return stream.getvalue()


def _histograms(data: ScoredSet, outliers: Sequence[ScoredSet]) -> Figure:
    """Draw a column for each score and a row for each set of outliers, or one of the data alone.

    What lies far outside of the data is counted in the first or last bin.
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
                axes.hist(values, edges, weights=shares, histtype="stepfilled", color=color, alpha=0.6, label=name)
            axes.spines[["top", "right"]].set_visible(False)
            if other is rows[-1]:
                axes.set_xlabel(SCORES[score])
        axes_row[0].set_ylabel("share of images")
        axes_row[0].legend(frameon=False, fontsize=9)
    return figure


def _shown(values: np.ndarray) -> tuple[float, float]:
    """Return which scores are shown: those of the data, and so much on both sides that its bins remain visible."""
    low, high = float(values.min()), float(values.max())
    margin = 1.5 * (high - low) + 1e-3
    return low - margin, high + margin


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()
