"""Paths between images in latent space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from glow.trained.images import TrainedGlow

Path = Literal["linear", "spherical"]


def linear(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Return ``(1 - weight) a + weight b``."""
    return torch.lerp(a, b, weight)


def spherical(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Return a point on the arc from ``a`` to ``b``, tensors ``[...]`` taken as vectors; its norm lies between.

    The direction turns evenly, and the norm goes from one to the other linearly. Normal latents of many dimensions all
    have nearly one norm, which the straight line leaves. Directions that are opposite have no arc of their own: then it
    is the straight line, as where a vector is 0.

    Source: Shoemake 1985 (slerp); White 2016, arXiv 1609.04468.
    """
    norm_a, norm_b = a.norm(), b.norm()
    if not (norm_a > 0 and norm_b > 0):
        return linear(a, b, weight)
    unit_a, unit_b = a / norm_a, b / norm_b
    angle = torch.acos((unit_a * unit_b).sum().clamp(-1, 1))
    if angle < 1e-4 or angle > torch.pi - 1e-4:
        return linear(a, b, weight)
    direction = (torch.sin((1 - weight) * angle) * unit_a + torch.sin(weight * angle) * unit_b) / torch.sin(angle)
    return direction * torch.lerp(norm_a, norm_b, weight)


def blend(a: Sequence[Tensor], b: Sequence[Tensor], weight: float, path: Path) -> list[Tensor]:
    """Return latents between those of two images, ``[c, h, w]`` a level; each level is a vector of its own."""
    move = linear if path == "linear" else spherical
    return [move(one, other, weight) for one, other in zip(a, b, strict=True)]


def interpolate(
    model: TrainedGlow, images: Tensor, labels: Tensor | None = None, path: Path = "spherical", num_steps: int = 8
) -> tuple[Tensor, Tensor | None]:
    """Return the images along the path through images, uint8 ``[M, C, H, W]``, and their classes.

    Args:
        model: The model.
        images: Two or more, uint8 ``[N, C, H, W]``.
        labels: Of a class-conditional model. The first half of a part of the path has the class of its first image.
        path: How to go from one to the next.
        num_steps: Steps from one to the next. There are ``(N - 1) num_steps + 1`` images.

    Raises:
        ValueError: for fewer than two images.
    """
    if len(images) < 2:
        raise ValueError(f"images: {len(images)} given; a path needs two or more")
    latents = model.encode(images, labels=labels)
    points, classes = [], []
    for number in range((len(images) - 1) * num_steps + 1):
        start = min(number // num_steps, len(images) - 2)
        weight = number / num_steps - start
        points.append(blend([z[start] for z in latents], [z[start + 1] for z in latents], weight, path))
        classes.append(start + (weight > 0.5))
    along = None if labels is None else labels[classes]
    return model.decode([torch.stack(level) for level in zip(*points, strict=True)], labels=along), along
