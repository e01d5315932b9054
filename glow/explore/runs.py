"""What a run directory tells of its training."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from glow.evaluation.figures import plot_training_curve
from glow.explore.measures import picture_of
from glow.files.limits import JSON_BYTES
from glow.files.reading import parse_json, read_file
from glow.training.metrics import read_metrics

MAX_REPORTS = 50
COLUMNS = ["report", "bits/dim", "± standard error", "images", "bound"]


def training_curve(run: Path) -> Image.Image | None:
    """Return the curves of training and validation, or None where the directory has none."""
    metrics = read_metrics(run)
    return picture_of(plot_training_curve(metrics)) if metrics else None


def reports(run: Path) -> list[list[str]]:
    """Return a row of COLUMNS for each evaluation of a run; one that cannot be read says so."""
    rows = []
    for path in sorted(run.glob("report/*/bpd.json"))[:MAX_REPORTS]:
        try:
            found = parse_json(read_file(path, JSON_BYTES), str(path))
            values = [found[key] for key in ("bits_per_dim", "standard_error", "num_images", "bound")]
            rows.append([path.parent.name, *(_short(value) for value in values)])
        except (ValueError, OSError, LookupError, TypeError):
            rows.append([path.parent.name, "cannot be read", "", "", ""])
    return rows


def _short(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)[:40]
