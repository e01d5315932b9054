"""Distances between two sets of images, by features: kernel (MMD) and Frechet."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from glow.evaluation.likelihood import Estimate

NUM_BLOCKS = 10


def squared_mmd(x: Tensor, y: Tensor) -> Estimate:
    """Return the unbiased estimate of the squared maximum mean discrepancy, and its standard error.

    The kernel is ``(a . b / d + 1)^3``, as in the kernel inception distance. The estimate is a U-statistic of the pairs
    ``(x_i, y_i)``; it may be negative. The error is that of the jackknife, which leaves out one pair at a time.

    Args:
        x: Features ``[N, d]``, N at least 3.
        y: Features ``[N, d]``.

    Source: Gretton et al. 2012, lemma 6 and equation 4; Binkowski et al. 2018 (KID, arXiv 1801.01401).
    """
    x, y, count = x.double(), y.double(), len(x)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    cross = kernel(x, y)
    terms = kernel(x, x) + kernel(y, y) - cross - cross.T
    rows = terms.sum(1) - terms.diagonal()
    without_one = (rows.sum() - 2 * rows) / ((count - 1) * (count - 2))
    variance = (count - 1) / count * (without_one - without_one.mean()).square().sum()
    return Estimate(float(rows.sum() / (count * (count - 1))), float(variance.sqrt()))


def frechet(x: Tensor, y: Tensor) -> float:
    """Return ``|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^1/2)`` of features ``[N, d]``, d > 1: squared, as FID is.

    It is biased upwards, the more the fewer images there are: compare equal numbers of images only.

    Source: Dowson & Landau 1982; Heusel et al. 2017 (FID, arXiv 1706.08500), equation 6.
    """
    x, y = x.double(), y.double()
    cov_x, cov_y = torch.cov(x.T), torch.cov(y.T)
    values, vectors = torch.linalg.eigh(cov_x)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0).sqrt().sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross)


def with_error(distance: Callable[[Tensor, Tensor], float], x: Tensor, y: Tensor) -> Estimate:
    """Return a distance of ``x [N, d]`` and ``y [M, d]``, and its error by the jackknife over 10 blocks of both."""
    blocks = torch.arange(len(x)) % NUM_BLOCKS, torch.arange(len(y)) % NUM_BLOCKS
    parts = [distance(x[blocks[0] != block], y[blocks[1] != block]) for block in range(NUM_BLOCKS)]
    values = torch.tensor(parts, dtype=torch.float64)
    variance = (NUM_BLOCKS - 1) / NUM_BLOCKS * (values - values.mean()).square().sum()
    return Estimate(distance(x, y), float(variance.sqrt()))
