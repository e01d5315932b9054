"""Operators of torch: functions that torch.compile calls as a whole instead of looking into them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])

_LIBRARY = torch.library.Library("glow", "DEF")


def operator(schema: str, shape: Callable[..., Any]) -> Callable[[Function], Function]:
    """Turn a function into the operator ``torch.ops.glow.*`` for compiled code; other code calls the function itself.

    Args:
        schema: Name, arguments and results, in torch's notation. Results must not share memory with arguments.
        shape: Takes the same arguments and returns results of the same shapes, strides and dtypes, with any content.
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
