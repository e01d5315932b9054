"""What a step does with its gradients: clip them, move the weights, and move their averages."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glow.config import TrainRun
from glow.execution.graphs import CudaGraphs
from glow.parallel.build import records_steps
from glow.training.ema import EMA


class Update:
    """Moves the weights of a model by their gradients.

    On a GPU all of it is recorded as a CUDA graph, after a first call that creates the state of the optimiser and loads
    the kernels.

    Args:
        model: The model.
        optimizer: Its optimiser.
        ema: The averages of its weights.
        run: The configuration.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA, run: TrainRun) -> None:
        self.model, self.optimizer, self.ema = model, optimizer, ema
        device = next(model.parameters()).device.type
        # SGD of torch, and Muon, look at the learning rate on the host.
        self.is_recorded = records_steps(run, device) and run.optimizer.name not in ("sgd", "muon")
        self._graphs = CudaGraphs(self._move, num_warm_ups=0)
        self._is_warm = False
        self._recorded: list[int] = []
        self._gradients: list[Tensor] = []

    def __call__(self, gradients: list[Tensor], factor: float, lr: float, num_updates: int) -> None:
        """Make an update.

        Args:
            gradients: The gradients; they are multiplied by ``factor`` in place.
            factor: Of clipping and of the loss scale.
            lr: The learning rate, which the optimiser has already.
            num_updates: Number of updates with this one.
        """
        weight = self.ema.weight(num_updates)
        places = [gradient.data_ptr() for gradient in gradients] if self.is_recorded else []
        if self.is_recorded and self._is_warm and self._recorded in ([], places):
            self._recorded, self._gradients = places, gradients
            # Filled in on the device: for a copy of a number the host would wait.
            self._graphs(*(torch.full((), value, device=gradients[0].device) for value in (factor, lr, weight)))
            return
        self._is_warm = True
        if factor != 1:
            torch._foreach_mul_(gradients, factor)
        self.optimizer.step()
        self.ema.update(self.model, weight)

    def _move(self, factor: Tensor, lr: Tensor, weight: Tensor) -> list[Tensor]:
        """Make an update with numbers on the device."""
        torch._foreach_mul_(self._gradients, factor)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.ema.update(self.model, weight)
        return []
