"""Fill in missing pixels, or remove noise, by the exact density of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from glow.editing.chains import LogDensity, effective_samples, hmc, split_r_hat
from glow.models.glow import standard_normal_log_prob
from glow.models.images import dequantize, quantize
from glow.randomness import generator
from glow.trained.images import TrainedGlow

NUM_CHAINS = 4
# What is seen of an image ``[N, C, H, W]``, and an image that looks like what is seen.
OBSERVED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, int], Tensor]]] = {
    "pixels": (lambda x: x, lambda y, channels: y),
    "half_size": (
        lambda x: functional.avg_pool2d(x, 2),
        lambda y, channels: functional.interpolate(y, scale_factor=2),
    ),
    "grey": (lambda x: x.mean(1, keepdim=True), lambda y, channels: y.expand(-1, channels, -1, -1)),
}


@dataclass(frozen=True)
class Repaired:
    """An image that was repaired.

    Attributes:
        samples: The last draw of each chain, uint8 ``[4, C, H, W]``.
        mean: The mean of all draws, uint8 ``[C, H, W]``.
        likeliest: The image at the highest density that gradient ascent in pixels found, uint8 ``[C, H, W]``.
        acceptance: Share of accepted proposals.
        effective_samples: Smallest number over the pixels.
        r_hat: Largest over the pixels; below 1.01 the chains agree.
    """

    samples: Tensor
    mean: Tensor
    likeliest: Tensor
    acceptance: float
    effective_samples: float
    r_hat: float


def log_density(model: TrainedGlow, x: Tensor, label: int | None = None) -> Tensor:
    """Return the log-density ``[N]``, in nats, of points ``x [N, C, H, W]``, differentiable in ``x``."""
    labels = None if label is None else torch.full((len(x),), label, device=x.device)
    latents, logdet = model.glow.encode(x, labels)
    return logdet + torch.stack([standard_normal_log_prob(latent) for latent in latents]).sum(0)


def given_known(model: TrainedGlow, points: Tensor, is_missing: Tensor, label: int | None = None) -> LogDensity:
    """Return the log-density of the missing numbers, up to a constant, given the others.

    Args:
        model: The model.
        points: A point ``[C, H, W]`` whose known numbers count.
        is_missing: Which numbers are missing, bool ``[C, H, W]``.
        label: The class, of a class-conditional model.
    """

    def density(missing: Tensor) -> Tensor:
        whole = points.expand(len(missing), *points.shape).masked_scatter(is_missing, missing)
        return log_density(model, whole, label)

    return density


def given_noisy(
    model: TrainedGlow, seen: Tensor, sigma: float, label: int | None = None, observed: str = "pixels"
) -> LogDensity:
    """Return the log-density of an image, up to a constant, given what is seen of it plus normal noise.

    Args:
        model: The model.
        seen: ``[c, h, w]``.
        sigma: Standard deviation of the noise, where the range of all grey levels is 1.
        label: The class, of a class-conditional model.
        observed: What is seen: one of OBSERVED.
    """
    observe, _ = OBSERVED[observed]

    def density(x: Tensor) -> Tensor:
        whole = x.view(-1, *model.glow.image_shape)
        distance = (observe(whole) - seen).square().flatten(1).sum(1)
        return log_density(model, whole, label) - distance / (2 * sigma**2)

    return density


def ascend(density: LogDensity, start: Tensor, num_steps: int = 200) -> Tensor:
    """Return the best point that Adam finds from ``start [N, D]``, ``[D]``: a local maximum of the density in pixels.

    It is not the maximum over latents, which is another point: densities change with the coordinates.
    """
    x, best, highest = start.clone().requires_grad_(), start[0], -float("inf")
    optimizer = torch.optim.Adam([x], lr=0.02)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, num_steps)
    for _ in range(num_steps):
        optimizer.zero_grad()
        with torch.enable_grad():
            values = density(x)
            (-values.sum()).backward()
        values = values.detach()
        top = int(values.argmax())
        if values[top] > highest:
            best, highest = x[top].detach().clone(), float(values[top])
        optimizer.step()
        schedule.step()
    return best


def inpaint(
    model: TrainedGlow, image: Tensor, is_missing: Tensor, label: int | None = None, seed: int = 0, num_steps: int = 300
) -> Repaired:
    """Draw the missing numbers of an image from their density given the known ones.

    The known numbers stand at the centres of their cells. The chains start from samples of the model.

    Args:
        model: The model.
        image: uint8 ``[C, H, W]``; what is missing in it does not matter.
        is_missing: bool ``[C, H, W]``.
        label: The class, of a class-conditional model, which needs it.
        seed: Of the chains.
        num_steps: Steps of each chain; the first half is a warm-up.

    Raises:
        ValueError: when nothing is missing.
    """
    if not is_missing.any():
        raise ValueError("mask: no pixel is missing")
    device = next(model.glow.parameters()).device
    known, is_missing = model.points(image[None])[0].to(device), is_missing.to(device)
    starts = model.sample(NUM_CHAINS, temperature=0.7, seed=seed, label=label)
    start = model.points(starts).to(device)[:, is_missing]

    def whole(x: Tensor) -> Tensor:
        return known.expand(len(x), *known.shape).masked_scatter(is_missing, x)

    return _run(model, given_known(model, known, is_missing, label), start, whole, seed, num_steps)


def restore(
    model: TrainedGlow,
    image: Tensor,
    sigma: float,
    label: int | None = None,
    seed: int = 0,
    num_steps: int = 300,
    observed: str = "pixels",
) -> Repaired:
    """Draw the images that an image with normal noise, of which not all may be known, may have been.

    Args:
        model: The model.
        image: The noisy image, uint8 ``[C, H, W]``. What is not observed in it does not matter.
        sigma: Standard deviation of the noise in what is observed, where the range of all grey levels is 1.
        label: The class, of a class-conditional model, which needs it.
        seed: Of the chains.
        num_steps: Steps of each chain; the first half is a warm-up.
        observed: What is known: ``pixels``, all of it; ``half_size``, the means of 2x2 pixels; ``grey``, the mean of
            the channels.

    Raises:
        ValueError: when sigma is less than half a grey level of the model, or the image has an odd side to be halved.
    """
    if observed == "half_size" and any(side % 2 for side in image.shape[1:]):
        raise ValueError(f"observed: half_size needs even sides, but the image is {list(image.shape[1:])}")
    least = 0.5 / 2**model.glow.config.num_bits
    if not sigma >= least:
        raise ValueError(f"sigma: {sigma} is not allowed; give half a grey level, {least:g}, or more")
    device = next(model.glow.parameters()).device
    centre = torch.full(image[None].shape, 0.5, dtype=next(model.glow.parameters()).dtype)
    noisy = dequantize(image[None], centre, model.glow.config.num_bits)[0].to(device)
    noise = generator(seed, "restore").standard_normal((NUM_CHAINS, noisy.numel()))
    observe, fill = OBSERVED[observed]
    seen = observe(noisy[None])
    start = fill(seen, len(noisy)).flatten() + sigma * torch.from_numpy(noise).to(noisy)

    def whole(x: Tensor) -> Tensor:
        return x.view(-1, *noisy.shape)

    return _run(model, given_noisy(model, seen[0], sigma, label, observed), start, whole, seed, num_steps)


def _run(
    model: TrainedGlow,
    density: LogDensity,
    start: Tensor,
    whole: Callable[[Tensor], Tensor],
    seed: int,
    num_steps: int,
) -> Repaired:
    rng: np.random.Generator = generator(seed, "repair")
    for parameter in model.glow.parameters():
        parameter.requires_grad_(False)  # gradients are of pixels alone
    best = ascend(density, start, num_steps)
    chains = hmc(density, start, rng, num_steps)
    ends = torch.stack([*chains.draws[-1], chains.draws.mean((0, 1)), best])
    images = quantize(whole(ends), model.glow.config.num_bits).cpu()
    return Repaired(
        images[:NUM_CHAINS],
        images[-2],
        images[-1],
        chains.acceptance,
        float(effective_samples(chains.draws).min()),
        float(split_r_hat(chains.draws).max()),
    )
