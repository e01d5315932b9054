"""Three dense layers for every row of a matrix, computed one block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from glow.networks.operators import operator

# Size of a hidden layer in one block, per thread. Smaller products are slower; larger ones do not stay in the caches.
BLOCK_BYTES = 1 << 20


_on_gpu: ContextVar[bool] = ContextVar("on_gpu", default=False)


@contextmanager
def as_on_gpu(is_on: bool) -> Iterator[None]:
    """Take the path of a GPU for a while, on any device, so that its memory can be counted without one."""
    token = _on_gpu.set(is_on)
    try:
        yield
    finally:
        _on_gpu.reset(token)


def three_layers(rows: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], last: Tensor) -> Tensor:
    """Return ``relu(relu(rows W1^T + b1) W2^T + b2) W3^T``, ``[P, out]``.

    On a CPU, each block of rows goes through all layers while it is in the cache, in the forward and in the backward
    pass. Hidden layers in main memory would make the passes over them as slow as the products.

    Args:
        rows: ``[P, in]``; all tensors have one dtype.
        first: ``W1 [hidden, in]`` and ``b1 [hidden]``.
        second: ``W2 [hidden, hidden]`` and ``b2 [hidden]``.
        last: ``W3 [out, hidden]``.
    """
    return _ThreeLayers.apply(torch.is_grad_enabled(), rows, *first, *second, last)


def _empty_results(
    rows: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, num_kept: int
) -> tuple[Tensor, Tensor, Tensor]:
    return rows.new_empty(len(rows), len(w3)), rows.new_empty(num_kept, len(w1)), rows.new_empty(num_kept, len(w2))


@operator(
    "three_layers(Tensor rows, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor w3, int num_kept) "
    "-> (Tensor, Tensor, Tensor)",
    _empty_results,
)
def _forward(
    rows: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, num_kept: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, and both hidden layers of the first ``num_kept`` rows: all rows or none."""
    output, hidden1, hidden2 = _empty_results(rows, w1, b1, w2, b2, w3, num_kept)
    inputs, outputs = _blocks(len(w1), rows, output)
    if num_kept:
        hidden = _blocks(len(w1), hidden1, hidden2)
    else:  # all blocks share the memory of one
        hidden = [(rows.new_empty(len(inputs[0]), len(w)),) * len(inputs) for w in (w1, w2)]
    w1, w2, w3 = w1.T, w2.T, w3.T
    for x, h1, h2, out in zip(inputs, *hidden, outputs, strict=True):
        h1, h2 = h1[: len(x)], h2[: len(x)]
        _relu_layer(b1, x, w1, h1)
        _relu_layer(b2, h1, w2, h2)
        torch.mm(h2, w3, out=out)
    return output, hidden1, hidden2


def _empty_gradients(
    gradient: Tensor, rows: Tensor, hidden1: Tensor, hidden2: Tensor, w1: Tensor, w2: Tensor, w3: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_w1, grad_w2, grad_w3 = (torch.empty_like(w, memory_format=torch.contiguous_format) for w in (w1, w2, w3))
    return rows.new_empty(rows.shape), grad_w1, w1.new_empty(len(w1)), grad_w2, w2.new_empty(len(w2)), grad_w3


@operator(
    "three_layers_backward(Tensor gradient, Tensor rows, Tensor hidden1, Tensor hidden2, "
    "Tensor w1, Tensor w2, Tensor w3) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _empty_gradients,
)
def _backward(
    gradient: Tensor, rows: Tensor, hidden1: Tensor, hidden2: Tensor, w1: Tensor, w2: Tensor, w3: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of ``rows, W1, b1, W2, b2, W3``."""
    grad_rows, *of_layers = _empty_gradients(gradient, rows, hidden1, hidden2, w1, w2, w3)
    grad_w1, grad_b1, grad_w2, grad_b2, grad_w3 = (total.zero_() for total in of_layers)
    blocks = _blocks(len(w1), rows, hidden1, hidden2, gradient.contiguous(), grad_rows)
    scratch1, scratch2 = torch.empty_like(blocks[1][0]), torch.empty_like(blocks[2][0])
    for x, h1, h2, g3, out in zip(*blocks, strict=True):
        g1, g2 = scratch1[: len(x)], scratch2[: len(x)]
        torch.addmm(grad_w3, g3.T, h2, out=grad_w3)
        grad_b2 += _relu_backward(torch.mm(g3, w3, out=g2), h2)
        torch.addmm(grad_w2, g2.T, h1, out=grad_w2)
        grad_b1 += _relu_backward(torch.mm(g2, w2, out=g1), h1)
        torch.addmm(grad_w1, g1.T, x, out=grad_w1)
        torch.mm(g1, w1, out=out)
    return grad_rows, grad_w1, grad_b1, grad_w2, grad_b2, grad_w3


class _ThreeLayers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, is_recorded: bool, rows: Tensor, *layers: Tensor) -> Tensor:
        w1, b1, w2, b2, w3 = layers
        output, hidden1, hidden2 = _forward(rows, w1, b1, w2, b2, w3, len(rows) if is_recorded else 0)
        if is_recorded:
            ctx.save_for_backward(rows, hidden1, hidden2, w1, w2, w3)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return None, *_backward(*gradients, *ctx.saved_tensors)


def _relu_layer(bias: Tensor, x: Tensor, weight: Tensor, out: Tensor) -> None:
    """Write ``relu(x W + b)``."""
    if x.is_cuda:  # one kernel
        torch._addmm_activation(bias, x, weight, out=out)
    else:
        torch.addmm(bias, x, weight, out=out).relu_()


def _relu_backward(gradient: Tensor, output: Tensor) -> Tensor:
    """Set the gradient to 0, in place, where the output of the ReLU is 0; return its sum over rows."""
    if gradient.is_cuda and gradient.dtype != torch.float64:
        from glow.networks.kernels import are_available, relu_backward_and_sum  # slow to import

        if are_available():
            return relu_backward_and_sum(gradient, output)
    torch.ops.aten.threshold_backward.grad_input(gradient, output, 0, grad_input=gradient)
    return gradient.sum(0)


def _blocks(width: int, *matrices: Tensor) -> list[tuple[Tensor, ...]]:
    """Cut matrices of equal length into blocks of rows; on a GPU there is one block."""
    like = matrices[0]
    size = max(1, len(like))
    is_cpu = like.device.type == "cpu" and not _on_gpu.get()
    if is_cpu and like.element_size() >= 4:  # halves: sums over blocks would be rounded
        size = max(1, torch.get_num_threads() * BLOCK_BYTES // (width * like.element_size()))
    return [matrix.split(size) for matrix in matrices]
