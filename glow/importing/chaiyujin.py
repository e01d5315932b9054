"""Import models of github.com/chaiyujin/glow-pytorch, and of github.com/y0ast/Glow-PyTorch, which names them anew."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from glow.config import ModelConfig
from glow.importing.converting import State, actnorm, check_size, convert, even_then_odd, lu_convolution, named


@dataclass(frozen=True)
class _Names:
    """How one of the two programs names its tensors."""

    program: str
    network: str
    conv: str
    linear: str
    lower: str
    upper: str
    top: str


_CHAIYUJIN = _Names("chaiyujin", "f", "", "", "l", "u", "learn_top")
_Y0AST = _Names("y0ast", "block", "conv.", "linear.", "lower", "upper", "learn_top_fn")


def from_y0ast(
    state: State, image_size: int | None = None, num_bits: int = 8, image_range: tuple[float, float] = (-0.5, 0.5)
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Convert a state dict of github.com/y0ast/Glow-PyTorch to config and state dict (float64) of a ``Glow``.

    The ``Glow`` returns the same log-probabilities, and decodes the same latents to the same images. The conventions
    differ so:

    - The coupling networks and the priors of the splits return shift and scale, mean and scale, in turn.
    - The prior of the last level is a convolution of zeros, which is its bias: one mean and scale for each channel.
    - Only this prior sees the class. Our other weights of the class are 0.

    Args:
        state: Tensors by name.
        image_size: Height and width of the images. The file contains them; None: whatever they are.
        num_bits: Bits per channel. The file does not contain it.
        image_range: The numbers at the two ends of the grid of levels, as that model took them.

    Raises:
        ValueError: when it is not such a state dict, is not finite, or has permutations, which it does not contain.
    """
    return _convert(state, _Y0AST, (image_size, num_bits), image_range)


def from_chaiyujin(
    state: State,
    image_size: int | None = None,
    num_bits: int = 8,
    image_range: tuple[float, float] = (-0.5 / 255, 255.5 / 255),
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Convert a state dict of github.com/chaiyujin/glow-pytorch, as ``from_y0ast`` does for that program.

    Here level k of an image was the number ``k / 255``, with normal noise. We give it the cell of width 1/255 around
    that number.

    Raises:
        ValueError: as ``from_y0ast``; also for a model with attributes: an image of it has several, ours one class.
    """
    if any(name.removeprefix("module.").startswith("project_ycond.") for name in state):
        raise ValueError("the model has attributes (y_condition): an image has several, but our models take one class")
    return _convert(state, _CHAIYUJIN, (image_size, num_bits), image_range)


def _convert(
    state: State, names: _Names, given: tuple[int | None, int], image_range: tuple[float, float]
) -> tuple[ModelConfig, dict[str, Tensor]]:
    return convert(
        names.program,
        state,
        image_range,
        lambda theirs: _config(theirs, names, *given),
        lambda theirs, config: _tensors(theirs, config, names),
    )


def _config(theirs: State, names: _Names, image_size: int | None, num_bits: int) -> ModelConfig:
    matches = (re.fullmatch(r"flow\.layers\.(\d{1,5})\.(actnorm\.bias|conv\.logs)", name) for name in theirs)
    found = {int(match[1]): match[2] for match in matches if match}
    num_levels = 1 + sum(kind == "conv.logs" for kind in found.values())
    num_steps = (len(found) + 1) // num_levels - 1
    expected = {
        level * (num_steps + 2) + within: "conv.logs" if within == num_steps + 1 else "actnorm.bias"
        for level in range(num_levels)
        for within in range(1, num_steps + (2 if level < num_levels - 1 else 1))
    }
    if found != expected:
        place, _ = min(found.items() ^ expected.items())
        raise TypeError(f"flow.layers.{place} is missing or out of place")
    channels = theirs["flow.layers.1.actnorm.bias"].shape[1]
    if not any(name.startswith("flow.layers.1.invconv.") for name in theirs):
        raise ValueError("the model mixes channels by permutations (reverse or shuffle), which the file does not hold")
    hidden, out = (theirs[f"flow.layers.1.{names.network}.{i}.{names.conv}weight"].shape[0] for i in (0, 4))
    height, width = (theirs["prior_h"].shape[axis] << num_levels for axis in (2, 3))
    check_size(image_size, height, width)
    if theirs["prior_h"].any():
        raise ValueError("the model is broken: prior_h is not 0")
    class_weight = theirs.get(f"project_ycond.{names.linear}weight")
    has_top = class_weight is not None or f"{names.top}.logs" in theirs
    return ModelConfig(
        image_shape=(channels // 4, height, width),
        num_bits=num_bits,
        num_levels=num_levels,
        num_steps_per_level=num_steps,
        hidden_channels=hidden,
        coupling="affine" if out == channels else "additive",
        permutation="lu" if "flow.layers.1.invconv.p" in theirs else "plain",
        top_prior="learned" if has_top else "standard",
        class_conditional=class_weight is not None,
        num_classes=None if class_weight is None else class_weight.shape[1],
    )


def _tensors(theirs: State, config: ModelConfig, names: _Names) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    place = 0  # the same in both chains
    for level, num_steps in enumerate(config.steps):
        for _ in range(num_steps):
            place += 1
            ours |= named(f"chain.{place}.bijector.bijectors", _step(theirs, f"flow.layers.{place}", config, names))
        place += 1
        if level < config.num_levels - 1:
            split = _last_convolution(theirs, f"flow.layers.{place}.conv", names, True)
            ours |= named(f"chain.{place}.bijector.conv", split)
        elif config.top_prior == "learned":
            ours |= named(f"chain.{place}.bijector", _top_prior(theirs, names))
        place += 1
    return ours


def _step(theirs: State, source: str, config: ModelConfig, names: _Names) -> dict[str, Tensor]:
    ours = named("0", actnorm(theirs[f"{source}.actnorm.bias"], theirs[f"{source}.actnorm.logs"]))
    if config.permutation == "lu":
        parts = [f"{source}.invconv.{name}" for name in ("p", names.lower, names.upper, "log_s", "sign_s")]
        ours |= named("1", lu_convolution(theirs, parts))
    else:
        ours["1.matrix"] = theirs[f"{source}.invconv.weight"]
    network = f"{source}.{names.network}"
    for number, name in ((0, "conv1"), (2, "conv2")):
        ours[f"2.net.{name}.weight"] = theirs[f"{network}.{number}.{names.conv}weight"]
        logs = theirs[f"{network}.{number}.actnorm.logs"]
        ours |= named(f"2.net.{name}.actnorm", actnorm(theirs[f"{network}.{number}.actnorm.bias"], logs))
    last = _last_convolution(theirs, f"{network}.4", names, config.coupling == "affine")
    return ours | named("2.net.conv3", last)


def _last_convolution(theirs: State, source: str, names: _Names, in_turn: bool) -> dict[str, Tensor]:
    ours = {
        "weight": theirs[f"{source}.{names.conv}weight"],
        "bias": theirs[f"{source}.{names.conv}bias"],
        "log_scale": theirs[f"{source}.logs"].flatten(),
    }
    return {name: even_then_odd(tensor) for name, tensor in ours.items()} if in_turn else ours


def _top_prior(theirs: State, names: _Names) -> dict[str, Tensor]:
    mean_and_log_scale = torch.zeros_like(theirs["prior_h"][0, :, 0, 0])
    ours = {}
    if f"{names.top}.logs" in theirs:
        bias, logs = theirs[f"{names.top}.{names.conv}bias"], theirs[f"{names.top}.logs"].flatten()
        mean_and_log_scale = mean_and_log_scale + bias * (3 * logs).exp()
    if "project_ycond.logs" in theirs:
        scale = (3 * theirs["project_ycond.logs"]).exp()
        mean_and_log_scale = mean_and_log_scale + theirs[f"project_ycond.{names.linear}bias"] * scale
        weight = theirs[f"project_ycond.{names.linear}weight"] * scale[:, None]
        ours["context.weight"] = weight[:, :, None, None]
    mean, log_scale = mean_and_log_scale.chunk(2)
    return ours | {"mean": mean, "log_scale": log_scale}
