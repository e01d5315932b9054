"""The most similar Glow that normflows offers, to compare with; DIFFERENCES lists what is not the same."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from glow.config import ModelConfig
from glow.models.images import dequantize, log_volume, quantize

TOLERANCE = 0.02
DIFFERENCES = (
    "ActNorm scales first and then shifts",
    "the last convolution of a coupling network has no learned scale",
    "with split_prior learned, the latents of a split have one mean and scale a channel, not those of a convolution",
    "with top_prior learned, mean and scale of the last level have learned factors of their own",
)
OFFERED: dict[str, tuple[object, ...]] = {
    "coupling": ("affine", "additive"),
    "mask": ("channels",),
    "scale": (None, "sigmoid"),
    "shift": (None, "first"),
    "permutation": ("lu", "plain"),
    "network": ("conv",),
    "network_padding": ("zeros",),
    "network_actnorm": (False,),
    "split_prior": ("learned", "standard"),
    "top_prior": ("learned", "standard"),
    "class_conditional": (False,),
    "dequantization": ("uniform",),
}


class NormflowsGlow(nn.Module):
    """A multiscale Glow of normflows with the inputs and outputs of ours.

    Args:
        config: With image shape.
        autocast: Precision of torch.autocast for the whole model; None: float32.

    Raises:
        ValueError: for a model that normflows does not have, or if normflows is not installed.

    Source: normflows' documentation, the example of Glow on CIFAR-10.
    """

    def __init__(self, config: ModelConfig, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        normflows = _normflows()
        for name, values in OFFERED.items():
            if getattr(config, name) not in values:
                raise ValueError(
                    f"model.{name}: {getattr(config, name)!r}, but against normflows only "
                    f"{', '.join(map(str, values))} can be compared"
                )
        assert config.image_shape is not None
        self.config = config
        self.autocast = autocast
        self.num_dims = math.prod(config.image_shape)
        channels, height, width = config.image_shape
        bases, flows, merges = [], [], []
        for level in range(config.num_levels, 0, -1):  # deepest first
            is_last = level == config.num_levels
            size = (height >> level, width >> level)
            num_channels = channels * 2 ** (level + 1)
            bases.append(_base((num_channels if is_last else num_channels // 2, *size), is_last, config))
            blocks = [_block(num_channels, config) for _ in range(config.steps[level - 1])]
            flows.append([*blocks, normflows.flows.Squeeze()])
            merges += [] if is_last else [normflows.flows.Merge()]
        self.glow = normflows.MultiscaleFlow(bases, flows, merges, class_cond=False)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return the log-probability of discrete images, ``[N]``, in nats."""
        x = dequantize(images, noise, self.config.num_bits)
        with torch.autocast(x.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            return self.glow.log_prob(x, None) + log_volume(self.num_dims, self.config.num_bits)

    @torch.no_grad()
    def sample(self, count: int, temperature: float) -> Tensor:
        """Draw uint8 images ``[N, C, H, W]``."""
        device = next(self.parameters()).device.type
        with torch.autocast(device, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            x, _ = self.glow.sample(count, temperature=temperature)
        return quantize(x, self.config.num_bits)


def comparable(config: ModelConfig) -> ModelConfig:
    """Return the most similar model that can be compared: without ActNorm in coupling networks."""
    return dataclasses.replace(config, network_actnorm=False)


@torch.no_grad()
def compare_sizes(ours: nn.Module, theirs: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, dict[str, int]]:
    """Count parameters, and multiply-accumulates of one image, of two initialised models.

    Raises:
        ValueError: when they differ by more than TOLERANCE.
    """
    models = {"ours": ours, "normflows": theirs}
    sizes = {
        "num_parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
        "num_macs": {name: count_macs(model, image_shape) for name, model in models.items()},
    }
    for quantity, values in sizes.items():
        difference = values["normflows"] / values["ours"] - 1
        if abs(difference) > TOLERANCE:
            raise ValueError(
                f"against normflows: its model has {difference:+.1%} {quantity} ({values['normflows']:,}, ours "
                f"{values['ours']:,}); a fair comparison needs models that differ by at most {TOLERANCE:.0%}"
            )
    return sizes


@torch.no_grad()
def count_macs(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the multiply-accumulates of the log-probability of one image, without those of the weights alone."""
    device = next(model.parameters()).device
    flops = []
    for count in (1, 2):
        images = torch.zeros(count, *image_shape, dtype=torch.uint8, device=device)
        with FlopCounterMode(display=False) as counter:
            model(images, torch.full_like(images, 0.5, dtype=torch.float32))
        flops.append(counter.get_total_flops())
    return (flops[1] - flops[0]) // 2


def _block(num_channels: int, config: ModelConfig) -> nn.Module:
    """Build a flow step."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.lu is deprecated")  # normflows 1.7.3 with torch 2.11
        return _normflows().flows.GlowBlock(
            num_channels, config.hidden_channels, scale=config.coupling == "affine", use_lu=config.permutation == "lu"
        )


def _base(shape: tuple[int, int, int], is_last: bool, config: ModelConfig) -> nn.Module:
    """Build the density of the latents of a level."""
    distributions = _normflows().distributions
    if (config.top_prior if is_last else config.split_prior) == "standard":
        return distributions.DiagGaussian(shape, trainable=False)
    return distributions.GlowBase(shape)


def _normflows() -> Any:
    try:
        import normflows
    except ImportError as error:
        raise ValueError("against: normflows is not installed: pip install 'glow-flows[bench]'") from error
    return normflows
