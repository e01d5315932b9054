"""Images to latents and back, with the probability of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glow.data.read.batch import Batch
from glow.data.read.loader import dequantization_noise
from glow.evaluation.likelihood import Bound, score_batches
from glow.trained.images import TrainedGlow


@dataclass(frozen=True)
class Reconstruction:
    """What becomes of one image on its way to the latents and back, and how probable it is.

    Attributes:
        max_abs_error: max |x - decode(encode(x))| of the point at the centre of the image's cell; the range of all grey
            levels is 1.
        num_wrong_pixels: Numbers of the image, as the model reads it, that come back different.
        log_density_nats: Exact log-density of that point.
        bits_per_dim: An upper bound of the bits/dim of the image: the ELBO by one draw of the dequantisation noise.
        parts: Its parts, which add up to it: dequantisation, then each level.
    """

    max_abs_error: float
    num_wrong_pixels: int
    log_density_nats: float
    bits_per_dim: float
    parts: tuple[float, ...]


def reconstruct(
    model: TrainedGlow, images: Tensor, labels: Tensor | None = None, seed: int = 0, keys: Sequence[str] | None = None
) -> tuple[Tensor, list[Reconstruction]]:
    """Encode images and decode them; return the images that come back, uint8 ``[N, C, H, W]``, and figures of each.

    Args:
        model: The model.
        images: uint8 ``[N, C, H, W]``.
        labels: Of a class-conditional model: their classes, int64 ``[N]``.
        seed: Of the dequantisation noise of the bits/dim.
        keys: Names of the images, for the noise. With those of a data set, bits/dim are those of ``evaluate``.
    """
    points = model.points(images)
    latents, densities = model.encode_points(points, labels=labels)
    back, images_back = model.decode_points(latents, labels=labels), model.decode(latents, labels=labels)
    wrong = (images_back >> (8 - model.glow.config.num_bits)) != (images >> (8 - model.glow.config.num_bits))
    keys = [str(number) for number in range(len(images))] if keys is None else list(keys)
    noise = [torch.from_numpy(dequantization_noise(key, model.glow.image_shape, seed)) for key in keys]
    scores = score_batches(model.glow, [Batch(keys, images, torch.stack(noise), labels)], Bound("elbo", 1, seed))
    errors = (back - points).abs().flatten(1).amax(1)
    return images_back, [
        Reconstruction(float(error), int(count), float(density), score.bits_per_dim, score.parts)
        for error, count, density, score in zip(errors, wrong.flatten(1).sum(1), densities, scores, strict=True)
    ]


def likeliest_labels(model: TrainedGlow, images: Tensor, seed: int = 0) -> Tensor | None:
    """Return the most probable class of each image under a class-conditional model, int64 ``[N]``; else None."""
    if not model.glow.num_classes:
        return None
    keys = [str(number) for number in range(len(images))]
    noise = [torch.from_numpy(dequantization_noise(key, model.glow.image_shape, seed)) for key in keys]
    bound = Bound("elbo", 1, seed, labels="unknown")
    scores = score_batches(model.glow, [Batch(keys, images, torch.stack(noise), None)], bound)
    return torch.tensor([max(range(model.glow.num_classes), key=s.log_prob_by_class.__getitem__) for s in scores])


def bits_of_density(log_density_nats: float, num_dims: int, num_bits: int) -> float:
    """Return the bits/dim of a cell of the data grid that has this density, in nats, everywhere."""
    return num_bits - log_density_nats / (num_dims * math.log(2))
