"""Muon: momentum whose matrices are made orthogonal, for convolutions; Adam for all other parameters."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

MIN_SIDE = 64  # channels, in or out: smaller convolutions are left to Adam
MOMENTUM = 0.95
STEP = 0.4
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Moves convolutions with 64 channels or more along orthogonal matrices, and all else as AdamW does.

    A convolution counts as a matrix of its output channels and the rest. Its step is ``0.4 lr sqrt(max(rows, cols))``
    times the nearest orthogonal matrix of its Nesterov momentum. So all its singular values move alike, and the step of
    an element is about as large as one of Adam. Weight decay is decoupled.

    Source: Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks"; the size of the step after
    Liu et al. 2025 (arXiv 2502.16982, section 2.2), who take 0.2.

    Args:
        parameters: Parameters of a model, whole on each process.
        lr: The learning rate of all.
        betas: Decay rates of Adam's moments.
        weight_decay: Decoupled weight decay of all.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float = 0.0
    ) -> None:
        # fused: torch then puts loaded numbers of steps where its fused AdamW wants them.
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "fused": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move all parameters by their gradients."""
        assert closure is None
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            matrices = [parameter for parameter in given if is_matrix(parameter)]
            self._move_matrices(matrices, group)
            self._move_others([parameter for parameter in given if not is_matrix(parameter)], group)

    def _move_matrices(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        if not matrices:
            return
        for parameter in matrices:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in matrices]
        gradients = [parameter.grad for parameter in matrices if parameter.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        directions = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        if group["weight_decay"]:
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        # Matrices of one shape go through the iteration together.
        by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, direction in enumerate(directions):
            by_shape[direction.shape[0], direction[0].numel()].append(number)
        for (rows, columns), numbers in by_shape.items():
            stacked = torch.stack([directions[number].reshape(rows, columns) for number in numbers])
            moves = orthogonalized(stacked).mul_(-STEP * math.sqrt(max(rows, columns)) * group["lr"])
            for number, move in zip(numbers, moves, strict=True):
                matrices[number].add_(move.view_as(matrices[number]))

    def _move_others(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        if not parameters:
            return
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            list(parameters),
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=False,
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )


def is_matrix(parameter: Tensor) -> bool:
    """Return whether a parameter is a convolution ``[O, I, H, W]`` with 64 channels or more."""
    return parameter.dim() == 4 and max(parameter.shape[:2]) >= MIN_SIDE


def orthogonalized(matrices: Tensor) -> Tensor:
    """Return nearly orthogonal matrices ``[N, R, C]`` with the singular vectors of others.

    Their singular values lie between about 0.7 and 1.2, unless they are tiny beside the others; zeros stay zeros. Five
    Newton-Schulz iterations ``X <- a X + b (X X^T) X + c (X X^T)^2 X`` in float32.

    Source: Jordan et al. (2024), where the coefficients are.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(NUM_ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
