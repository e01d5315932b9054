"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from glow.parallel.tensors import laid_out_like, local
from glow.training.freezing import trained_parameters


class EMA:
    """Averages the parameters of a model, by name; buffers and frozen parameters are not averaged.

    The decay after ``t`` updates is ``min(decay, (1 + t) / (10 + t))``, so that the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {name: parameter.detach().clone() for name, parameter in trained_parameters(model).items()}

    def weight(self, step: int) -> float:
        """Return the weight of the parameters after ``step`` optimiser steps in the averages."""
        return 1 - min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, model: nn.Module, weight: float | Tensor) -> None:
        """Include the parameters in the averages, with this weight."""
        current = [local(parameter.detach()) for parameter in trained_parameters(model).values()]
        averages = [local(average) for average in self.average.values()]
        if isinstance(weight, Tensor):  # torch's lerp takes numbers of the host alone
            torch._foreach_add_(averages, torch._foreach_mul(torch._foreach_sub(current, averages), weight))
        else:
            torch._foreach_lerp_(averages, current, weight)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Put the averages into the model for a while; put its parameters back at the end."""
        raw = {name: parameter.detach().clone() for name, parameter in trained_parameters(model).items()}
        self._copy(self.average, model)
        try:
            yield
        finally:
            self._copy(raw, model)

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the state dict of the model, with averages instead of its parameters."""
        return {**model.state_dict(), **self.average}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the averages from the ``state_dict`` of the whole model."""
        for name, average in self.average.items():
            average.copy_(laid_out_like(state[name], average))

    @staticmethod
    @torch.no_grad()
    def _copy(values: dict[str, Tensor], model: nn.Module) -> None:
        for name, parameter in trained_parameters(model).items():
            parameter.copy_(values[name])
