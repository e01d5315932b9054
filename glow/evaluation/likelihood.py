"""Exact bits/dim of every image of a split, and their mean with its standard error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glow.data.loader import Batch, Share, dequantization_noise, eval_batches
from glow.data.reader import SplitReader
from glow.groups import group_size
from glow.images import bits_per_dim
from glow.model import Glow


@dataclass(frozen=True)
class ImageScore:
    """Bits/dim of one image; the parts (dequantisation, then the levels) add up to it."""

    key: str
    label: int | None
    bits_per_dim: float
    parts: tuple[float, ...]


@dataclass(frozen=True)
class Estimate:
    """A mean over images and its standard error (None for a single image)."""

    mean: float
    standard_error: float | None

    @staticmethod
    def of(values: Sequence[float] | np.ndarray) -> Estimate:
        """Return mean and standard error of the values."""
        array = np.asarray(values, dtype=np.float64)
        error = float(array.std(ddof=1) / np.sqrt(len(array))) if len(array) > 1 else None
        return Estimate(float(array.mean()), error)


def score_split(
    model: Glow, reader: SplitReader, batch_size: int, num_noise_samples: int, seed: int, share: Share | None = None
) -> Iterator[ImageScore]:
    """Yield the score of every image of this process's part of a split, in order.

    The mean log-probability over ``num_noise_samples`` dequantisation draws is a lower bound (ELBO) of that of the
    discrete image. Draw k of an image depends on (seed, key, k) alone.
    """
    first = (share or Share()).slots(len(reader)).start
    group = group_size(model.image_shape)
    for start, batch in _aligned(eval_batches(reader, batch_size, seed, share), first, group):
        draws = [batch.noise]
        for draw in range(1, num_noise_samples):
            noise = [dequantization_noise(key, model.image_shape, seed, draw) for key in batch.keys]
            draws.append(torch.from_numpy(np.stack(noise)))
        scores = torch.stack([_score(model, batch.images, noise, start, group) for noise in draws]).mean(0)
        labels = [None] * len(batch) if batch.labels is None else batch.labels.tolist()
        for key, label, row in zip(batch.keys, labels, scores.tolist(), strict=True):
            yield ImageScore(key, label, row[-1], tuple(row[:-1]))


@torch.no_grad()
def _score(model: Glow, images: Tensor, noise: Tensor, start: int, group: int) -> Tensor:
    """Return bits/dim of the parts and, last, of the whole, float64 ``[N, L + 2]``.

    The images are rows ``start`` and following of a group; the other rows are padding.
    """
    parameter = next(model.parameters())
    rows = slice(start, start + len(images))
    padded_images = torch.zeros(group, *images.shape[1:], dtype=torch.uint8)
    padded_noise = torch.full((group, *noise.shape[1:]), 0.5, dtype=parameter.dtype)
    padded_images[rows], padded_noise[rows] = images, noise.to(parameter.dtype)
    cumulative = model.cumulative_log_prob(padded_images.to(parameter.device), padded_noise.to(parameter.device))
    totals = torch.stack([values[rows].double().cpu() for values in cumulative], dim=1)
    parts = torch.diff(totals, dim=1, prepend=torch.zeros(len(images), 1, dtype=torch.float64))
    return bits_per_dim(torch.cat([parts, totals[:, -1:]], dim=1), model.num_dims)


def _aligned(batches: Iterable[Batch], first: int, group: int) -> Iterator[tuple[int, Batch]]:
    """Cut batches of the images ``first`` and following at the multiples of ``group``; yield their first rows too."""
    pending: list[Batch] = []
    number = first
    for batch in batches:
        pending = [Batch.concatenate([*pending, batch])]
        while pending and len(pending[0]) >= group - number % group:
            count = group - number % group
            yield number % group, pending[0].part(0, count)
            rest = pending[0].part(count, len(pending[0]))
            pending = [rest] if len(rest) else []
            number += count
    if pending:
        yield number % group, pending[0]


@torch.no_grad()
def round_trip_error(model: Glow, batch: Batch) -> float:
    """Return max |x - decode(encode(x))| over a batch, in data units: the whole range of levels is 1."""
    parameter = next(model.parameters())
    x, _ = model.dequantize(batch.images.to(parameter.device), batch.noise.to(parameter.device, parameter.dtype))
    labels = class_labels(model, batch)
    latents, _ = model.encode(x, labels)
    return float((model.decode(latents, labels) - x).abs().max())


def class_labels(model: Glow, batch: Batch) -> Tensor | None:
    """Return the labels that the model is to be given with a batch, on its device: None if it takes none.

    Raises:
        ValueError: when it needs labels and the batch has none.
    """
    if not model.num_classes:
        return None
    if batch.labels is None:
        raise ValueError("the model is class_conditional, but the data set has no labels")
    return batch.labels.to(next(model.parameters()).device)
