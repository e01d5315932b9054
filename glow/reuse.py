"""Results that depend on the parameters of a module alone, kept while those do not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")


class Reusing(nn.Module):
    """A module that may keep what it computes of its parameters, in eval mode and where no gradients are recorded.

    ``may_reuse`` is False where parameters change unseen: sharded ones are gathered again and again to one address.
    """

    def __init__(self) -> None:
        super().__init__()
        self.may_reuse = True
        self._kept: dict[tuple[object, ...], Any] = {}
        self._kept_for: tuple[list[tuple[int, int]], list[Tensor]] = ([], [])

    def reuse(self, compute: Callable[[], Result], *key: object) -> Result:
        """Return what ``compute`` gives, or gave before under the same key and with the same parameters."""
        if torch.is_grad_enabled() or self.training or not self.may_reuse:
            return compute()
        # An in-place change of a parameter advances its version (load_state_dict, swap of averaged weights); fused
        # optimisers do not, which is why nothing is kept in training mode, nor does writing through ``.data``. The
        # aliases keep the memory from being reused at its address.
        parameters = list(self.parameters())
        state = [(parameter.data_ptr(), parameter._version) for parameter in parameters]
        if self._kept_for[0] != state:
            self._kept, self._kept_for = {}, (state, [parameter.detach() for parameter in parameters])
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]
