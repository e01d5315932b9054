"""Scores of out-of-distribution images: likelihood, typicality, likelihood corrected for complexity.

All are in bits/dim; a larger score is more anomalous.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from glow.data.read.reader import SplitReader
from glow.evaluation.likelihood import ImageScore
from glow.models.images import reduce_bits
from glow.sampling.groups import aligned_ranges

# Pillow's options of each lossless code. WebP's method 4 is 25 times as fast as 6, and shorter on CIFAR-10.
CODES = {
    "png": {"format": "PNG", "optimize": True},
    "webp": {"format": "WEBP", "lossless": True, "quality": 100, "method": 4},
}
# The axis label of each score.
SCORES = {
    "bits_per_dim": "-log₂ p(x), bits/dim",
    "typicality": "distance from the typical -log₂ p(x), bits/dim",
    "complexity_corrected": "-log₂ p(x) - code length, bits/dim",
}


@dataclass(frozen=True)
class Code:
    """Length of the shortest lossless file of an image, in bits/dim with headers, and the name of its code."""

    bits_per_dim: float
    name: str


@dataclass(frozen=True)
class AnomalyScore:
    """The scores of one image: ``-log2 p(x)`` a dimension, and two scores computed from it."""

    key: str
    bits_per_dim: float
    typicality: float
    complexity_corrected: float
    code: Code

    @staticmethod
    def of(image: ImageScore, code: Code, reference_bits_per_dim: float) -> AnomalyScore:
        """Return the scores of one image.

        Args:
            image: Its likelihood.
            code: Its lossless code.
            reference_bits_per_dim: Estimated entropy of the model: the mean over in-distribution images.

        Source: Nalisnick, Matsukawa, Teh & Lakshminarayanan 2019 (arXiv 1906.02994), the typicality test for one image;
        Serra et al. 2020 (arXiv 1909.11480), section 3, S(x) = -log2 p(x) - L(x).
        """
        bits = image.bits_per_dim
        return AnomalyScore(image.key, bits, abs(bits - reference_bits_per_dim), bits - code.bits_per_dim, code)


def shortest_code(image: np.ndarray, num_bits: int) -> Code:
    """Code the ``2^num_bits`` levels of an image, uint8 ``[C, H, W]``, with each of CODES; return the shortest.

    Raises:
        ValueError: when the image has neither one channel nor three.
    """
    if len(image) not in (1, 3):
        raise ValueError(f"images of {len(image)} channels have no lossless code; images of 1 and 3 channels have")
    levels = reduce_bits(torch.tensor(image), num_bits).numpy()
    picture = Image.fromarray(levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0)))
    codes = []
    for name, options in CODES.items():
        stream = io.BytesIO()
        picture.save(stream, **options)  # type: ignore[arg-type]
        codes.append(Code(8 * len(stream.getvalue()) / image.size, name))
    return min(codes, key=lambda code: code.bits_per_dim)


def shortest_codes(reader: SplitReader, numbers: range, num_bits: int) -> Iterator[Code]:
    """Yield the shortest code of each of these images of a split, in order."""
    for part in aligned_ranges(numbers, 64):
        samples = reader.read(part)
        for number in part:
            yield shortest_code(reader.decode(samples[number]), num_bits)


@dataclass(frozen=True)
class Auroc:
    """Area under the ROC curve and its standard error; None if one of the sets is a single image."""

    auroc: float
    standard_error: float | None

    @staticmethod
    def of(inliers: Sequence[float] | np.ndarray, outliers: Sequence[float] | np.ndarray) -> Auroc:
        """Return the probability that a random outlier scores higher than a random inlier; ties count half.

        The standard error is 0 if the sets do not overlap.

        Source: DeLong, DeLong & Clarke-Pearson 1988, equations 2 to 5: each inlier has a share of the outliers above
        it, each outlier a share of the inliers below it; the variances of these shares give the standard error.
        """
        low, high = np.sort(np.asarray(inliers, dtype=np.float64)), np.sort(np.asarray(outliers, dtype=np.float64))
        below = _ranks(low, high) / len(low)
        above = 1 - _ranks(high, low) / len(high)
        if min(len(low), len(high)) < 2:
            return Auroc(float(below.mean()), None)
        variance = below.var(ddof=1) / len(high) + above.var(ddof=1) / len(low)
        return Auroc(float(below.mean()), float(np.sqrt(variance)))


def _ranks(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return how many of the sorted numbers are smaller than each value; equal numbers count half."""
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
