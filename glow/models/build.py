"""Build flow steps, coupling networks and priors from the config of the model."""

from __future__ import annotations

from glow.bijectors.actnorm import ActNorm
from glow.bijectors.base import Bijector
from glow.bijectors.conv1x1 import PERMUTATIONS
from glow.bijectors.coupling import AdditiveCoupling, AffineCoupling
from glow.bijectors.mask import ChannelMask, CheckerboardMask, Mask
from glow.bijectors.mixture import MixtureCoupling, parameters_per_number
from glow.bijectors.step import FlowStep
from glow.config import ModelConfig
from glow.models.priors import BorderTopPrior, Identity, PixelPrior, SplitPrior, TopPrior
from glow.networks.base import Network
from glow.networks.convolutional import CouplingNet
from glow.networks.gated import GatedNet

Shape = tuple[int, int, int]


def flow_step(shape: Shape, index: int, config: ModelConfig) -> FlowStep:
    """Build step ``index`` of a level whose state has ``shape``: C, H, W."""
    channels, _, _ = shape
    mask = (
        CheckerboardMask(index % 2)
        if config.mask == "checkerboard"
        else ChannelMask(int(config.mask == "first_channels"))
    )
    return FlowStep(ActNorm(channels), PERMUTATIONS[config.permutation](channels), _coupling(shape, mask, config))


def split_prior(shape: Shape, config: ModelConfig) -> Bijector:
    """Build the prior of the latents that a split factors out of a state of ``shape``: half of the channels."""
    channels, height, width = shape
    if config.split_prior == "standard":
        return Identity()
    if config.split_prior == "pixel":
        return PixelPrior((channels // 2, height, width), class_channels(config))
    return SplitPrior(channels, config.network_padding, class_channels(config))


def top_prior(shape: Shape, config: ModelConfig) -> Bijector:
    """Build the prior of the last level, whose state has ``shape``."""
    if config.top_prior == "standard":
        return Identity()
    if config.top_prior == "pixel":
        return PixelPrior(shape, class_channels(config))
    if config.top_prior == "border":
        return BorderTopPrior(shape[0], config.network_padding, class_channels(config))
    return TopPrior(shape[0], class_channels(config))


def class_channels(config: ModelConfig) -> int:
    """Return the number of channels of the context: one per class, or 0 for a model without classes.

    Raises:
        ValueError: when the model is class-conditional and ``num_classes`` is not set.
    """
    if not config.class_conditional:
        return 0
    if config.num_classes is None:
        raise ValueError("model.num_classes is not set: a class_conditional model needs it")
    return config.num_classes


def coupling_network(
    channels: tuple[int, int], width: int, size: tuple[int, int], context_channels: int, config: ModelConfig
) -> Network:
    """Build a network from ``channels[0]`` to ``channels[1]`` channels, for states of height and width ``size``."""
    if config.network == "gated":
        blocks = config.num_network_blocks or 2
        return GatedNet(channels[0], width, channels[1], size, num_blocks=blocks, context_channels=context_channels)
    return CouplingNet(
        channels[0],
        width,
        channels[1],
        context_channels=context_channels,
        actnorm=config.network_actnorm,
        padding=config.network_padding,
    )


def _coupling(shape: Shape, mask: Mask, config: ModelConfig) -> Bijector:
    channels, height, width = shape
    changed = channels // 2 if isinstance(mask, ChannelMask) else channels

    def network(parameters: int) -> Network:
        sizes = (changed, parameters * changed)
        return coupling_network(sizes, config.hidden_channels, (height, width), class_channels(config), config)

    if config.coupling == "additive":
        return AdditiveCoupling(network(1), mask)
    if config.coupling == "affine":
        return AffineCoupling(network(2), mask, config.scale or "sigmoid", shifts_last=config.shift == "last")
    num_mixtures = config.num_mixtures or 8
    return MixtureCoupling(network(parameters_per_number(num_mixtures)), mask, num_mixtures)
