"""Hamiltonian Monte Carlo of many chains at once, with exact acceptance, and how well they mixed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]  # [N, D] -> [N], nats
TARGET_ACCEPTANCE = 0.8


@dataclass(frozen=True)
class Chains:
    """Draws of chains.

    Attributes:
        draws: ``[steps, chains, D]``, after the warm-up.
        acceptance: Share of accepted proposals, after the warm-up.
        step_size: Of the leapfrog, in units of the preconditioner.
    """

    draws: Tensor
    acceptance: float
    step_size: float


def hmc(
    log_density: LogDensity, start: Tensor, rng: np.random.Generator, num_steps: int = 300, num_leapfrogs: int = 10
) -> Chains:
    """Draw from an unnormalised density by Hamiltonian Monte Carlo with a Metropolis test: exact in the limit.

    The first half of the steps is a warm-up and is dropped. In it the step size follows an acceptance of 80%, and half
    way the spread of all chains becomes the preconditioner, a diagonal. After it, both are fixed.

    Args:
        log_density: Of points ``[N, D]``, differentiable; each row depends on its own point alone.
        start: Where the chains start, ``[N, D]``.
        rng: All random numbers.
        num_steps: Steps with the warm-up.
        num_leapfrogs: Leapfrog steps of a proposal, at most: the number is drawn, so that no orbit closes.

    Source: Neal 2011, arXiv 1206.1901, sections 5.3.2 and 5.4.2; Nesterov's dual averaging as in Hoffman & Gelman 2014,
    section 3.2.
    """
    x, scale = start.clone(), start.new_ones(start.shape[1])
    value, gradient = _value_and_gradient(log_density, x)
    log_step, log_mean, error, count = math.log(0.1), 0.0, 0.0, 0
    warm_up, kept, history, accepted = num_steps // 2, [], [], []
    for step in range(num_steps):
        size = math.exp(log_step if step < warm_up else log_mean)
        momentum = torch.from_numpy(rng.standard_normal(x.shape)).to(x)
        new, new_gradient, moving, new_value = x, gradient, momentum, value
        for _ in range(int(rng.integers(1, num_leapfrogs, endpoint=True))):
            moving = moving + 0.5 * size * scale * new_gradient
            new = new + size * scale * moving
            new_value, new_gradient = _value_and_gradient(log_density, new)
            moving = moving + 0.5 * size * scale * new_gradient
        change = (new_value - value).double() + 0.5 * (momentum.square() - moving.square()).double().sum(1)
        probability = torch.nan_to_num(change, nan=-math.inf).clamp(max=0).exp()
        is_taken = torch.from_numpy(rng.random(len(x))).to(probability) < probability
        x, gradient = (torch.where(is_taken[:, None], a, b) for a, b in ((new, x), (new_gradient, gradient)))
        value = torch.where(is_taken, new_value, value)
        if step >= warm_up:
            kept.append(x)
            accepted.append(float(is_taken.double().mean()))
            continue
        count += 1
        error += (TARGET_ACCEPTANCE - float(probability.mean()) - error) / (count + 10)
        log_step = math.log(1.0) - math.sqrt(count) / 0.05 * error
        log_mean += count**-0.75 * (log_step - log_mean)
        history.append(x)
        if step == warm_up // 2:
            spread = torch.cat(history[len(history) // 2 :]).std(0)
            scale = spread.clamp(min=1e-3 * float(spread.max()) + 1e-12)
            log_mean, error, count = 0.0, 0.0, 0
    return Chains(torch.stack(kept), float(np.mean(accepted)), math.exp(log_mean))


def _value_and_gradient(log_density: LogDensity, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-density ``[N]`` and its gradient ``[N, D]``."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        value = log_density(point)
        (gradient,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), gradient


def split_r_hat(draws: Tensor) -> Tensor:
    """Return R-hat ``[D]`` of draws ``[steps, chains, D]``: near 1 where halves of chains agree.

    Source: Gelman et al., Bayesian Data Analysis, 3rd edition, section 11.4.
    """
    half = len(draws) // 2
    parts = torch.cat([draws[:half], draws[half : 2 * half]], dim=1).double()
    within, between = parts.var(0).mean(0), half * parts.mean(0).var(0)
    return (((half - 1) / half * within + between / half) / within).sqrt()


def effective_samples(draws: Tensor) -> Tensor:
    """Return the number of independent draws, ``[D]``, whose mean is as good as that of ``draws [steps, chains, D]``.

    Source: Gelman et al., Bayesian Data Analysis, 3rd edition, section 11.5, with Geyer's sums of pairs.
    """
    draws = draws.double()
    steps, chains, dims = draws.shape
    spectrum = torch.fft.rfft(draws - draws.mean(0), n=2 * steps, dim=0)
    covariance = torch.fft.irfft(spectrum.abs().square(), dim=0)[:steps] / steps
    within = covariance[0].mean(0) * steps / (steps - 1)
    between = draws.mean(0).var(0) if chains > 1 else torch.zeros(dims, dtype=draws.dtype)
    total = within * (steps - 1) / steps + between
    correlation = 1 - (within - covariance.mean(1)) / total
    pairs = correlation[: steps // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    pairs = torch.where((pairs > 0).int().cumprod(0).bool(), pairs, 0).cummin(0).values
    return steps * chains / (2 * pairs.sum(0) - 1).clamp(min=1 / math.log10(steps * chains))
