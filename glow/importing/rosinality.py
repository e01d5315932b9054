"""Import models that github.com/rosinality/glow-pytorch trained; they compute the same, up to rounding."""

from __future__ import annotations

import itertools
import re

import torch
from torch import Tensor

from glow.config import ModelConfig
from glow.importing.converting import State, actnorm, check_trained, convert, lu_convolution, named


def from_rosinality(
    state: State, image_size: int = 64, num_bits: int = 5, image_range: tuple[float, float] = (-0.5, 0.5)
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Convert a state dict of github.com/rosinality/glow-pytorch to config and state dict (float64) of a ``Glow``.

    The ``Glow`` returns the same log-probabilities, up to the constant of the bit depth, which that program adds
    outside of its model. It decodes the same latents to the same images. The conventions differ so:

    - Its ActNorm scales may be negative. The sign goes into the 1x1 convolution that follows.
    - Its coupling networks return scale before shift, and have no ActNorm.
    - It pads the input of the last convolution, and of the convolutions of the priors, with ones.

    Args:
        state: Tensors by name, with or without the prefix ``module.``.
        image_size: Height and width of the images. The file does not contain it.
        num_bits: Bits per channel. The file does not contain it.
        image_range: The numbers at the two ends of the grid of levels, as that model took them.

    Raises:
        ValueError: when it is not such a state dict, was never trained, or is not finite.
    """
    return convert("rosinality", state, image_range, lambda theirs: _config(theirs, image_size, num_bits), _convert)


def _config(theirs: State, image_size: int, num_bits: int) -> ModelConfig:
    check_trained(theirs, "actnorm.initialized")
    numbers = [re.match(r"blocks\.(\d{1,2})\.flows\.(\d{1,4})\.", name) for name in theirs]
    steps = {(int(match[1]), int(match[2])) for match in numbers if match}
    num_levels, num_steps = (1 + max((step[part] for step in steps), default=0) for part in (0, 1))
    if len(steps) < num_levels * num_steps:
        places = itertools.product(range(num_levels), range(num_steps))
        raise KeyError("blocks.{}.flows.{}".format(*next(place for place in places if place not in steps)))
    channels = theirs["blocks.0.flows.0.actnorm.loc"].shape[1]
    network = "blocks.0.flows.0.coupling.net"
    is_affine = theirs[f"{network}.4.conv.weight"].shape[0] == channels
    if image_size % 2**num_levels:
        raise ValueError(f"image_size: {image_size} is not allowed; give a multiple of 2^L = {2**num_levels}")
    return ModelConfig(
        image_shape=(channels // 4, image_size, image_size),
        num_bits=num_bits,
        num_levels=num_levels,
        num_steps_per_level=num_steps,
        hidden_channels=theirs[f"{network}.0.weight"].shape[0],
        coupling="affine" if is_affine else "additive",
        permutation="lu" if "blocks.0.flows.0.invconv.w_p" in theirs else "plain",
        network_actnorm=False,
        network_padding="ones",
        top_prior="border",
    )


def _convert(theirs: State, config: ModelConfig) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for level in range(config.num_levels):
        first = level * (config.steps[level] + 2)  # the squeeze
        for step in range(config.steps[level]):
            prefix = f"chain.{first + 1 + step}.bijector.bijectors"
            ours |= named(prefix, _convert_step(theirs, f"blocks.{level}.flows.{step}", config))
        prior, source = f"chain.{first + 1 + config.steps[level]}.bijector.conv", f"blocks.{level}.prior"
        ours |= {
            f"{prior}.weight": theirs[f"{source}.conv.weight"],
            f"{prior}.bias": theirs[f"{source}.conv.bias"],
            f"{prior}.log_scale": theirs[f"{source}.scale"].flatten(),
        }
    return ours


def _plain_weight(theirs: State, source: str) -> Tensor:
    """Return W. The last block of that program is always LU-decomposed, even if the other blocks are not."""
    if f"{source}.w_p" not in theirs:
        return theirs[f"{source}.weight"].flatten(1)
    diagonal = torch.diag(theirs[f"{source}.s_sign"] * theirs[f"{source}.w_s"].exp())
    identity = torch.eye(len(diagonal), dtype=diagonal.dtype, device=diagonal.device)
    lower, upper = theirs[f"{source}.w_l"].tril(-1) + identity, theirs[f"{source}.w_u"].triu(1) + diagonal
    return theirs[f"{source}.w_p"] @ lower @ upper


def _convert_step(theirs: State, source: str, config: ModelConfig) -> dict[str, Tensor]:
    scale = theirs[f"{source}.actnorm.scale"].flatten()
    sign = scale.sign()
    ours = named("0", actnorm(theirs[f"{source}.actnorm.loc"], scale.abs().log()))
    if config.permutation == "lu":
        names = [f"{source}.invconv.{name}" for name in ("w_p", "w_l", "w_u", "w_s", "s_sign")]
        ours |= named("1", lu_convolution(theirs, names, sign))
    else:
        ours["1.matrix"] = _plain_weight(theirs, f"{source}.invconv") * sign
    last = {
        "weight": theirs[f"{source}.coupling.net.4.conv.weight"],
        "bias": theirs[f"{source}.coupling.net.4.conv.bias"],
        "log_scale": theirs[f"{source}.coupling.net.4.scale"].flatten(),
    }
    if config.coupling == "affine":
        # Their order is scale, shift; ours is shift, scale.
        last = {name: torch.cat(tensor.chunk(2)[::-1]) for name, tensor in last.items()}
    for number, name in ((0, "conv1"), (2, "conv2")):
        ours[f"2.net.{name}.weight"] = theirs[f"{source}.coupling.net.{number}.weight"]
        ours[f"2.net.{name}.bias"] = theirs[f"{source}.coupling.net.{number}.bias"]
    return ours | named("2.net.conv3", last)
