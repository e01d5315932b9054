"""What all importers share: checks of a foreign state dict, and the parts that most programs have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from glow.config import ModelConfig
from glow.models.glow import Glow

State = Mapping[str, Tensor]


def convert(
    program: str,
    state: State,
    image_range: tuple[float, float],
    config_of: Callable[[State], ModelConfig],
    tensors_of: Callable[[State, ModelConfig], dict[str, Tensor]],
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the config of a ``Glow`` and its state dict, in float64.

    Args:
        program: Whose state dict it is, for messages.
        state: Tensors by name, with or without the prefix ``module.``.
        image_range: The numbers at the two ends of the grid of levels, as that model took them.
        config_of: Reads the config off the state dict. It may raise a KeyError with the name of what is missing.
        tensors_of: Computes the tensors from the state dict in float64, or without memory, and the config. It may leave
            out the weights of the class where they are 0.

    Raises:
        ValueError: when it is not such a state dict, or is not finite.
    """
    theirs = {name.removeprefix("module."): tensor.detach() for name, tensor in state.items()}
    try:
        config = config_of(theirs)
        # First without memory: the shapes may ask for more than there is.
        with torch.device("meta"):
            expected = Glow(config).state_dict()
        found = tensors_of({name: tensor.to("meta", torch.float64) for name, tensor in theirs.items()}, config)
        without_class = {name: tensor.shape for name, tensor in expected.items() if name.endswith(".context.weight")}
        for name, tensor in expected.items():
            if name not in found.keys() | without_class.keys():
                raise KeyError(name)
            if name in found and found[name].shape != tensor.shape:
                raise TypeError(f"{list(found[name].shape)} where {name} needs {list(tensor.shape)}")
        tensors = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in without_class.items()}
        tensors |= tensors_of({name: tensor.double() for name, tensor in theirs.items()}, config)
    except KeyError as error:
        raise ValueError(f"not a state dict of {program}'s Glow: it has no {error.args[0]}") from error
    except (IndexError, RuntimeError, TypeError) as error:
        raise ValueError(f"not a state dict of {program}'s Glow: {error}") from error
    _rescale(tensors, *image_range)
    for name in expected:
        if not tensors[name].isfinite().all():
            raise ValueError(f"the model is broken: {name} is not finite")
    return config, tensors


def check_trained(theirs: State, suffix: str) -> None:
    """Raise a ValueError when one of the flags whose names end in ``suffix`` says that an ActNorm saw no data."""
    for name, value in theirs.items():
        if name.endswith(suffix) and not value.all():
            raise ValueError(f"the model was never trained: {name} is 0")


def check_size(given: int | None, height: int, width: int) -> None:
    """Raise a ValueError when the image size that the user gave is not that of the file."""
    if given not in (None, height) or given not in (None, width):
        raise ValueError(f"image_size: {given} is not allowed; the file holds a model of {height} x {width}")


def actnorm(bias: Tensor, log_scale: Tensor) -> dict[str, Tensor]:
    """Return the tensors of an ``ActNorm``; the arguments may have dimensions of size 1."""
    return {
        "bias": bias.flatten(),
        "log_scale": log_scale.flatten(),
        "initialized": torch.ones((), dtype=torch.bool),
    }


def lu_convolution(theirs: State, names: Sequence[str], sign: Tensor | float = 1.0) -> dict[str, Tensor]:
    """Return the tensors of an ``LUConv1x1`` whose columns have these signs.

    Args:
        theirs: The state dict.
        names: Of the permutation, the lower and the upper matrix, log|s| and the signs of s.
        sign: 1 or -1 for each column.
    """
    permutation, lower, upper, log_s, signs = (theirs[name] for name in names)
    return {
        "permutation": permutation,
        "lower": lower.tril(-1),
        "upper": upper.triu(1) * sign,
        "log_s": log_s,
        "sign": signs * sign,
    }


def named(prefix: str, tensors: State) -> dict[str, Tensor]:
    """Return tensors with a prefix and a dot before their names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def even_then_odd(tensor: Tensor) -> Tensor:
    """Return the rows 0, 2, 4, ... and then 1, 3, 5, ...: the order of programs that split channels in turn."""
    return torch.cat([tensor[0::2], tensor[1::2]])


def _rescale(tensors: dict[str, Tensor], low: float, high: float) -> None:
    """Change the first ActNorm, so that the model takes images in [-1/2, 1/2] instead of [low, high]."""
    scale, middle = high - low, (low + high) / 2
    first = "chain.1.bijector.bijectors.0"
    tensors[f"{first}.bias"] = (tensors[f"{first}.bias"] + middle) / scale
    tensors[f"{first}.log_scale"] = tensors[f"{first}.log_scale"] + math.log(scale)
