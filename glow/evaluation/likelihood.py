"""Exact bits/dim of every image of a split, and their mean with its standard error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from glow.data.read.batch import Batch, Share
from glow.data.read.loader import dequantization_noise, eval_batches
from glow.data.read.reader import SplitReader
from glow.models.glow import Glow
from glow.models.images import bits_per_dim
from glow.sampling.groups import group_size


@dataclass(frozen=True)
class ImageScore:
    """Bits/dim of one image, and its parts, which add up to it: dequantisation, then each level.

    A class-conditional model measures them given the label. ``log_prob_by_class`` is then the log-probability of the
    image given each class, in nats, or empty.
    """

    key: str
    label: int | None
    bits_per_dim: float
    parts: tuple[float, ...]
    log_prob_by_class: tuple[float, ...] = ()


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


@dataclass(frozen=True)
class Bound:
    """A lower bound of the log-probability of a discrete image, and how it is measured.

    ``elbo`` is the mean log-probability over ``num_noise_samples`` dequantisation draws. ``iwbo`` is the logarithm of
    the mean probability; it rises with the number of draws. Draw k of an image depends on (seed, key, k) alone.

    Two options of a class-conditional model: ``all_classes`` also measures each image given every class. ``labels``
    says which probability counts: that given the label, or, if labels are ``unknown``, the mean over the classes.

    Source: Burda, Grosse & Salakhutdinov 2016 (IWAE, arXiv 1509.00519), equation 8.
    """

    name: Literal["elbo", "iwbo"]
    num_noise_samples: int
    seed: int
    all_classes: bool = False
    labels: Literal["given", "unknown"] = "given"


def score_split(
    model: Glow,
    reader: SplitReader,
    batch_size: int,
    bound: Bound,
    share: Share | None = None,
    num_images: int | None = None,
) -> Iterator[ImageScore]:
    """Yield the score of every image of this process's share of a split, in order; of its first ``num_images``.

    Raises:
        ValueError: when the model needs labels and the data set has none.
    """
    first = (share or Share()).slots(min(len(reader), num_images or len(reader))).start
    return score_batches(model, eval_batches(reader, batch_size, bound.seed, share, num_images), bound, first)


def score_batches(model: Glow, batches: Iterable[Batch], bound: Bound, first: int = 0) -> Iterator[ImageScore]:
    """Yield the score of every image of consecutive batches, in order.

    Args:
        model: The model.
        batches: Images and the noise of draw 0.
        bound: What is measured.
        first: The number of the first image: image i is always computed as row ``i % group`` of a group.

    Raises:
        ValueError: when the model needs labels and the batches have none.
    """
    for start, batch in _aligned(batches, first, group_size(model.image_shape)):
        labels = class_labels(model, batch) if bound.labels == "given" else None
        by_class: list[tuple[float, ...]] = [()] * len(batch)
        if model.num_classes and (bound.all_classes or labels is None):
            device = next(model.parameters()).device
            classes = [torch.full((len(batch),), c, device=device) for c in range(model.num_classes)]
            given = torch.stack([_bound_parts(model, batch, same, bound, start) for same in classes])
            by_class = [tuple(row) for row in given.sum(2).T.tolist()]
            parts = _mean_probability(given) if labels is None else given[labels.cpu(), torch.arange(len(batch))]
        else:
            parts = _bound_parts(model, batch, labels, bound, start)
        known = [None] * len(batch) if batch.labels is None else batch.labels.tolist()
        rows = bits_per_dim(torch.cat([parts, parts.sum(1, keepdim=True)], dim=1), model.num_dims).tolist()
        for key, label, row, log_probs in zip(batch.keys, known, rows, by_class, strict=True):
            yield ImageScore(key, label, row[-1], tuple(row[:-1]), log_probs)


def _bound_parts(model: Glow, batch: Batch, labels: Tensor | None, bound: Bound, start: int) -> Tensor:
    """Return the contributions of dequantisation and of each level to the bound, nats, float64 ``[N, L + 1]``."""
    draws = []
    for draw in range(bound.num_noise_samples):
        noise = batch.noise
        if draw:
            values = [dequantization_noise(key, model.image_shape, bound.seed, draw) for key in batch.keys]
            noise = torch.from_numpy(np.stack(values))
        draws.append(_log_prob_parts(model, batch.images, noise, labels, start))
    stacked = torch.stack(draws)
    return stacked.mean(0) if bound.name == "elbo" else _mean_probability(stacked)


def _mean_probability(stacked: Tensor) -> Tensor:
    """Return the parts ``[N, L + 1]`` of the logarithm of the mean over ``[M, N, L + 1]`` draws or classes, in nats.

    Each level is averaged with the weights of the draws; the rest counts as dequantisation.
    """
    log_probs = stacked.sum(2)
    weights = log_probs.softmax(0)[:, :, None]
    levels = torch.where(weights > 0, weights * stacked[:, :, 1:], 0).sum(0)
    total = log_probs.logsumexp(0) - math.log(len(stacked))
    return torch.cat([(total - levels.sum(1))[:, None], levels], dim=1)


@torch.no_grad()
def _log_prob_parts(model: Glow, images: Tensor, noise: Tensor, labels: Tensor | None, start: int) -> Tensor:
    """Return the contributions of dequantisation and of each level to the log-probability, float64 ``[N, L + 1]``.

    The images are the rows of a group from ``start`` on; the other rows are padding.
    """
    parameter = next(model.parameters())
    group = group_size(model.image_shape)
    rows = slice(start, start + len(images))
    padded_images = torch.zeros(group, *images.shape[1:], dtype=torch.uint8)
    padded_noise = torch.full((group, *noise.shape[1:]), 0.5, dtype=parameter.dtype)
    padded_images[rows], padded_noise[rows] = images, noise.to(parameter.dtype)
    inputs = [padded_images.to(parameter.device), padded_noise.to(parameter.device)]
    if labels is not None:
        padded_labels = labels.new_zeros(group)
        padded_labels[rows] = labels
        inputs.append(padded_labels)
    cumulative = model.cumulative_log_prob(*inputs)
    totals = torch.stack([values[rows].double().cpu() for values in cumulative], dim=1)
    return torch.diff(totals, dim=1, prepend=torch.zeros(len(images), 1, dtype=torch.float64))


def _aligned(batches: Iterable[Batch], first: int, group: int) -> Iterator[tuple[int, Batch]]:
    """Cut batches at the multiples of ``group``, and yield each part after its row in the group; image ``first`` is the
    first one.
    """
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
    """Return max |x - decode(encode(x))| over a batch, in data units: the range of all levels is 1."""
    parameter = next(model.parameters())
    x, _ = model.dequantize(batch.images.to(parameter.device), batch.noise.to(parameter.device, parameter.dtype))
    labels = class_labels(model, batch)
    latents, _ = model.encode(x, labels)
    return float((model.decode(latents, labels) - x).abs().max())


def class_labels(model: Glow, batch: Batch) -> Tensor | None:
    """Return the labels of a batch on the device of the model; None if the model takes none.

    Raises:
        ValueError: when the model needs labels and the batch has none.
    """
    if not model.num_classes:
        return None
    if batch.labels is None:
        raise ValueError("the model is class_conditional, but the data set has no labels")
    return batch.labels.to(next(model.parameters()).device)
