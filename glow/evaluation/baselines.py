"""Baselines: simple densities fitted to the train split, a full-covariance Gaussian and a histogram for each pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from glow.console import track
from glow.data.read.batch import Batch
from glow.data.read.loader import eval_batches
from glow.data.read.reader import SplitReader
from glow.models.images import reduce_bits

MAX_GAUSSIAN_DIMS = 4096
BATCH_SIZE = 256


@dataclass(frozen=True)
class Baseline:
    """Bits/dim of each image under another density, with the same noise; None, and a reason, if it was not fitted."""

    name: str
    bits_per_dim: Sequence[float] | None
    reason: str = ""


def fit_baselines(reader: SplitReader, num_bits: int, seed: int, num_images: int | None = None) -> list[Baseline]:
    """Fit the baselines to the train split of a data set, and measure them on a split of it.

    Args:
        reader: The split to measure.
        num_bits: Bit depth of the model.
        seed: Of the dequantisation noise; that of the measured split is draw 0 of an evaluation.
        num_images: How many images to measure, from the beginning of the split; None for all.
    """
    train = SplitReader(reader.directory, "train", reader.root, reader.size)
    train.verify()
    num_dims = math.prod(reader.shape)
    if num_dims > MAX_GAUSSIAN_DIMS:
        gaussian = Baseline("Gaussian", None, f"{num_dims} dimensions, more than {MAX_GAUSSIAN_DIMS}")
    elif len(train) <= num_dims:
        gaussian = Baseline("Gaussian", None, f"only {len(train)} training images for {num_dims} dimensions")
    else:
        fitted = GaussianBaseline(_batches(train, "Gaussian", seed), num_bits)
        gaussian = _measure("Gaussian", fitted.bits_per_dim, _batches(reader, "Gaussian", seed, num_images))
    histogram = HistogramBaseline(_batches(train, "histogram", seed), num_bits, num_dims)
    name = "histogram of each pixel"
    return [gaussian, _measure(name, histogram.bits_per_dim, _batches(reader, "histogram", seed, num_images))]


def _measure(name: str, bits_per_dim: Callable[[Batch], np.ndarray], batches: Iterable[Batch]) -> Baseline:
    return Baseline(name, np.concatenate([bits_per_dim(batch) for batch in batches]).tolist())


def _batches(split: SplitReader, title: str, seed: int, num_images: int | None = None) -> Iterable[Batch]:
    total = -(-min(len(split), num_images or len(split)) // BATCH_SIZE)
    return track(eval_batches(split, BATCH_SIZE, seed, num_images=num_images), total, "batch", title)


class GaussianBaseline:
    """A Gaussian with full covariance fitted to dequantised images, in units of one level; computed in float64."""

    def __init__(self, batches: Iterable[Batch], num_bits: int) -> None:
        self.num_bits = num_bits
        count, total, outer = 0, np.zeros(1), np.zeros((1, 1))
        shift: np.ndarray | None = None
        for batch in batches:
            x = self._points(batch)
            # Sums of squares about a point near the mean, so that subtracting them later loses nothing.
            shift = x.mean(0) if shift is None else shift
            x = x - shift
            count, total, outer = count + len(x), total + x.sum(0), outer + x.T @ x
        assert shift is not None
        mean = total / count
        self.mean = shift + mean
        self._cholesky = np.linalg.cholesky(outer / count - np.outer(mean, mean))

    def bits_per_dim(self, batch: Batch) -> np.ndarray:
        """Return bits/dim of each image with its noise, ``[N]``."""
        x = self._points(batch) - self.mean
        whitened = np.linalg.solve(self._cholesky, x.T)
        num_dims = len(self.mean)
        log_prob = (
            -0.5 * (whitened**2).sum(0) - np.log(np.diag(self._cholesky)).sum() - num_dims / 2 * math.log(2 * math.pi)
        )
        return -log_prob / (num_dims * math.log(2))

    def _points(self, batch: Batch) -> np.ndarray:
        levels = reduce_bits(batch.images, self.num_bits).double() + batch.noise.double()
        return levels.flatten(1).numpy()


class HistogramBaseline:
    """An independent distribution over the levels for each pixel and channel; every count starts at one."""

    def __init__(self, batches: Iterable[Batch], num_bits: int, num_dims: int) -> None:
        self.num_bits = num_bits
        counts = np.ones((num_dims, 2**num_bits))
        for batch in batches:
            for row in self._levels(batch):
                counts[np.arange(num_dims), row] += 1
        self._bits = -np.log2(counts / counts.sum(1, keepdims=True))

    def bits_per_dim(self, batch: Batch) -> np.ndarray:
        """Return bits/dim of each image, ``[N]``."""
        levels = self._levels(batch)
        return self._bits[np.arange(levels.shape[1]), levels].mean(1)

    def _levels(self, batch: Batch) -> np.ndarray:
        return reduce_bits(batch.images, self.num_bits).flatten(1).numpy().astype(np.intp)
