"""One image beside those of the test split: scores, and a histogram."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from glow.evaluation.anomaly import SCORES, AnomalyScore, shortest_code
from glow.evaluation.figures import BLUE, ORANGE
from glow.evaluation.likelihood import ImageScore

LOSSLESS = (1, 3)  # channels of images that have a lossless code


def anomaly_scores(images: Tensor, bits: Sequence[float], reference: float, num_bits: int) -> list[AnomalyScore]:
    """Return the anomaly scores of uint8 images ``[N, C, H, W]``; none where images of C channels have no code.

    Args:
        images: The images.
        bits: Bits/dim of each.
        reference: Mean bits/dim of usual images.
        num_bits: Bits that the model sees.
    """
    if images.shape[1] not in LOSSLESS:
        return []
    return [
        AnomalyScore.of(ImageScore("", None, value, ()), shortest_code(image.numpy(), num_bits), reference)
        for image, value in zip(images, bits, strict=True)
    ]


def compare(own: AnomalyScore, usual: Sequence[AnomalyScore]) -> list[list[str]]:
    """Return a row for each score: its name, its value, and the share of usual images that are less anomalous."""
    rows = []
    for name in SCORES:
        value, others = getattr(own, name), [getattr(score, name) for score in usual]
        share = sum(other < value for other in others) / len(others)
        rows.append([name.replace("_", " "), f"{value:.3f}", f"{share:.0%} of {len(others)}"])
    return rows


def beside_histogram(usual: Sequence[float], value: float) -> Image.Image:
    """Return a histogram of bits/dim with a line at that of one image."""
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(usual, bins=30, color=BLUE, alpha=0.85, label=f"{len(usual)} test images")
    axes.axvline(value, color=ORANGE, linewidth=2, label="this image")
    axes.set(xlabel="bits/dim (lower is likelier)", ylabel="images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return picture_of(figure)


def picture_of(figure: Figure) -> Image.Image:
    """Return a figure as a picture."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return Image.open(stream)
