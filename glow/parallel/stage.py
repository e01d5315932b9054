"""A stage of a pipeline: consecutive units of the chain as one module."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from glow.models.glow import Glow


class Stage(nn.Module):
    """Consecutive units: images and noise, or a state, in; the next state, or the log-probability, out."""

    def __init__(self, model: Glow, units: range) -> None:
        super().__init__()
        self.model = model
        self.units = units
        self.is_first = units.start == 0
        self.is_last = units.stop == len(model.chain)

    def forward(self, first: Tensor, second: Tensor, labels: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Run the units.

        Args:
            first: Images, uint8 ``[N, C, H, W]``, in the first stage; the state in others.
            second: Noise, ``[N, C, H, W]``, in the first stage; the running log-probability ``[N]`` in others.
            labels: Classes, or None.

        Returns:
            The state and the running log-probability; the last stage returns the log-probability alone.
        """
        model = self.model
        with torch.autocast(second.device.type, enabled=False):
            x, log_prob = model.dequantize(first, second) if self.is_first else (first, second)
            units = [model.chain[index] for index in self.units]
            x, log_prob = model.runner.run(units, x, log_prob, model.context(labels, x))
        return log_prob if self.is_last else (x.contiguous(), log_prob)

    def inputs_like(self, count: int, dtype: torch.dtype, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Return tensors with the shapes of the arguments for ``count`` examples; their values are undefined."""
        if not self.is_first:
            return self._state_like(self.units.start, count, dtype, device)
        shape = (count, *self.model.image_shape)
        return torch.empty(shape, dtype=torch.uint8, device=device), torch.empty(shape, dtype=dtype, device=device)

    def outputs_like(
        self, count: int, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return tensors with the shapes of the results for ``count`` examples; their values are undefined."""
        if not self.is_last:
            return self._state_like(self.units.stop, count, dtype, device)
        return torch.empty(count, dtype=dtype, device=device, requires_grad=True)

    def _state_like(
        self, unit: int, count: int, dtype: torch.dtype, device: torch.device | str
    ) -> tuple[Tensor, Tensor]:
        """Return tensors with the shapes of the state and log-probability that enter unit ``unit``."""
        # The pipeline sends gradients back only for tensors that require them.
        make = functools.partial(torch.empty, dtype=dtype, device=device, requires_grad=True)
        return make((count, *self.model.state_shapes[unit])), make(count)


def keep_units(model: Glow, units: range) -> None:
    """Remove all other units from a model, and the dequantiser unless the first unit stays; names do not change."""
    for index in range(len(model.chain)):
        if index not in units:
            model.chain[index] = nn.Identity()  # type: ignore[index]
    if units.start > 0:
        model.dequantizer = None
