"""Densities that a model has to beat: a full-covariance Gaussian and a histogram for each pixel."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from glow.data.read.batch import Batch
from glow.models.images import reduce_bits

MAX_GAUSSIAN_DIMS = 4096


class GaussianBaseline:
    """A Gaussian with full covariance fitted to dequantised images, in units of one level; all in float64."""

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
    """An independent distribution over the levels for each pixel and channel; one is added to every count."""

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
