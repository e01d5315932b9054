"""Glow: a chain of squeezes, flow steps, splits and a prior, with the exact log-probability of discrete images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glow.bijectors.actnorm import ActNorm
from glow.bijectors.base import Bijector, Composition, sum_per_example
from glow.bijectors.conv1x1 import CONV1X1
from glow.bijectors.coupling import AdditiveCoupling, AffineCoupling
from glow.bijectors.split import SplitPrior, TopPrior
from glow.bijectors.squeeze import Squeeze
from glow.config import ModelConfig
from glow.images import dequantize, log_volume, quantize
from glow.nets import CouplingNet


class Unit(nn.Module):
    """One link of the chain: a bijector, after which the last ``num_latent_channels`` leave as standard normal latents.

    ``forward(x, log_prob, context) -> (x, log_prob)`` adds the log-determinant, and the log-density of what leaves.
    """

    def __init__(self, bijector: Bijector, num_latent_channels: int = 0) -> None:
        super().__init__()
        self.bijector = bijector
        self.num_latent_channels = num_latent_channels

    def forward(self, x: Tensor, log_prob: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Advance the state ``[N, C, H, W]`` and the running log-probability ``[N]``."""
        x, latent, logdet = self.encode(x, context)
        log_prob = log_prob + logdet
        if latent is not None:
            log_prob = log_prob + standard_normal_log_prob(latent)
        return x, log_prob

    def encode(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the state that goes on, the latent that leaves (or None), and the log-determinant ``[N]``."""
        x, logdet = self.bijector(x, context)
        if not self.num_latent_channels:
            return x, None, logdet
        x, latent = x.split([x.shape[1] - self.num_latent_channels, self.num_latent_channels], dim=1)
        return x, latent, logdet

    def decode(self, x: Tensor, latent: Tensor | None, context: Tensor | None = None) -> Tensor:
        """Undo ``encode``."""
        if latent is not None:
            x = torch.cat([x, latent], dim=1)
        return self.bijector.inverse(x, context)[0]


class Glow(nn.Module):
    """Multiscale Glow over discrete images.

    ``chain`` is flat: for each level a squeeze, K steps and a split, the last level ending in the prior instead.
    Parameter names depend on the config alone.

    Raises:
        ValueError: when the config has no image shape.

    Source: Kingma & Dhariwal 2018, figure 2.
    """

    chain: Sequence[Unit]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.image_shape is None:
            raise ValueError("model.image_shape is not set: give channels, height and width")
        self.config = config
        self.image_shape = config.image_shape
        self.num_dims = math.prod(config.image_shape)
        units: list[Unit] = []
        self.latent_shapes: list[tuple[int, int, int]] = []
        channels, height, width = config.image_shape
        for level in range(config.num_levels):
            channels, height, width = 4 * channels, height // 2, width // 2
            units.append(Unit(Squeeze()))
            units.extend(Unit(_step(channels, config)) for _ in range(config.num_steps_per_level))
            is_last = level == config.num_levels - 1
            num_latent = channels if is_last else channels // 2
            units.append(Unit(TopPrior(channels) if is_last else SplitPrior(channels), num_latent))
            self.latent_shapes.append((num_latent, height, width))
            channels -= num_latent
        self.chain = nn.ModuleList(units)  # type: ignore[assignment]

    def forward(self, images: Tensor, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the log-probability of discrete images, ``[N]``, in nats: a sample of the dequantisation bound.

        Args:
            images: uint8 ``[N, C, H, W]``.
            noise: In (0, 1), same shape; its dtype (that of the parameters) is the precision of state and result.
            context: What the flow is conditioned on.
        """
        return self.cumulative_log_prob(images, noise, context)[-1]

    def cumulative_log_prob(self, images: Tensor, noise: Tensor, context: Tensor | None = None) -> list[Tensor]:
        """Return the running log-probability ``[N]`` after dequantisation and after each level: L + 1 tensors."""
        with torch.autocast(images.device.type, enabled=False):
            x = self.dequantize(images, noise)
            log_prob = x.new_full((len(x),), log_volume(self.num_dims, self.config.num_bits))
            cumulative = [log_prob]
            for unit in self.chain:
                x, log_prob = unit(x, log_prob, context)
                if unit.num_latent_channels:
                    cumulative.append(log_prob)
            return cumulative

    def dequantize(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return the point ``[N, C, H, W]`` in data space that images and noise stand for.

        Raises:
            ValueError: for images of another shape or dtype.
        """
        if images.shape[1:] != self.image_shape or noise.shape != images.shape:
            raise ValueError(
                f"images {list(images.shape)} and noise {list(noise.shape)} must both be [N, C, H, W] with "
                f"[C, H, W] = {list(self.image_shape)}"
            )
        return dequantize(images, noise, self.config.num_bits)

    def encode(self, x: Tensor, context: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Return the latents and the logdet ``[N]``.

        There is one latent tensor a level, shallowest first, each N(0, I) under the model.
        """
        latents, total = [], x.new_zeros(len(x))
        with torch.autocast(x.device.type, enabled=False):
            for unit in self.chain:
                x, latent, logdet = unit.encode(x, context)
                total = total + logdet
                if latent is not None:
                    latents.append(latent)
        return latents, total

    def decode(self, latents: Sequence[Tensor], context: Tensor | None = None) -> Tensor:
        """Return the point in data space ``[N, C, H, W]`` that ``encode`` maps to ``latents``; nothing is rescaled."""
        remaining = list(latents)
        x = remaining[-1][:, :0]
        with torch.autocast(x.device.type, enabled=False):
            for unit in reversed(self.chain):
                x = unit.decode(x, remaining.pop() if unit.num_latent_channels else None, context)
        return x

    def sample(self, noise: Tensor, temperature: float | Sequence[float], context: Tensor | None = None) -> Tensor:
        """Return the uint8 images ``[N, C, H, W]`` of standard normal noise ``[N, C*H*W]`` times the temperature.

        Args:
            noise: One row an image; it is cut into the latents of the levels, shallowest first.
            temperature: One number, or one a level, shallowest first. 0 is deterministic. For affine couplings this
                is not sampling from p(x)^(1/T^2), which would need the normaliser of that density.
            context: What the flow is conditioned on.
        """
        return quantize(self.decode(self.scale_noise(noise, temperature), context), self.config.num_bits)

    def scale_noise(self, noise: Tensor, temperature: float | Sequence[float]) -> list[Tensor]:
        """Cut standard normal noise ``[N, C*H*W]`` into latents, one tensor a level, times the temperature."""
        temperatures = [temperature] * len(self.latent_shapes) if isinstance(temperature, int | float) else temperature
        if len(temperatures) != len(self.latent_shapes):
            raise ValueError(f"temperature: {len(temperatures)} numbers for {len(self.latent_shapes)} levels")
        parts = noise.split([math.prod(shape) for shape in self.latent_shapes], dim=1)
        scaled = zip(parts, self.latent_shapes, temperatures, strict=True)
        return [scale * part.reshape(-1, *shape) for part, shape, scale in scaled]

    @torch.no_grad()
    def initialize(self, images: Tensor, noise: Tensor, context: Tensor | None = None) -> None:
        """Set all ActNorms from a batch, over the batches of all processes (a collective). Call it before wrapping."""
        for name, module in self.named_modules():
            if isinstance(module, ActNorm):
                module.begin_initialization(name)
        try:
            self(images, noise, context)
        finally:
            for module in self.modules():
                if isinstance(module, ActNorm):
                    module.pending_name = None


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Return the log-density of N(0, I), ``[N, ...] -> [N]``, in nats."""
    return -0.5 * (sum_per_example(z.square()) + math.prod(z.shape[1:]) * math.log(2 * math.pi))


def _step(num_channels: int, config: ModelConfig) -> Composition:
    """Build one flow step (Kingma & Dhariwal 2018, table 1): ActNorm, invertible 1x1 convolution, coupling."""
    half = num_channels // 2
    if config.coupling == "affine":
        coupling: Bijector = AffineCoupling(CouplingNet(half, config.hidden_channels, 2 * half))
    else:
        coupling = AdditiveCoupling(CouplingNet(half, config.hidden_channels, half))
    return Composition(ActNorm(num_channels), CONV1X1[config.permutation](num_channels), coupling)
