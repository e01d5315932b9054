"""Unnormalised log-densities that a flow is fitted to: four energies, a logistic regression, any function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Function = Callable[[Tensor], Tensor]


class Target(nn.Module):
    """An unnormalised log-density of ``[N, D]``: ``[N]``, in nats. It has no parameters, and nothing in checkpoints.

    Attributes:
        name: What messages call it.
        num_dims: D.
        dimensions: Name of each dimension.
        half_width: Half the side of the square around 0 that holds all of it but what rounding hides; None: not known.
    """

    half_width: float | None = None
    origin: Tensor

    def __init__(self, name: str, num_dims: int, dimensions: Sequence[str] | None = None) -> None:
        super().__init__()
        self.name = name
        self.num_dims = num_dims
        self.register_buffer("origin", torch.zeros(num_dims), persistent=False)  # tells the device
        self.dimensions = list(dimensions or [f"x{number}" for number in range(1, num_dims + 1)])

    def log_density(self, x: Tensor) -> Tensor:
        """Return the unnormalised log-density ``[N]`` of ``[N, D]``, in nats."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return ``log_density(x)``.

        Raises:
            ValueError: when it is no tensor ``[N]``.
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
        """Try the target on ``[N, D]``, and its gradient.

        Raises:
            ValueError: when it fails, returns another shape, numbers that are not finite, or has no gradient.
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
    """What a function ``[N, D] -> [N]`` returns; x is float32, whatever the precision that is asked for.

    Raises:
        ValueError: when it is no function.
    """

    def __init__(self, name: str, function: object, num_dims: int) -> None:
        super().__init__(name, num_dims)
        if not callable(function):
            raise ValueError(f"target {name}: a {type(function).__name__}, not a function of x [N, D]")
        # Not by way of nn.Module, which would train what is a module.
        object.__setattr__(self, "function", function)

    def log_density(self, x: Tensor) -> Tensor:
        """Call the function.

        Raises:
            ValueError: when it fails.
        """
        try:
            values = cast(Function, self.__dict__["function"])(x.float())
        except Exception as error:
            raise ValueError(f"target {self.name}: failed on x {list(x.shape)} of torch.float32: {error}") from error
        return values.to(x.dtype) if isinstance(values, Tensor) and values.is_floating_point() else values


class Energy(Target):
    """``-U(z) - W(z1)`` for one of the four energies of Rezende & Mohamed, in two dimensions.

    U2, U3 and U4 repeat along z1 for ever, so that exp(-U) has no integral; the figures of the paper show the square of
    side 8. There, W is 0; beyond it, the density of U2 to U4 falls as a Gaussian of standard deviation 0.4:
    ``W(z1) = ((|z1| - 4) / 0.4)^2 / 2`` for |z1| > 4.

    Source: Rezende & Mohamed 2015 (arXiv 1505.05770), table 1.
    """

    half_width = 8.0

    def __init__(self, name: str) -> None:
        super().__init__(name, 2, ("z1", "z2"))
        self.energy = ENERGIES[name]

    def log_density(self, x: Tensor) -> Tensor:
        """Return ``-U(x) - W(x1)``."""
        return -self.energy(x[:, 0], x[:, 1])


def _u1(z1: Tensor, z2: Tensor) -> Tensor:
    # |z| has no gradient at 0.
    radius = (z1.square() + z2.square()).clamp(min=torch.finfo(z1.dtype).tiny).sqrt()
    return _parabola(radius - 2, 0.4) - torch.logaddexp(-_parabola(z1 - 2, 0.6), -_parabola(z1 + 2, 0.6))


def _u2(z1: Tensor, z2: Tensor) -> Tensor:
    return _parabola(z2 - _wave(z1), 0.4) + _wall(z1)


def _u3(z1: Tensor, z2: Tensor) -> Tensor:
    offset = z2 - _wave(z1)
    bump = 3 * (-_parabola(z1 - 1, 0.6)).exp()
    return _wall(z1) - torch.logaddexp(-_parabola(offset, 0.35), -_parabola(offset + bump, 0.35))


def _u4(z1: Tensor, z2: Tensor) -> Tensor:
    offset = z2 - _wave(z1)
    step = 3 * ((z1 - 1) / 0.3).sigmoid()
    return _wall(z1) - torch.logaddexp(-_parabola(offset, 0.4), -_parabola(offset + step, 0.35))


def _parabola(x: Tensor, scale: float) -> Tensor:
    return 0.5 * (x / scale).square()


def _wave(z1: Tensor) -> Tensor:
    return (2 * math.pi * z1 / 4).sin()


def _wall(z1: Tensor) -> Tensor:
    return _parabola((z1.abs() - 4).clamp(min=0), 0.4)


ENERGIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"u1": _u1, "u2": _u2, "u3": _u3, "u4": _u4}


class LogisticRegression(Target):
    """Posterior of the coefficients w of ``P(label = 1) = sigmoid(w0 + w1 x1 + ... + wF xF)`` under independent priors
    ``N(0, prior_std^2)``, intercept included; D = F + 1. The prior is normalised: the integral is the evidence.

    Args:
        features: ``[M, F]``.
        labels: 0 or 1, ``[M]``.
        prior_std: Standard deviation of the prior.
        names: Names of the features.

    Raises:
        ValueError: for features that are not finite, other labels, or shapes that do not go together.
    """

    design: Tensor
    label_sums: Tensor

    def __init__(
        self, features: Tensor, labels: Tensor, *, prior_std: float = 1.0, names: Sequence[str] | None = None
    ) -> None:
        if features.dim() != 2 or labels.shape != features.shape[:1] or not len(labels):
            raise ValueError(
                f"logistic regression: features {list(features.shape)} and labels {list(labels.shape)} must be [M, F] "
                "and [M], a label for each row"
            )
        broken = (~features.isfinite().all(1)).nonzero().flatten()
        if len(broken):
            raise ValueError(
                f"logistic regression: {len(broken)} of {len(features)} rows of features have NaN or infinities, "
                f"first row {int(broken[0])}"
            )
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError(f"logistic regression: labels {labels.unique().tolist()[:8]}; only 0 and 1 are allowed")
        num_features = features.shape[1]
        names = names or [f"w{number}" for number in range(1, num_features + 1)]
        super().__init__("logistic", num_features + 1, ["intercept", *names])
        self.prior_std = prior_std
        design = torch.cat([torch.ones(len(features), 1).to(features), features], dim=1).double()
        self.register_buffer("design", design.float(), persistent=False)
        self.register_buffer("label_sums", (labels.double() @ design).float(), persistent=False)

    def log_density(self, x: Tensor) -> Tensor:
        """Return log-likelihood and log-prior."""
        log_likelihood = x @ self.label_sums - F.softplus(x @ self.design.T).sum(1)
        log_prior = -0.5 * (x / self.prior_std).square().sum(1)
        return log_likelihood + log_prior - self.num_dims * math.log(self.prior_std * math.sqrt(2 * math.pi))
