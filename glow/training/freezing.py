"""Parameters that a training leaves as they are (``freeze``)."""

from __future__ import annotations

import re

from torch import nn


def freeze(model: nn.Module, patterns: str) -> None:
    """Take the gradients from the parameters whose names match one of the patterns.

    Args:
        model: The whole model.
        patterns: Names of parameters or of modules, separated by commas. ``*`` stands for any text, ``0-40`` for the
            numbers from 0 to 40.

    Raises:
        ValueError: when a pattern matches no parameter, or no parameter would be left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns.split(","):
        expression = re.compile(_expression(pattern.strip()))
        names = [name for name in parameters if expression.fullmatch(name)]
        if not names:
            every = list(parameters)
            shown = ", ".join(every[:: max(1, len(every) // 4)][:4] + every[-1:])
            raise ValueError(f"freeze: {pattern.strip()!r} matches no parameter; names are such as {shown}")
        for name in names:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(f"freeze: {patterns!r} leaves no parameter to train; give fewer names")


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are not frozen, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _expression(pattern: str) -> str:
    """Return a regular expression of the names of the parameters that a pattern matches."""
    parts = [_part(part) for part in pattern.split(".")]
    return r"\.".join(parts) + r"(\..*)?"


def _part(part: str) -> str:
    numbers = re.fullmatch(r"(\d{1,4})-(\d{1,4})", part)
    if numbers:
        return "(" + "|".join(map(str, range(int(numbers[1]), int(numbers[2]) + 1))) + ")"
    return ".*".join(map(re.escape, part.split("*")))
