"""Results that depend on the parameters of a module alone, kept while those do not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")


class Reusing(nn.Module):
    """A module that may keep what it computes of its parameters, in eval mode and where no gradients are recorded.

    Optimisers that are fused change parameters without advancing their version. But before they can, gradients are
    recorded, mostly in training mode: ``train``, ``reuse`` and ``forget`` take that as a sign to forget all.
    Parameters may be put in the place of others, but not modules, once something was kept.

    ``may_reuse`` is False where parameters change unseen: sharded ones are gathered again and again to one address.
    """

    def __init__(self) -> None:
        super().__init__()
        self.may_reuse = True
        self._kept: dict[tuple[object, ...], Any] = {}
        self._kept_for: tuple[list[tuple[int, int]], list[Tensor]] = ([], [])
        self._owned: list[dict[str, nn.Parameter | None]] = []

    def train(self, mode: bool = True) -> Self:
        """Set training mode, or eval mode."""
        self._kept = {}
        return super().train(mode)

    def forget(self) -> None:
        """Keep nothing of what was computed before, where gradients are recorded."""
        if torch.is_grad_enabled():
            self._kept = {}

    def reuse(self, compute: Callable[[], Result], *key: object) -> Result:
        """Return what ``compute`` gives, or gave before under the same key and with the same parameters."""
        if torch.compiler.is_compiling():
            return compute()
        if torch.is_grad_enabled() or self.training or not self.may_reuse:
            self._kept = {}
            return compute()
        # Another in-place change advances the version (load_state_dict, swap of averaged weights), but for writing
        # through ``.data``. The aliases keep the memory from being reused at its address.
        if not self._owned:  # going through all modules takes as long as a small layer
            self._owned = [module._parameters for module in self.modules()]
        parameters = [parameter for owned in self._owned for parameter in owned.values() if parameter is not None]
        state = [(parameter.data_ptr(), parameter._version) for parameter in parameters]
        if self._kept_for[0] != state:
            self._kept, self._kept_for = {}, (state, [parameter.detach() for parameter in parameters])
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]
