"""Targets, the unnormalised log-densities that a flow is fitted to: their interface, and any function as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]


class Target(nn.Module):
    """An unnormalised log-density; a subclass implements ``log_density``.

    It has no parameters, and checkpoints do not store it.

    Attributes:
        name: The name in messages.
        num_dims: D.
        dimensions: The name of each dimension.
        half_width: Practically all of the mass lies in the square around 0 with twice this side. None: not known.
    """

    half_width: float | None = None
    origin: Tensor

    def __init__(self, name: str, num_dims: int, dimensions: Sequence[str] | None = None) -> None:
        super().__init__()
        self.name = name
        self.num_dims = num_dims
        self.register_buffer("origin", torch.zeros(num_dims), persistent=False)  # shows the device
        self.dimensions = list(dimensions or [f"x{number}" for number in range(1, num_dims + 1)])

    def log_density(self, x: Tensor) -> Tensor:
        """Return the unnormalised log-density ``[N]``, in nats, of ``x [N, D]``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return ``log_density(x)``.

        Raises:
            ValueError: when that is not a tensor ``[N]`` of real numbers.
        """
        values = self.log_density(x)
        is_tensor = isinstance(values, Tensor)
        if not is_tensor or values.shape != x.shape[:1] or not values.is_floating_point():
            got = f"{list(values.shape)} of {values.dtype}" if is_tensor else type(values).__name__
            raise ValueError(
                f"target {self.name}: returned {got} for x {list(x.shape)}; one log-density for each row is expected, "
                f"a tensor [{len(x)}] of real numbers"
            )
        return values

    def check(self, x: Tensor) -> None:
        """Check value and gradient of the target at ``x [N, D]``.

        Raises:
            ValueError: when the target fails, returns another shape, is not finite, or has no gradient.
        """
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            values = self(x)
        gradient = None
        if values.requires_grad:
            try:
                (gradient,) = torch.autograd.grad(values.sum(), x, allow_unused=True)
            except Exception as error:
                raise ValueError(f"target {self.name}: its gradient fails: {error}") from error
        if gradient is None:
            raise ValueError(f"target {self.name}: returned numbers without a gradient; compute them by torch, from x")
        _require_finite(values, "log-density", x, self.name)
        _require_finite(gradient, "gradient", x, self.name)


def _require_finite(values: Tensor, what: str, x: Tensor, name: str) -> None:
    broken = ~values.isfinite().flatten(1).all(1) if values.dim() > 1 else ~values.isfinite()
    if broken.any():
        first = [round(number, 3) for number in x[broken][0].tolist()[:8]]
        raise ValueError(
            f"target {name}: {what} is NaN or infinite at {int(broken.sum())} of {len(x)} points, first at {first}; a "
            "finite one is expected everywhere"
        )


class FunctionTarget(Target):
    """A user's function ``[N, D] -> [N]`` as a target. It is always called with float32.

    Raises:
        ValueError: when ``function`` is not callable.
    """

    def __init__(self, name: str, function: object, num_dims: int) -> None:
        super().__init__(name, num_dims)
        if not callable(function):
            raise ValueError(f"target {name}: a {type(function).__name__}, not a function of x [N, D]")
        # Past nn.Module.__setattr__, which would register a module, so that training would change it.
        object.__setattr__(self, "function", function)

    def log_density(self, x: Tensor) -> Tensor:
        """Call the function.

        Raises:
            ValueError: when the function fails.
        """
        try:
            values = cast(Function, self.__dict__["function"])(x.float())
        except Exception as error:
            raise ValueError(f"target {self.name}: failed on x {list(x.shape)} of torch.float32: {error}") from error
        return values.to(x.dtype) if isinstance(values, Tensor) and values.is_floating_point() else values
