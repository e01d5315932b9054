"""Memory modes: what autograd keeps for the backward pass, and what the backward pass computes again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from glow.bijectors.base import Bijector, Composition


class Tape:
    """A run of consecutive flow steps in one forward pass; the backward pass rebuilds the states in between.

    The autograd functions of the steps share it. The backward pass calls them in reverse order.

    Attributes:
        input: The input of the first step.
        state: The state that the backward pass has reached; after the forward pass, the output of the last step.
        num_steps: Number of steps.
    """

    def __init__(self, x: Tensor, runner: ChainRunner) -> None:
        self.input: Tensor | None = x.detach()
        self.state: Tensor | None = None
        self.runner = runner
        self.num_steps = 0

    def rebuilt(self, number: int, x: Tensor) -> None:
        """Take the rebuilt input of step ``number``. For the first step, compare it with the input, then free both."""
        self.state = x
        if number == 0:
            assert self.input is not None
            self.runner.observe_drift(x - self.input)
            self.input = self.state = None


class Link(Protocol):
    """What ``ChainRunner`` needs of a unit of the chain."""

    bijector: Bijector

    def __call__(
        self, x: Tensor, log_prob: Tensor, context: Tensor | None = None, tape: Tape | None = None
    ) -> tuple[Tensor, Tensor]:
        """Advance the state ``[N, C, H, W]`` and the log-probability so far ``[N]``."""


class ChainRunner:
    """Runs the units of a chain one after the other, in one of three memory modes.

    ``stored``: autograd keeps everything that it needs. ``checkpoint``: it keeps nothing inside coupling networks; the
    backward pass computes them again. ``reversible``: it keeps nothing of a flow step; the backward pass rebuilds the
    input of each step from its output.

    Rebuilding adds rounding errors. ``anchor_every`` limits them: after so many steps the backward pass starts again
    from a state that was kept. None: once per level.

    Attributes:
        drift: The largest absolute difference between a rebuilt state and the kept one since ``reset_drift``, a scalar
            on the device of the model; None before the first backward pass.

    Source: Gomez, Ren, Urtasun & Grosse 2017 (arXiv 1707.04585), section 3; Chen, Xu, Zhang & Guestrin 2016 (arXiv
    1604.06174) for ``checkpoint``.
    """

    def __init__(self, mode: str = "stored", anchor_every: int | None = None) -> None:
        self.mode = mode
        self.anchor_every = anchor_every
        self.drift: Tensor | None = None

    def run(
        self, units: Sequence[Link], x: Tensor, log_prob: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Advance the state ``[N, C, H, W]`` and the log-probability so far ``[N]`` through all units."""
        tape: Tape | None = None
        for unit in units:
            is_rebuilt = (
                self.mode == "reversible"
                and torch.is_grad_enabled()
                and isinstance(unit.bijector, Composition)
                # The backward pass does not come to frozen steps at the beginning of the chain.
                and (x.requires_grad or any(p.requires_grad for p in unit.bijector.parameters()))
            )
            if tape is not None and not (is_rebuilt and tape.num_steps != self.anchor_every):
                tape.state, tape = x.detach(), None
            if is_rebuilt and tape is None:
                tape = Tape(x, self)
            x, log_prob = unit(x, log_prob, context, tape)
        if tape is not None:
            tape.state = x.detach()
        return x, log_prob

    def observe_drift(self, difference: Tensor) -> None:
        """Update the drift by the error of a rebuilt state, without a device sync."""
        largest = difference.abs().max()
        self.drift = largest if self.drift is None else torch.maximum(self.drift, largest)

    def reset_drift(self) -> None:
        """Start the drift anew."""
        self.drift = None


def drift_of(model: nn.Module, *, reset: bool = False) -> Tensor | None:
    """Return the drift of a model since the last reset, a scalar on its device; None when there is none."""
    runner = getattr(model, "runner", None)
    if runner is None or runner.drift is None:
        return None
    drift = runner.drift
    if reset:
        runner.reset_drift()
    return drift


def run_step(
    step: Composition, tape: Tape, x: Tensor, log_prob: Tensor, context: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Apply a flow step; the backward pass rebuilds its input."""
    # Everything that receives a gradient must be an argument. The backward pass looks the parameters up again, because
    # sharding may have replaced them.
    return _RebuiltStep.apply(step, tape, context, x, log_prob, *step.parameters())


class _RebuiltStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, step: Composition, tape: Tape, context: Tensor | None, x: Tensor, log_prob: Tensor, *_: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.step, ctx.tape, ctx.context, ctx.number = step, tape, context, tape.num_steps
        tape.num_steps += 1
        z, logdet = step(x, context)
        return z, log_prob + logdet

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        grad_z, grad_log_prob = gradients
        state = ctx.tape.state
        parameters = list(ctx.step.parameters())
        collected: dict[nn.Parameter, Tensor | None] = {}
        for bijector in reversed(ctx.step.parts):
            with torch.enable_grad(), torch.autocast(state.device.type, enabled=False):
                leaf, state, z, logdet = bijector.replay(state, ctx.context)
            own = [parameter for parameter in bijector.parameters() if parameter.requires_grad]
            outputs = [(z, grad_z)] + ([(logdet, grad_log_prob)] if logdet.requires_grad else [])
            values, weights = zip(*outputs, strict=True)
            grad_z, *grads = torch.autograd.grad(values, [leaf, *own], weights, allow_unused=True)
            collected |= dict(zip(own, grads, strict=True))
        ctx.tape.rebuilt(ctx.number, state)
        return None, None, None, grad_z, grad_log_prob, *(collected[p] if p.requires_grad else None for p in parameters)
