"""Import models that glow.py of github.com/kamenbliznashki/normalizing_flows trained."""

from __future__ import annotations

import itertools
import re

import torch
from torch import Tensor
from torch.nn import functional as F

from glow.config import ModelConfig
from glow.importing.converting import State, actnorm, check_trained, convert, even_then_odd, lu_convolution, named


def from_kamenbliznashki(
    state: State, image_size: int = 64, num_bits: int = 5, image_range: tuple[float, float] = (0.0, 1.0)
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Convert a state dict of kamenbliznashki's glow.py to config and state dict (float64) of a ``Glow``.

    The ``Glow`` returns the same log-probabilities, up to the constant of the bit depth, which is always that of 8 bits
    there. It decodes the same latents to the same images. The conventions differ so:

    - ActNorm subtracts a bias and divides by a scale, which may be negative. The sign goes into the convolution beside.
    - A coupling changes the first half of the channels, and scales before it shifts.
    - The networks and priors return shift and scale in turn, times ``exp(s)`` instead of ``exp(3 s)``.
    - The last convolution of a network sees a border: the hidden layer of a pixel of zeros.

    Args:
        state: Tensors by name, with or without the prefix ``module.``.
        image_size: Height and width of the images. The file does not contain it.
        num_bits: Bits per channel. The file does not contain it.
        image_range: The numbers at the two ends of the grid of levels, as that model took them.

    Raises:
        ValueError: when it is not such a state dict, was never trained, or is not finite.
    """
    low, high = image_range
    centred = (low - 0.5, high - 0.5)  # the model subtracts 1/2 itself
    return convert("kamenbliznashki", state, centred, lambda theirs: _config(theirs, image_size, num_bits), _tensors)


def _step_name(level: int, step: int, num_levels: int) -> str:
    return f"flowstep.{step}" if level == num_levels - 1 else f"flowlevels.{level}.flowsteps.{step}"


def _config(theirs: State, image_size: int, num_bits: int) -> ModelConfig:
    check_trained(theirs, "initialized")
    matches = [re.match(r"flowlevels\.(\d{1,2})\.", name) for name in theirs]
    num_levels = 2 + max((int(match[1]) for match in matches if match), default=-1)
    matches = [re.match(r"flowstep\.(\d{1,4})\.", name) for name in theirs]
    num_steps = 1 + max((int(match[1]) for match in matches if match), default=0)
    for level, step in itertools.product(range(num_levels), range(num_steps)):  # before anything of their number
        if f"{_step_name(level, step, num_levels)}.0.bias" not in theirs:
            raise KeyError(f"{_step_name(level, step, num_levels)}.0.bias")
    first = _step_name(0, 0, num_levels)
    if image_size % 2**num_levels:
        raise ValueError(f"image_size: {image_size} is not allowed; give a multiple of 2^L = {2**num_levels}")
    return ModelConfig(
        image_shape=(theirs[f"{first}.0.bias"].shape[1] // 4, image_size, image_size),
        num_bits=num_bits,
        num_levels=num_levels,
        num_steps_per_level=num_steps,
        hidden_channels=theirs[f"{first}.2.conv1.weight"].shape[0],
        mask="first_channels",
        shift="last",
        permutation="lu" if f"{first}.1.l" in theirs else "plain",
        network_padding="indicator",
    )


def _tensors(theirs: State, config: ModelConfig) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    place, num_levels = 0, config.num_levels
    for level in range(num_levels):
        for step in range(config.steps[level]):
            place += 1
            source = _step_name(level, step, num_levels)
            ours |= named(f"chain.{place}.bijector.bijectors", _step(theirs, source, config))
        place += 1
        if level < num_levels - 1:
            split = _last_convolution(theirs, f"flowlevels.{level}.split.gaussianize", "net")
            split["weight"] = F.pad(split["weight"], (0, 0, 0, 0, 0, 1))  # here the border is 0
            ours |= named(f"chain.{place}.bijector.conv", split)
        else:
            top = _last_convolution(theirs, "gaussianize", "net")
            mean, log_scale = (top["bias"] * (3 * top["log_scale"]).exp()).chunk(2)
            ours |= {f"chain.{place}.bijector.mean": mean, f"chain.{place}.bijector.log_scale": log_scale}
        place += 1
    return ours


def _step(theirs: State, source: str, config: ModelConfig) -> dict[str, Tensor]:
    sign, ours = _divisive_actnorm(theirs, f"{source}.0")
    ours = named("0", ours)
    if config.permutation == "lu":
        names = [f"{source}.1.{name}" for name in ("p", "l", "u", "log_s", "sign_s")]
        ours |= named("1", lu_convolution(theirs, names, sign))
    else:
        ours["1.matrix"] = theirs[f"{source}.1.w"] * sign
    for number in (1, 2):
        sign, hidden = _divisive_actnorm(theirs, f"{source}.2.actnorm{number}", after=True)
        weight = theirs[f"{source}.2.conv{number}.weight"] * sign[:, None, None, None]
        if number == 1:
            weight = F.pad(weight, (0, 0, 0, 0, 0, 1))
        ours |= {f"2.net.conv{number}.weight": weight} | named(f"2.net.conv{number}.actnorm", hidden)
    last = _last_convolution(theirs, f"{source}.2", "conv3")
    border = (hidden["bias"] * hidden["log_scale"].exp()).relu()  # what the second layer makes of zeros
    seen = torch.einsum("ochw,c->ohw", last["weight"], border)
    last["weight"] = torch.cat([last["weight"], seen[:, None]], dim=1)
    return ours | named("2.net.conv3", last)


def _divisive_actnorm(theirs: State, source: str, after: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the signs of the scales, and the ActNorm without them: before the signs are applied, or after."""
    bias, scale = theirs[f"{source}.bias"].flatten(), theirs[f"{source}.scale"].flatten()
    sign = scale.sign()
    return sign, actnorm(-bias * sign if after else -bias, -scale.abs().log())


def _last_convolution(theirs: State, source: str, conv: str) -> dict[str, Tensor]:
    ours = {
        "weight": theirs[f"{source}.{conv}.weight"],
        "bias": theirs[f"{source}.{conv}.bias"],
        "log_scale": theirs[f"{source}.log_scale_factor"].flatten() / 3,
    }
    return {name: even_then_odd(tensor) for name, tensor in ours.items()}
