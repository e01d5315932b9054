"""What each level of a model holds: levels of two images mixed, and one level drawn anew."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glow.editing.interpolate import Path, blend
from glow.editing.reconstruct import likeliest_labels
from glow.sampling.images import latent_noise
from glow.trained.images import TrainedGlow


def check_levels(levels: Sequence[int], num_levels: int) -> None:
    """Raise a ValueError for levels that a model does not have; they are counted from 1, the shallowest."""
    wrong = [level for level in levels if not 1 <= level <= num_levels]
    if wrong:
        raise ValueError(f"levels: {wrong[0]} is not allowed; the model has levels 1 (finest) to {num_levels}")


def mix_levels(a: Sequence[Tensor], b: Sequence[Tensor], levels: Sequence[int]) -> list[Tensor]:
    """Return latents ``[N, c, h, w]`` that are those of ``b`` at these levels, and those of ``a`` at all others.

    Raises:
        ValueError: for a level that there is not.
    """
    check_levels(levels, len(a))
    return [b[number] if number + 1 in levels else a[number] for number in range(len(a))]


def mixture(
    model: TrainedGlow, images: Tensor, weight: float, path: Path = "spherical", levels: Sequence[int] = ()
) -> tuple[Tensor, Tensor | None]:
    """Return a point on the path between two images, with some levels of the second one: uint8 ``[1, C, H, W]``.

    Args:
        model: The model.
        images: uint8 ``[2, C, H, W]``.
        weight: 0 for the first image, 1 for the second.
        path: How to go from one to the other.
        levels: Levels that are those of the second image, whatever the weight.

    Returns:
        The image; and of a class-conditional model its class, which is the most probable one of the first image.
    """
    labels = likeliest_labels(model, images)
    latents = model.encode(images, labels=labels)
    between = blend([z[0] for z in latents], [z[1] for z in latents], weight, path)
    mixed = mix_levels([z[None] for z in between], [z[1:] for z in latents], levels)
    label = None if labels is None else labels[:1]
    return model.decode(mixed, labels=label), label


def draw_latents(model: TrainedGlow, count: int, seed: int, temperature: float | Sequence[float] = 1.0) -> list[Tensor]:
    """Return the latents that ``sample`` decodes for images 0 to ``count - 1``, ``[count, c, h, w]`` a level."""
    noise = [torch.from_numpy(latent_noise(seed, index, model.glow.num_dims)) for index in range(count)]
    stacked = torch.stack(noise) if noise else torch.empty(0, model.glow.num_dims)
    return model.glow.scale_noise(stacked, temperature)


def resample_level(
    model: TrainedGlow, latents: Sequence[Tensor], level: int, seed: int, temperature: float = 1.0
) -> list[Tensor]:
    """Return latents ``[N, c, h, w]`` with one level drawn anew, times the temperature; the others stay."""
    drawn = draw_latents(model, len(latents[0]), seed, temperature)
    return mix_levels(latents, drawn, [level])
