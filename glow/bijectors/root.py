"""Solving an increasing function for its argument, number by number, with the gradients of the implicit function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MAX_ITERATIONS = 100
MAX_LOG_STEP = 80.0  # where the function is flat, a Newton step would overflow; it leaves the bracket anyway

Increasing = Callable[[Tensor], tuple[Tensor, Tensor]]


def solve_increasing(function: Increasing, y: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return x with ``function(x) = y``, differentiable in ``y`` and in what the function depends on.

    Args:
        function: Maps x, of the shape of ``y``, to its value and the logarithm of its derivative, number by number.
        y: Values.
        low: Where the function is at most y.
        high: Where it is at least y.
    """
    x = _solve(function, y, low, high)
    value, log_derivative = function(x)
    # A Newton step of length 0, for its gradients: those of the implicit function.
    excess = value - y
    return x - (excess - excess.detach()) * (-log_derivative.detach()).clamp(max=MAX_LOG_STEP).exp()


@torch.no_grad()
def _solve(function: Increasing, y: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return x with ``function(x) = y``.

    A Newton step that leaves the bracket, or that is not half as long as the step before, is replaced by a bisection.
    """
    x = (low + high) / 2
    epsilon = torch.finfo(y.dtype).eps
    last_move = high - low
    for iteration in range(MAX_ITERATIONS):
        value, log_derivative = function(x)
        excess = value - y
        # As near as rounding lets it come; from there, further steps would only lead away.
        is_solved = (excess.abs() <= 4 * epsilon * (1 + y.abs())) | (last_move <= epsilon * (1 + x.abs()))
        if iteration % 4 == 3 and bool(is_solved.all()):
            break
        low, high = torch.where(excess < 0, x, low), torch.where(excess > 0, x, high)
        newton = x - excess * (-log_derivative).clamp(max=MAX_LOG_STEP).exp()
        is_usable = (newton >= low) & (newton <= high) & ((newton - x).abs() <= last_move / 2)
        following = torch.where(is_usable, newton, (low + high) / 2)
        last_move = torch.where(is_solved, last_move, (following - x).abs())
        x = torch.where(is_solved, x, following)
    return x
