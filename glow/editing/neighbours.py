"""The nearest training images of samples, which show whether a model has memorised."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Neighbours:
    """The nearest rows of a reference.

    Attributes:
        numbers: Their row numbers, int64 ``[N, k]``, nearest first.
        distances: Their Euclidean distances, ``[N, k]``.
    """

    numbers: Tensor
    distances: Tensor


def nearest(queries: Tensor, reference: Tensor, count: int = 1, chunk: int = 256) -> Neighbours:
    """Find the ``count`` nearest rows of ``reference [M, ...]`` for each row of ``queries [N, ...]``, by Euclidean
    distance.
    """
    rows, others = queries.flatten(1).double(), reference.flatten(1).double()
    found = [torch.cdist(part, others).topk(count, largest=False) for part in rows.split(chunk)]
    return Neighbours(torch.cat([part.indices for part in found]), torch.cat([part.values for part in found]))


def share_nearer(samples: Neighbours, test: Neighbours, quantile: float = 0.01) -> float:
    """Return the share of samples whose nearest training image is nearer than the quantile of those of test images.

    For samples that are like test images, it is about ``quantile``. A model that has memorised gives more.
    """
    limit = torch.quantile(test.distances[:, 0], quantile)
    return float((samples.distances[:, 0] < limit).double().mean())
