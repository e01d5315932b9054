"""Directions in latent space along which an attribute of images changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from glow.files.limits import JSON_BYTES, Limit
from glow.files.reading import parse_json, read_file
from glow.files.schema import from_plain
from glow.files.writing import write_together

TABLE, TENSORS = "directions.json", "directions.safetensors"
METHODS = ("mean", "logistic")
DIRECTIONS_BYTES = Limit("GLOW_MAX_DIRECTIONS_BYTES", 2**30, "bytes")


@dataclass(frozen=True)
class Attribute:
    """An attribute, and how well the projection on its directions tells images with it from images without.

    Attributes:
        name: Of the attribute.
        num_with: Images with it that the directions come from.
        num_without: Images without it.
        num_held_out: Other images, on which the accuracies are measured.
        base_rate: Accuracy of always giving the more frequent answer, on those.
        accuracy_mean: Accuracy of the difference of means, cut half way between the means.
        accuracy_logistic: Accuracy of the logistic regression.
    """

    name: str
    num_with: int
    num_without: int
    num_held_out: int
    base_rate: float
    accuracy_mean: float
    accuracy_logistic: float


@dataclass(frozen=True)
class Directions:
    """Directions of attributes. Strength 1 is the distance between the mean latents with and without the attribute.

    Attributes:
        attributes: A row of the table each.
        mean: Differences of means, ``[A, D]``, with the latents of all levels in a row, shallowest first.
        logistic: Normals of the logistic regressions, ``[A, D]``, as long as that distance along them.
    """

    attributes: tuple[Attribute, ...]
    mean: Tensor
    logistic: Tensor

    def of(self, name: str, method: str) -> Tensor:
        """Return the direction ``[D]`` of an attribute by the method ``mean`` or ``logistic``.

        Raises:
            ValueError: when there is no such attribute.
        """
        names = [attribute.name for attribute in self.attributes]
        if name not in names:
            raise ValueError(f"attribute: {name!r} is none of the saved ones, which are {', '.join(names)}")
        return (self.mean if method == "mean" else self.logistic)[names.index(name)]


def flatten(latents: Sequence[Tensor]) -> Tensor:
    """Return the latents of all levels in a row, ``[N, D]``."""
    return torch.cat([latent.flatten(1) for latent in latents], dim=1)


def apply_direction(latents: Sequence[Tensor], direction: Tensor, strength: float) -> list[Tensor]:
    """Return latents ``[N, c, h, w]`` plus ``strength`` times a direction ``[D]``."""
    parts = direction.split([latent[0].numel() for latent in latents])
    return [z + strength * part.view(z.shape[1:]).to(z) for z, part in zip(latents, parts, strict=True)]


def find_directions(
    names: Sequence[str], fit: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], penalty: float = 1.0
) -> Directions:
    """Find the directions of attributes.

    Args:
        names: Of the attributes.
        fit: Latents ``[N, D]``, and whether each image has each attribute, bool ``[N, A]``.
        held_out: The same of other images, for the accuracies.
        penalty: Of the logistic regression: it minimises the sum of ``-log p(y | z)`` plus ``penalty / 2 |w|^2``.

    Raises:
        ValueError: when all or none of the images have an attribute.

    Source: the difference of means is that of Kingma & Dhariwal 2018, section 6 (z_pos - z_neg).
    """
    latents, has = fit[0].double(), fit[1]
    for name, count in zip(names, has.sum(0).tolist(), strict=True):
        if not 0 < count < len(has):
            raise ValueError(f"attribute {name}: {count} of {len(has)} images have it; there must be both kinds")
    weights = has.double()
    with_it = weights.T @ latents / weights.sum(0)[:, None]
    without = (1 - weights).T @ latents / (1 - weights).sum(0)[:, None]
    mean = with_it - without
    normal, bias = fit_logistic(latents, weights, penalty)
    scale = (normal * mean).sum(1, keepdim=True) / normal.square().sum(1, keepdim=True)
    others, truth = held_out[0].double(), held_out[1]
    middle = (mean * (with_it + without) / 2).sum(1)
    right_mean = ((others @ mean.T > middle) == truth).double().mean(0).tolist()
    right_logistic = ((others @ normal.T + bias > 0) == truth).double().mean(0).tolist()
    rate = truth.double().mean(0)
    rows = zip(
        names, has.sum(0).tolist(), torch.maximum(rate, 1 - rate).tolist(), right_mean, right_logistic, strict=True
    )
    attributes = (
        Attribute(name, count, len(has) - count, len(truth), base, by_mean, by_logistic)
        for name, count, base, by_mean, by_logistic in rows
    )
    return Directions(tuple(attributes), mean.float(), (normal * scale).float())


def fit_logistic(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Fit a logistic regression for each column of ``y [N, A]``, 0 or 1; return weights ``[A, D]``, biases ``[A]``.

    They minimise ``sum -log p(y | x) + penalty / 2 |w|^2``; the biases are free.
    """
    weight = x.new_zeros(y.shape[1], x.shape[1]).requires_grad_()
    bias = x.new_zeros(y.shape[1]).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-6, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.binary_cross_entropy_with_logits(x @ weight.T + bias, y, reduction="sum")
        value = value + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach(), bias.detach()


def save_directions(folder: Path, directions: Directions, origin: dict[str, Any]) -> None:
    """Write directions.safetensors and directions.json, which also says what they were made from."""
    table = {**origin, "attributes": [asdict(attribute) for attribute in directions.attributes]}
    tensors = {"mean": directions.mean.contiguous(), "logistic": directions.logistic.contiguous()}
    write_together({folder / TENSORS: save(tensors), folder / TABLE: json.dumps(table, indent=1) + "\n"})


def load_directions(folder: Path, num_dims: int) -> Directions:
    """Read what ``save_directions`` wrote; ``num_dims`` is the D of the model.

    Raises:
        ValueError: when the files are missing or damaged, or belong to another model.
    """
    path = folder / TENSORS
    table = from_plain(dict[str, Any], parse_json(read_file(folder / TABLE, JSON_BYTES), str(folder / TABLE)))
    attributes = from_plain(list[Attribute], table.get("attributes"), f"{folder / TABLE}: attributes")
    try:
        tensors = load(read_file(path, DIRECTIONS_BYTES))
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged: {error}") from error
    for method in METHODS:
        found, expected = tensors.get(method), (len(attributes), num_dims)
        if found is None or found.shape != expected or found.dtype != torch.float32 or not found.isfinite().all():
            raise ValueError(f"{path}: tensor {method!r} is not finite float32 {list(expected)}; find them again")
    return Directions(tuple(attributes), tensors["mean"], tensors["logistic"])
