"""Import models that were made of the ``GlowBlock`` and ``MultiscaleFlow`` of normflows."""

from __future__ import annotations

import re
from typing import Literal

import torch
from torch import Tensor

from glow.config import ModelConfig
from glow.importing.converting import State, actnorm, check_size, check_trained, convert, lu_convolution, named

NET = "flows.0.flows.1.param_map.net"


def from_normflows(
    state: State,
    image_size: int | None = None,
    num_bits: int = 8,
    image_range: tuple[float, float] = (0.0, 1.0),
    scale: Literal["sigmoid", "exp"] = "sigmoid",
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Convert a state dict of a ``MultiscaleFlow`` to config and state dict (float64) of a ``Glow``.

    The flow is that of normflows' example: in each level blocks and then a ``Squeeze``, between the levels a ``Merge``.
    The ``Glow`` returns the same log-probabilities, and decodes the same latents to the same images. The conventions
    differ so:

    - Levels, blocks and layers are listed from latents to data. Shifts and the scales of ActNorms have other signs.
    - The coupling networks return shift and scale in turn. Their last convolution has no scale.
    - Each number of the latents has its own mean and scale, also those of a split; ``GlowBase`` has one for each
      channel. They, and nothing else, depend on the class.

    Args:
        state: Tensors by name.
        image_size: Height and width of the images. With ``GlowBase``, the file does not contain them.
        num_bits: Bits per channel. The file does not contain it.
        image_range: The numbers at the two ends of the grid of levels, as that model took them.
        scale: ``scale_map`` of the blocks. The file does not contain it.

    Raises:
        ValueError: when it is not such a state dict, was never trained, or is not finite.
    """

    def config_of(theirs: State) -> ModelConfig:
        return _config(theirs, image_size, num_bits, scale)

    return convert("normflows", state, image_range, config_of, _tensors)


def _config(theirs: State, image_size: int | None, num_bits: int, scale: Literal["sigmoid", "exp"]) -> ModelConfig:
    check_trained(theirs, "data_dep_init_done")
    matches = [re.match(r"flows\.(\d{1,2})\.(\d{1,4})\.flows\.", name) for name in theirs]
    found = {(int(match[1]), int(match[2])) for match in matches if match}
    num_levels, num_steps = (1 + max((place[part] for place in found), default=0) for part in (0, 1))
    for level, step in ((level, step) for level in range(num_levels) for step in range(num_steps)):
        if (level, step) not in found:
            raise KeyError(f"flows.{level}.{step}")
    block = f"flows.{num_levels - 1}.0"  # the level next to the images is the last one
    channels = theirs[f"{block}.flows.2.s"].shape[1]
    has_actnorm = f"{block}.{NET}.1.actNorm.s" in theirs
    first, last = (theirs[f"{block}.{NET}.{number}.weight"] for number in (0, 6 if has_actnorm else 4))
    if first.shape[1] == channels:
        raise ValueError("the model has split_mode checkerboard, with which its networks see half as wide images")
    is_affine = last.shape[0] == channels
    size = _image_size(theirs, num_levels, image_size)
    check_size(image_size, *size)
    num_classes = max(_num_classes(theirs, f"q0.{level}") for level in range(num_levels))
    return ModelConfig(
        image_shape=(channels // 4, *size),
        num_bits=num_bits,
        num_levels=num_levels,
        num_steps_per_level=num_steps,
        hidden_channels=first.shape[0],
        coupling="affine" if is_affine else "additive",
        scale=scale if is_affine else None,
        permutation="lu" if f"{block}.flows.1.P" in theirs else "plain",
        network_actnorm=has_actnorm,
        split_prior="pixel",
        top_prior="pixel",
        class_conditional=num_classes > 0,
        num_classes=num_classes or None,
    )


def _image_size(theirs: State, num_levels: int, given: int | None) -> tuple[int, int]:
    """Return height and width of the images."""
    if "q0.0.loc_logs" not in theirs:
        loc = theirs["q0.0.loc"]
        height, width = loc.shape[1:3] if _num_classes(theirs, "q0.0") else loc.shape[2:4]
        return height << num_levels, width << num_levels
    if given is None:
        raise ValueError("image_size is not set; the file does not hold it")
    if given % 2**num_levels:
        raise ValueError(f"image_size: {given} is not allowed; give a multiple of 2^L = {2**num_levels}")
    return given, given


def _num_classes(theirs: State, source: str) -> int:
    """Return the number of classes of a base density; 0 for none."""
    if f"{source}.loc_logs" in theirs:  # GlowBase
        return len(theirs[f"{source}.loc_cc"]) if f"{source}.loc_cc" in theirs else 0
    loc = theirs[f"{source}.loc"]  # DiagGaussian [1, C, H, W], or ClassCondDiagGaussian [C, H, W, classes]
    return 0 if len(loc) == 1 else loc.shape[3]


def _tensors(theirs: State, config: ModelConfig) -> dict[str, Tensor]:
    assert config.image_shape is not None
    channels, height, width = config.image_shape
    ours: dict[str, Tensor] = {}
    place = 0
    for level, num_steps in enumerate(config.steps):
        other = config.num_levels - 1 - level
        channels, height, width = 4 * channels, height // 2, width // 2
        for step in reversed(range(num_steps)):
            place += 1
            ours |= named(f"chain.{place}.bijector.bijectors", _step(theirs, f"flows.{other}.{step}", config))
        channels //= 1 if other == 0 else 2
        place += 1
        ours |= named(f"chain.{place}.bijector", _prior(theirs, f"q0.{other}", (channels, height, width)))
        place += 1
    return ours


def _prior(theirs: State, source: str, shape: tuple[int, int, int]) -> dict[str, Tensor]:
    names, of_class = ("loc", "log_scale"), None
    if f"{source}.loc_logs" in theirs:  # GlowBase: a number a channel
        own = [theirs[f"{source}.{name}"][0] * (3 * theirs[f"{source}.{name}_logs"][0]).exp() for name in names]
        if f"{source}.loc_cc" in theirs:
            of_class = [
                theirs[f"{source}.{name}_cc"].transpose(0, 1)[:, None, None].expand(*shape, -1) for name in names
            ]
    elif _num_classes(theirs, source):
        of_class = [theirs[f"{source}.{name}"] for name in names]
        own = [torch.zeros_like(tensor[..., 0]) for tensor in of_class]
    else:
        own = [theirs[f"{source}.{name}"][0] for name in names]
    ours = dict(zip(("mean", "log_scale"), (tensor.expand(shape).contiguous() for tensor in own), strict=True))
    if of_class is not None:
        ours["context.weight"] = torch.stack(of_class).flatten(0, 3)[:, :, None, None]
    return ours


def _step(theirs: State, block: str, config: ModelConfig) -> dict[str, Tensor]:
    ours = named("0", actnorm(-theirs[f"{block}.flows.2.t"], -theirs[f"{block}.flows.2.s"]))
    mix, net = f"{block}.flows.1", f"{block}.{NET}"
    if config.permutation == "lu":
        names = [f"{mix}.{name}" for name in ("P", "L", "U", "log_S", "sign_S")]
        ours |= named("1", lu_convolution(theirs, names))
    else:
        ours["1.matrix"] = theirs[f"{mix}.W"]
    stride = 3 if config.network_actnorm else 2  # layers from a convolution to the next
    for number, name in enumerate(("conv1", "conv2")):
        ours[f"2.net.{name}.weight"] = theirs[f"{net}.{stride * number}.weight"]
        if config.network_actnorm:
            s, t = (theirs[f"{net}.{stride * number + 1}.actNorm.{part}"] for part in "st")
            ours |= named(f"2.net.{name}.actnorm", actnorm(t * (-s).exp(), s))
        else:
            ours[f"2.net.{name}.bias"] = theirs[f"{net}.{stride * number}.bias"]
    last = {part: _signed(theirs[f"{net}.{2 * stride}.{part}"], config) for part in ("weight", "bias")}
    return ours | named("2.net.conv3", last | {"log_scale": torch.zeros_like(last["bias"])})


def _signed(rows: Tensor, config: ModelConfig) -> Tensor:
    """Return the rows of shift and then of scale, with our signs."""
    if config.coupling == "additive":
        return -rows
    return torch.cat([-rows[0::2], -rows[1::2] if config.scale == "exp" else rows[1::2]])
