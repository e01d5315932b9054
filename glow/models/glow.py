"""Glow: a chain of squeezes, flow steps, splits and a prior that gives the log-probability of discrete images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from glow.bijectors.base import Bijector, Composition, sum_per_example
from glow.bijectors.initialization import initialize_actnorms, initialize_part, whiten
from glow.bijectors.squeeze import Squeeze
from glow.config import ModelConfig
from glow.execution.memory import ChainRunner, Tape, run_step
from glow.models.build import class_channels, flow_step, split_prior, top_prior
from glow.models.dequantization import VariationalDequantizer
from glow.models.images import dequantize, log_volume, quantize
from glow.networks.base import Network


class Unit(nn.Module):
    """One unit of the chain: a bijector, and then a split that factors out standard normal latents.

    ``forward(x, log_prob, context)`` returns the next state and log_prob plus the log-determinant, plus the log-density
    of the latents.

    Args:
        bijector: Maps the state ``[N, C, H, W]``.
        num_latent_channels: How many channels the split factors out, from the last ones. 0: no split.
    """

    def __init__(self, bijector: Bijector, num_latent_channels: int = 0) -> None:
        super().__init__()
        self.bijector = bijector
        self.num_latent_channels = num_latent_channels

    def forward(
        self, x: Tensor, log_prob: Tensor, context: Tensor | None = None, tape: Tape | None = None
    ) -> tuple[Tensor, Tensor]:
        """Advance the state ``[N, C, H, W]`` and the log-probability so far ``[N]``, in nats.

        With a tape, autograd keeps nothing of this unit, a flow step: the backward pass rebuilds its input.
        """
        if tape is not None:
            assert isinstance(self.bijector, Composition)
            return run_step(self.bijector, tape, x, log_prob, context)
        x, latent, logdet = self.encode(x, context)
        log_prob = log_prob + logdet
        if latent is not None:
            log_prob = log_prob + standard_normal_log_prob(latent)
        return x, log_prob

    def encode(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the next state, the latents that are factored out (or None), and the log-determinant ``[N]``."""
        x, logdet = self.bijector(x, context)
        if not self.num_latent_channels:
            return x, None, logdet
        x, latent = x.split([x.shape[1] - self.num_latent_channels, self.num_latent_channels], dim=1)
        return x, latent, logdet

    def decode(self, x: Tensor, latent: Tensor | None, context: Tensor | None = None) -> Tensor:
        """Return the state before this unit: the inverse of ``encode``."""
        if latent is not None:
            x = torch.cat([x, latent], dim=1)
        return self.bijector.invert(x, context)


class Glow(nn.Module):
    """The multiscale Glow, a density model of discrete images.

    ``chain`` is one flat list of units: for each level a squeeze, K flow steps and a split; the last level ends in the
    top prior instead of the split. Parameter names depend on the config only. ``labels`` are class numbers, int64
    ``[N]``: a class-conditional model needs them, any other model takes None.

    Attributes:
        num_dims: Numbers in an image, ``C * H * W``.
        levels: The indices in ``chain`` of each level.
        latent_shapes: The shape ``(C, H, W)`` of the latents of each level, shallowest level first.
        state_shapes: The shape ``(C, H, W)`` of the input of each unit.
        num_classes: 0 for a model without classes.

    Raises:
        ValueError: when the config has no image shape, or is class-conditional and has no number of classes.

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
        self.levels: list[range] = []
        self.state_shapes: list[tuple[int, int, int]] = []
        channels, height, width = config.image_shape
        for level, num_steps in enumerate(config.steps):
            self.state_shapes.append((channels, height, width))
            shape = channels, height, width = 4 * channels, height // 2, width // 2
            self.state_shapes += [shape] * (num_steps + 1)
            units.append(Unit(Squeeze()))
            units.extend(Unit(flow_step(shape, index, config)) for index in range(num_steps))
            self.levels.append(range(len(units) - 1 - num_steps, len(units) + 1))
            is_last = level == config.num_levels - 1
            num_latent = channels if is_last else channels // 2
            units.append(Unit(top_prior(shape, config) if is_last else split_prior(shape, config), num_latent))
            self.latent_shapes.append((num_latent, height, width))
            channels -= num_latent
        self.chain = nn.ModuleList(units)  # type: ignore[assignment]
        self.runner = ChainRunner()
        self.num_classes = class_channels(config)
        self.dequantizer = VariationalDequantizer(config) if config.dequantization == "variational" else None

    def forward(self, images: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the log-probability of discrete images, ``[N]``, in nats.

        It is one sample of a lower bound: its mean over uniform noise is at most the exact log-probability.

        Args:
            images: uint8 ``[N, C, H, W]``.
            noise: Dequantisation noise in (0, 1), of the same shape and of the dtype of the parameters.
            labels: Classes ``[N]``, or None.

        Raises:
            ValueError: for images of another shape or dtype, or labels where none belong or the other way round.
        """
        return self.cumulative_log_prob(images, noise, labels)[-1]

    def cumulative_log_prob(self, images: Tensor, noise: Tensor, labels: Tensor | None = None) -> list[Tensor]:
        """Return the log-probability so far ``[N]``, in nats, after the dequantisation and after each level.

        These are L + 1 tensors; the last is what ``forward`` returns.
        """
        with torch.autocast(images.device.type, enabled=False):
            x, log_prob = self.dequantize(images, noise)
            context = self.context(labels, x)
            cumulative = [log_prob]
            for level in self.levels:
                x, log_prob = self.runner.run([self.chain[index] for index in level], x, log_prob, context)
                cumulative.append(log_prob)
            return cumulative

    def dequantize(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the continuous images ``[N, C, H, W]``, and what dequantisation adds to the log-probability, ``[N]``.

        That is the log-volume of a cell of the data grid, minus the log-density of the noise, in nats.

        Raises:
            ValueError: for images of another shape or dtype.
        """
        if images.shape[1:] != self.image_shape or noise.shape != images.shape:
            raise ValueError(
                f"images {list(images.shape)} and noise {list(noise.shape)} must both be [N, C, H, W] with "
                f"[C, H, W] = {list(self.image_shape)}"
            )
        bits = self.config.num_bits
        log_prob = noise.new_full((len(noise),), log_volume(self.num_dims, bits))
        if self.dequantizer is not None:
            centres = dequantize(images, torch.full_like(noise, 0.5), bits)
            noise, entropy = self.dequantizer(centres, noise)
            log_prob = log_prob + entropy
        return dequantize(images, noise, bits), log_prob

    def context(self, labels: Tensor | None, x: Tensor) -> Tensor | None:
        """Return the context of the chain: the labels, one-hot, ``[N, classes, 1, 1]``, of the dtype of ``x``.

        Raises:
            ValueError: for a class-conditional model without labels, or labels for any other model.
        """
        if (labels is None) == (self.num_classes > 0):
            raise ValueError(
                "this model is class_conditional and needs labels"
                if self.num_classes
                else "this model is not class_conditional and takes no labels"
            )
        if labels is None:
            return None
        return nn.functional.one_hot(labels, self.num_classes).to(x.dtype)[:, :, None, None]

    def encode(self, x: Tensor, labels: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Return the latents and the logdet ``[N]``, in nats, of a point ``x [N, C, H, W]`` in data space.

        There is one latent tensor per level, shallowest first. Each is N(0, I) under the model.
        """
        latents, total, context = [], x.new_zeros(len(x)), self.context(labels, x)
        with torch.autocast(x.device.type, enabled=False):
            for unit in self.chain:
                x, latent, logdet = unit.encode(x, context)
                total = total + logdet
                if latent is not None:
                    latents.append(latent)
        return latents, total

    def decode(self, latents: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Return the point in data space ``[N, C, H, W]``: the exact inverse of ``encode``."""
        remaining = list(latents)
        x = remaining[-1][:, :0]
        context = self.context(labels, x)
        with torch.autocast(x.device.type, enabled=False):
            for unit in reversed(self.chain):
                x = unit.decode(x, remaining.pop() if unit.num_latent_channels else None, context)
        return x

    def sample(self, noise: Tensor, temperature: float | Sequence[float], labels: Tensor | None = None) -> Tensor:
        """Return the uint8 images ``[N, C, H, W]`` of standard normal noise ``[N, C*H*W]`` times the temperature.

        Args:
            noise: One row per image. It is cut into the latents of the levels, shallowest first.
            temperature: One number, or one per level, shallowest first. 0 is deterministic. With affine couplings this
                is not sampling from p(x)^(1/T^2), which would need the normaliser of that density.
            labels: Classes, or None.

        Raises:
            ValueError: for another number of temperatures than levels, or as ``forward`` for the labels.
        """
        return quantize(self.decode(self.scale_noise(noise, temperature), labels), self.config.num_bits)

    def scale_noise(self, noise: Tensor, temperature: float | Sequence[float]) -> list[Tensor]:
        """Cut noise ``[N, C*H*W]`` into the latents of the levels, times the temperature; see ``sample``."""
        num_levels = len(self.latent_shapes)
        temperatures = [temperature] * num_levels if isinstance(temperature, int | float) else temperature
        if len(temperatures) != num_levels:
            raise ValueError(
                f"temperature: {len(temperatures)} numbers for {num_levels} levels; give one, or one per level"
            )
        parts = noise.split([math.prod(shape) for shape in self.latent_shapes], dim=1)
        scaled = zip(parts, self.latent_shapes, temperatures, strict=True)
        return [scale * part.reshape(-1, *shape) for part, shape, scale in scaled]

    def set_memory(self, mode: str, anchor_every: int | None = None) -> None:
        """Choose what autograd keeps for the backward pass: one of the modes of ``ChainRunner``.

        The networks of a variational dequantiser lie outside the chain. Both modes that save memory recompute them.
        """
        in_chain = set(self.chain.modules()) if isinstance(self.chain, nn.Module) else set()
        for module in self.modules():
            if isinstance(module, Network):
                module.is_recomputed = mode == "checkpoint" or (mode == "reversible" and module not in in_chain)
        self.runner = ChainRunner(mode, anchor_every)

    def initialize(
        self,
        images: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        *,
        microbatch_size: int | None = None,
        whitens: bool = False,
    ) -> None:
        """Set all ActNorms from a batch (a collective: from the batches of all processes).

        Call it before the model is wrapped, by DDP for example. The arguments are those of ``forward``; they may lie in
        host memory.

        Args:
            images: uint8 ``[N, C, H, W]``.
            noise: Of the same shape.
            labels: Classes ``[N]``, or None.
            microbatch_size: Images that are computed at once; the result is the same, up to rounding. None: all.
            whitens: Whether to set also the first 1x1 convolution of each level, by ``whiten``. It must be learned.
        """
        device = next(self.parameters()).device
        given = [value for value in (images, noise, labels) if value is not None]
        states: list[tuple[Tensor, ...]] = list(zip(*(v.split(microbatch_size or len(v)) for v in given), strict=True))
        if len(states) == 1 and not whitens:
            initialize_actnorms(self, *(value.to(device) for value in states[0]))
            return

        def enter(state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            images, noise, *labels = (value.to(device) for value in state)
            return self.dequantize(images, noise)[0], *labels

        def advance(unit: Unit, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x, *labels = state
            return unit.encode(x, self.context(labels[0] if labels else None, x))[0], *labels

        with torch.autocast(device.type, enabled=False):
            initialize_part(self.dequantizer or nn.Module(), enter, states, "dequantizer")
            first_steps = {level[1] for level in self.levels}  # after the squeeze
            for index, unit in enumerate(self.chain):
                if whitens and index in first_steps:
                    assert isinstance(unit.bijector, Composition)
                    whiten(unit.bijector.bijectors[1], lambda: (x for x, *_ in states))
                initialize_part(unit, partial(advance, unit), states, f"chain.{index}")


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Return the log-density of N(0, I), ``[N, ...] -> [N]``, in nats."""
    return -0.5 * (sum_per_example(z.square()) + math.prod(z.shape[1:]) * math.log(2 * math.pi))
