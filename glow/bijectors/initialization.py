"""The data-dependent initialisation of ActNorms and 1x1 convolutions, from one batch or from its microbatches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from glow.bijectors.actnorm import ActNorm, all_sum
from glow.bijectors.base import Bijector
from glow.bijectors.conv1x1 import Conv1x1

State = TypeVar("State")
MIN_VARIANCE = 1e-6  # of a direction that is scaled to variance 1; channels have variance 1 before


@torch.no_grad()
def initialize_actnorms(model: nn.Module, *inputs: Tensor | None) -> None:
    """Set every ActNorm of a model from data: call ``model(*inputs)`` once.

    Each ActNorm is set when the data reaches it. This is a collective: N processes set what one process would set from
    all their batches. A channel of constant input keeps scale 1, with a warning.
    """

    def set_from(actnorm: ActNorm, name: str, x: Tensor) -> None:
        actnorm.initialize(lambda: [x], name)
        actnorm.await_data(None)

    with _awaiting(model, set_from):
        model(*inputs)


@torch.no_grad()
def initialize_part(module: nn.Module, run: Callable[[State], State], states: list[State], name: str) -> None:
    """Set every ActNorm of a part of a model from microbatches, and advance each of them by ``run``.

    This sets what ``initialize_actnorms`` sets, up to rounding, in the memory of one microbatch and the states. It is a
    collective of the same kind, so that other processes may call that.

    Args:
        module: Has the ActNorms.
        run: Maps the state of a microbatch through the module. It is called several times for each ActNorm.
        states: The microbatches; replaced by what ``run`` makes of them.
        name: Name of the module, for warnings.
    """

    def interrupt(actnorm: ActNorm, label: str, x: Tensor) -> None:
        raise _Reached(actnorm, label, x)

    def input_of(state: State) -> _Reached | None:
        try:
            run(state)
        except _Reached as reached:
            return reached.with_traceback(None)  # its frames hold tensors
        return None

    def inputs() -> Iterator[Tensor]:
        for state in states:
            reached = input_of(state)
            assert reached is not None
            yield reached.x

    with _awaiting(module, interrupt, name):
        while (reached := input_of(states[0])) is not None:
            actnorm, label = reached.actnorm, reached.label
            del reached
            actnorm.initialize(inputs, label)
            actnorm.await_data(_pass)
        for index, state in enumerate(states):
            states[index] = run(state)


@torch.no_grad()
def whiten(conv: Bijector, inputs: Callable[[], Iterable[Tensor]]) -> None:
    """Set a 1x1 convolution that follows an ActNorm, so that its outputs are uncorrelated with variance 1.

    ``W = D^(-1/2) V^T``, where V D V^T is the correlation matrix of the channels over all pixels; the direction with
    the largest variance comes first. The ActNorm that scales each channel to variance 1 is not set here, and not used.
    This is a collective: N processes set what one process would set from all their parts.

    Args:
        conv: The convolution, a ``Conv1x1`` with ``set_weight``.
        inputs: Gives the parts of a batch, each ``[N, C, H, W]``, before the ActNorm. It is called twice.

    Source: principal component analysis; Bell & Sejnowski 1997 for images.
    """
    assert isinstance(conv, Conv1x1)
    parts = ((pixels.sum(0), len(pixels)) for pixels in map(_pixels, inputs()))
    totals, counts = zip(*parts, strict=True)
    count = all_sum(torch.full_like(totals[0][0], sum(counts)))
    mean = all_sum(torch.stack(totals).sum(0)) / count
    deviations = (_pixels(x) - mean for x in inputs())
    squares = torch.stack([deviation.T @ deviation for deviation in deviations]).sum(0)
    covariance = all_sum(squares) / count
    std = covariance.diagonal().sqrt()
    std = torch.where(std <= 1e-6 * mean.abs().clamp(min=1), 1.0, std)  # constant: ActNorm leaves it alone
    variances, directions = torch.linalg.eigh(covariance / std.outer(std))
    variances, directions = variances.flip(0).clamp(min=MIN_VARIANCE), directions.flip(1)
    # Of a direction and its opposite, always the same one.
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    conv.set_weight((directions * largest.sign() * variances.rsqrt()).T)


def _pixels(x: Tensor) -> Tensor:
    """Return the pixels ``[N H W, C]`` of ``x [N, C, H, W]``, in float64."""
    return x.movedim(1, -1).reshape(-1, x.shape[1]).double()


class _Reached(Exception):
    """The input of the first ActNorm that is not set."""

    def __init__(self, actnorm: ActNorm, label: str, x: Tensor) -> None:
        super().__init__(label)
        self.actnorm, self.label, self.x = actnorm, label, x


@contextmanager
def _awaiting(
    module: nn.Module, receive: Callable[[ActNorm, str, Tensor], None], name: str | None = None
) -> Iterator[None]:
    """Let ``receive`` see the input of each ActNorm of a module, with the name of the ActNorm."""
    actnorms = {label: child for label, child in module.named_modules(prefix=name or "") if isinstance(child, ActNorm)}
    for label, actnorm in actnorms.items():
        actnorm.await_data(partial(receive, actnorm, label))
    try:
        yield
    finally:
        for actnorm in actnorms.values():
            actnorm.await_data(None)


def _pass(_: Tensor) -> None:
    """Let data through an ActNorm that is set, on the path of those that are not."""
