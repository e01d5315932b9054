"""Functions that a compiler takes as they are: operators of torch, called in place of what they do step by step."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])

_LIBRARY = torch.library.Library("glow", "DEF")


def operator(schema: str, shape: Callable[..., Any]) -> Callable[[Function], Function]:
    """Make a function an operator ``torch.ops.glow.*`` while it is compiled; otherwise it is just called.

    Args:
        schema: Name, arguments and results, as torch writes them; results share no memory with arguments.
        shape: Returns, for the same arguments, results of the same shapes, strides and dtypes, of any content.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema)

    def decorate(function: Function) -> Function:
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"glow::{name}", shape)

        @wraps(function)
        def call(*arguments: Any) -> Any:
            if torch.compiler.is_compiling():
                return getattr(torch.ops.glow, name)(*arguments)
            return function(*arguments)

        return call  # type: ignore[return-value]

    return decorate
