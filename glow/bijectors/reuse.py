"""Keep what a module computes from its parameters until they change: inverse matrices, folded weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")


class Reusing(nn.Module):
    """A module that keeps results computed from its parameters, in eval mode and while no gradients are recorded.

    A kept result is dropped when a parameter is replaced or changed in place, which advances its version. Fused
    optimisers change parameters without advancing the version. But gradients are recorded before an optimiser can step,
    so ``train``, ``forget`` and ``reuse`` drop all results in training mode or while gradients are recorded. After the
    first kept result, parameters may be replaced, submodules may not.

    Attributes:
        may_reuse: False turns this off, for sharded parameters: they are gathered again and again to the same address.
    """

    def __init__(self) -> None:
        super().__init__()
        self.may_reuse = True
        self._kept: dict[tuple[object, ...], Any] = {}
        self._kept_for: tuple[list[tuple[int, int]], list[Tensor]] = ([], [])
        self._owned: list[dict[str, nn.Parameter | None]] = []

    def train(self, mode: bool = True) -> Self:
        """Set training mode, or eval mode; without a change, all is kept."""
        if mode != self.training:
            self._kept = {}
        return super().train(mode)

    def forget(self) -> None:
        """Drop all kept results if gradients are recorded."""
        if torch.is_grad_enabled():
            self._kept = {}

    def reuse(self, compute: Callable[[], Result], *key: object) -> Result:
        """Return ``compute()``, or its kept result for the same key and unchanged parameters."""
        if torch.compiler.is_compiling():
            return compute()
        if torch.is_grad_enabled() or self.training or not self.may_reuse:
            self._kept = {}
            return compute()
        # load_state_dict and a swap of averaged weights advance the version; writing through ``.data`` does not. The
        # detached aliases keep the memory alive, so that no other tensor gets its address.
        if not self._owned:  # a walk through all modules takes as long as a small layer
            self._owned = [module._parameters for module in self.modules()]
        parameters = [parameter for owned in self._owned for parameter in owned.values() if parameter is not None]
        state = [(parameter.data_ptr(), parameter._version) for parameter in parameters]
        if self._kept_for[0] != state:
            self._kept, self._kept_for = {}, (state, [parameter.detach() for parameter in parameters])
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]
