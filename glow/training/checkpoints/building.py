"""Limit the memory of a model while it is built from a stranger's configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

FACTORIES = {torch.arange, torch.empty, torch.eye, torch.full, torch.ones, torch.randn, torch.randperm, torch.zeros}


class LimitedNumbers(TorchFunctionMode):
    """A context in which torch makes tensors of at most ``num_numbers`` numbers, all together.

    Raises:
        MemoryError: before it makes the tensor that is too much.
    """

    def __init__(self, num_numbers: int) -> None:
        super().__init__()
        self.num_left = num_numbers

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count what a call makes, and then make it."""
        if function in FACTORIES:
            self.num_left -= _num_numbers(function, args, kwargs or {})
            if self.num_left < 0:
                raise MemoryError
        return function(*args, **(kwargs or {}))


def _num_numbers(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    size = kwargs.get("size", args[0] if args and isinstance(args[0], Sequence) else args)
    if function in (torch.arange, torch.randperm):
        return max(size)
    return math.prod(size) ** 2 if function is torch.eye and len(size) == 1 else math.prod(size)
