"""Import models that github.com/rosinality/glow-pytorch trained; they compute the same, up to rounding."""

from __future__ import annotations

import itertools
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from glow.config import ModelConfig
from glow.files.reading import open_file
from glow.models.glow import Glow


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict that ``torch.save`` wrote. Files with anything but tensors are refused; no code is run.

    Raises:
        ValueError: when the file is missing or is not a state dict.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if zipfile.is_zipfile(file) and sum(part.file_size for part in zipfile.ZipFile(file).infolist()) > size:
                raise ValueError("compressed: it may be small, and take any memory")
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises whatever its unpickler meets in a file of another kind
            raise ValueError(f"{path}: not a file of tensors written by torch.save") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{path}: not a state dict (tensors by name)")
    _check_ordinary(state, size, str(path))
    return state


def _check_ordinary(state: Mapping[str, Tensor], size: int, path: str) -> None:
    """Raise a ValueError for tensors that are no plain arrays of real numbers, or take more memory than the file."""
    for name, tensor in state.items():
        is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
        if not is_plain or tensor.is_quantized or tensor.is_complex():
            raise ValueError(f"{path}: {name}: not a plain tensor of real numbers")
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if num_bytes > size:
        raise ValueError(f"{path}: damaged: tensors of {num_bytes:,} bytes, but the file has {size:,}")


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
    theirs = {name.removeprefix("module."): tensor.detach() for name, tensor in state.items()}
    try:
        initialized = {name: value for name, value in theirs.items() if name.endswith("actnorm.initialized")}
        uninitialized = [name for name, value in initialized.items() if not value.all()]
        if uninitialized:
            raise ValueError(f"the model was never trained: {uninitialized[0]} is 0")
        config = _config(theirs, image_size, num_bits)
        # First without memory: the shapes may ask for more than there is.
        with torch.device("meta"):
            expected = Glow(config).state_dict()
        _check_shapes(expected, _convert({name: value.double() for name, value in _on_meta(theirs)}, config))
        tensors = _convert({name: value.double() for name, value in theirs.items()}, config)
    except KeyError as error:
        raise ValueError(f"not a state dict of rosinality's Glow: it has no {error.args[0]}") from error
    except (IndexError, RuntimeError, TypeError) as error:
        raise ValueError(f"not a state dict of rosinality's Glow: {error}") from error
    for name in expected:
        if not tensors[name].isfinite().all():
            raise ValueError(f"the model is broken: {name} is not finite")
    return config, tensors


def _on_meta(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((name, tensor.to("meta")) for name, tensor in tensors.items())


def _check_shapes(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name, tensor in expected.items():
        if name not in found or found[name].shape != tensor.shape:
            shape = list(found[name].shape) if name in found else "nothing"
            raise ValueError(f"not a state dict of rosinality's Glow: {shape} where {name} needs {list(tensor.shape)}")


def _config(theirs: Mapping[str, Tensor], image_size: int, num_bits: int) -> ModelConfig:
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


def _convert(theirs: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for level in range(config.num_levels):
        first = level * (config.steps[level] + 2)  # the squeeze
        for step in range(config.steps[level]):
            prefix = f"chain.{first + 1 + step}.bijector.bijectors"
            for name, tensor in _convert_step(theirs, f"blocks.{level}.flows.{step}", config).items():
                ours[f"{prefix}.{name}"] = tensor
        prior, source = f"chain.{first + 1 + config.steps[level]}.bijector.conv", f"blocks.{level}.prior"
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
    diagonal = torch.diag(theirs[f"{source}.s_sign"] * theirs[f"{source}.w_s"].exp())
    identity = torch.eye(len(diagonal), dtype=diagonal.dtype, device=diagonal.device)
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
