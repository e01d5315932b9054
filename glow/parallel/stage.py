"""A stage of a pipeline: a run of units of the chain as a module of its own."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from glow.models.glow import Glow


class Stage(nn.Module):
    """A run of units: from images and noise, or the state before, to the state after, or the log-probability."""

    def __init__(self, model: Glow, units: range) -> None:
        super().__init__()
        self.model = model
        self.units = units
        self.is_first = units.start == 0
        self.is_last = units.stop == len(model.chain)

    def forward(self, first: Tensor, second: Tensor, labels: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Run the units.

        Args:
            first: Images, uint8 ``[N, C, H, W]``, or the state.
            second: Noise, ``[N, C, H, W]``, or the running log-probability ``[N]``.
            labels: Classes, or None.

        Returns:
            The state and the running log-probability; of the last stage, the log-probability alone.
        """
        model = self.model
        with torch.autocast(second.device.type, enabled=False):
            x, log_prob = model.dequantize(first, second) if self.is_first else (first, second)
            units = [model.chain[index] for index in self.units]
            x, log_prob = model.runner.run(units, x, log_prob, model.context(labels, x))
        return log_prob if self.is_last else (x.contiguous(), log_prob)

    def inputs_like(self, count: int, dtype: torch.dtype, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Return tensors like the arguments for so many examples, their values undefined."""
        if not self.is_first:
            return self._state_like(self.units.start, count, dtype, device)
        shape = (count, *self.model.image_shape)
        return torch.empty(shape, dtype=torch.uint8, device=device), torch.empty(shape, dtype=dtype, device=device)

    def outputs_like(
        self, count: int, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return tensors like the results for so many examples, their values undefined."""
        if not self.is_last:
            return self._state_like(self.units.stop, count, dtype, device)
        return torch.empty(count, dtype=dtype, device=device, requires_grad=True)

    def _state_like(
        self, unit: int, count: int, dtype: torch.dtype, device: torch.device | str
    ) -> tuple[Tensor, Tensor]:
        """Return a state and log-probability as unit ``unit`` gets them."""
        # Gradients are sent back for those that say so.
        make = functools.partial(torch.empty, dtype=dtype, device=device, requires_grad=True)
        return make((count, *self.model.state_shapes[unit])), make(count)


def keep_units(model: Glow, units: range) -> None:
    """Take all other units out of a model, and, if the first is among them, the dequantiser; names stay the same."""
    for index in range(len(model.chain)):
        if index not in units:
            model.chain[index] = nn.Identity()  # type: ignore[index]
    if units.start > 0:
        model.dequantizer = None
