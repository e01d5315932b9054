"""Solve ``function(x) = y`` for x, elementwise, with the right gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MAX_ITERATIONS = 100
MAX_LOG_STEP = 80.0  # a longer Newton step would overflow; it leaves the bracket anyway

Increasing = Callable[[Tensor], tuple[Tensor, Tensor]]


def solve_increasing(function: Increasing, y: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the x with ``function(x) = y``, differentiable in ``y`` and in the parameters of the function.

    Args:
        function: An increasing elementwise function; it returns its value and the logarithm of its derivative, of the
            shape of x.
        y: The value to reach.
        low: A lower bound of x, of the shape of y.
        high: An upper bound.
    """
    x = _solve(function, y, low, high)
    value, log_derivative = function(x)
    # A Newton step of length 0. Its gradients are those of the implicit function theorem.
    excess = value - y
    return x - (excess - excess.detach()) * (-log_derivative.detach()).clamp(max=MAX_LOG_STEP).exp()


@torch.no_grad()
def _solve(function: Increasing, y: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Find x by Newton steps inside a bracket.

    A bisection replaces a Newton step that leaves the bracket, or that is longer than half the step before.
    """
    x = (low + high) / 2
    epsilon = torch.finfo(y.dtype).eps
    last_move = high - low
    for iteration in range(MAX_ITERATIONS):
        value, log_derivative = function(x)
        excess = value - y
        # x is as exact as rounding allows; more steps would make it worse.
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
