"""Import models that github.com/rosinality/glow-pytorch trained; they compute the same, up to rounding."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from glow.config import ModelConfig
from glow.models.glow import Glow


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict that ``torch.save`` wrote. Files with anything but tensors are refused; no code is run.

    Raises:
        ValueError: when the file is missing or is not a state dict.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except Exception as error:  # torch.load raises whatever its unpickler meets in a file of another kind
        raise ValueError(f"{path}: not a file of tensors written by torch.save: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{path}: not a state dict (tensors by name)")
    return state


def from_rosinality(
    state: Mapping[str, Tensor], image_size: int, num_bits: int
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

    Raises:
        ValueError: when it is not such a state dict, was never trained, or is not finite.
    """
    theirs = {name.removeprefix("module."): tensor.double() for name, tensor in state.items()}
    uninitialized = [name for name, tensor in theirs.items() if name.endswith("actnorm.initialized") and not tensor]
    if uninitialized:
        raise ValueError(f"the model was never trained: {uninitialized[0]} is 0")
    try:
        config = _config(theirs, image_size, num_bits)
        tensors = _convert(theirs, config)
    except KeyError as error:
        raise ValueError(f"not a state dict of rosinality's Glow: it has no {error.args[0]}") from error
    except (IndexError, RuntimeError) as error:
        raise ValueError(f"not a state dict of rosinality's Glow: {error}") from error
    model = Glow(config).double()
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            found = list(tensors[name].shape) if name in tensors else "nothing"
            raise ValueError(f"not a state dict of rosinality's Glow: {found} where {name} needs {list(tensor.shape)}")
        if not tensors[name].isfinite().all():
            raise ValueError(f"the model is broken: {name} is not finite")
    return config, tensors


def _config(theirs: Mapping[str, Tensor], image_size: int, num_bits: int) -> ModelConfig:
    numbers = [re.match(r"blocks\.(\d{1,2})\.flows\.(\d{1,4})\.", name) for name in theirs]
    steps = [(int(match[1]), int(match[2])) for match in numbers if match]
    if not steps:
        raise KeyError("blocks.0.flows.0")
    channels = theirs["blocks.0.flows.0.actnorm.loc"].shape[1]
    network = "blocks.0.flows.0.coupling.net"
    is_affine = theirs[f"{network}.4.conv.weight"].shape[0] == channels
    num_levels = 1 + max(block for block, _ in steps)
    if image_size % 2**num_levels:
        raise ValueError(f"image_size: {image_size} is not allowed; give a multiple of 2^L = {2**num_levels}")
    return ModelConfig(
        image_shape=(channels // 4, image_size, image_size),
        num_bits=num_bits,
        num_levels=num_levels,
        num_steps_per_level=1 + max(flow for _, flow in steps),
        hidden_channels=theirs[f"{network}.0.weight"].shape[0],
        coupling="affine" if is_affine else "additive",
        permutation="lu" if "blocks.0.flows.0.invconv.w_p" in theirs else "plain",
        network_actnorm=False,
        network_padding="ones",
        top_prior="border",
    )


def _convert(theirs: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for level in range(config.num_levels):
        first = level * (config.num_steps_per_level + 2)  # the squeeze
        for step in range(config.num_steps_per_level):
            prefix = f"chain.{first + 1 + step}.bijector.bijectors"
            for name, tensor in _convert_step(theirs, f"blocks.{level}.flows.{step}", config).items():
                ours[f"{prefix}.{name}"] = tensor
        prior, source = f"chain.{first + 1 + config.num_steps_per_level}.bijector.conv", f"blocks.{level}.prior"
        ours |= {
            f"{prior}.weight": theirs[f"{source}.conv.weight"],
            f"{prior}.bias": theirs[f"{source}.conv.bias"],
            f"{prior}.log_scale": theirs[f"{source}.scale"].flatten(),
        }
    return ours


def _plain_weight(theirs: Mapping[str, Tensor], source: str) -> Tensor:
    """Return W. The last block of that program is always LU-decomposed, even if the other blocks are not."""
    if f"{source}.w_p" not in theirs:
        return theirs[f"{source}.weight"].flatten(1)
    identity = torch.eye(len(theirs[f"{source}.w_s"]), dtype=torch.float64)
    diagonal = torch.diag(theirs[f"{source}.s_sign"] * theirs[f"{source}.w_s"].exp())
    lower, upper = theirs[f"{source}.w_l"].tril(-1) + identity, theirs[f"{source}.w_u"].triu(1) + diagonal
    return theirs[f"{source}.w_p"] @ lower @ upper


def _convert_step(theirs: Mapping[str, Tensor], source: str, config: ModelConfig) -> dict[str, Tensor]:
    scale = theirs[f"{source}.actnorm.scale"].flatten()
    sign = scale.sign()
    ours = {
        "0.bias": theirs[f"{source}.actnorm.loc"].flatten(),
        "0.log_scale": scale.abs().log(),
        "0.initialized": torch.ones((), dtype=torch.bool),
    }
    if config.permutation == "lu":
        ours |= {
            "1.permutation": theirs[f"{source}.invconv.w_p"],
            "1.lower": theirs[f"{source}.invconv.w_l"].tril(-1),
            "1.upper": theirs[f"{source}.invconv.w_u"].triu(1) * sign,
            "1.log_s": theirs[f"{source}.invconv.w_s"],
            "1.sign": theirs[f"{source}.invconv.s_sign"] * sign,
        }
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
    return ours | {f"2.net.conv3.{name}": tensor for name, tensor in last.items()}
