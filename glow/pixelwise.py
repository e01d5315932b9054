"""Three dense layers that are applied to every row of a matrix, computed a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_BYTES = 1 << 19  # of a hidden layer for each thread: about what the second-level cache of a core holds


def three_layers(rows: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], last: Tensor) -> Tensor:
    """Return ``relu(relu(rows W1^T + b1) W2^T + b2) W3^T``, ``[P, out]``.

    On a CPU a block of rows goes through all layers while it is in the cache, forwards and backwards: passes over
    hidden layers that lie in main memory would take as long as the products.

    Args:
        rows: ``[P, in]``; all tensors have one dtype.
        first: ``W1 [hidden, in]`` and ``b1 [hidden]``.
        second: ``W2 [hidden, hidden]`` and ``b2 [hidden]``.
        last: ``W3 [out, hidden]``.
    """
    return _ThreeLayers.apply(torch.is_grad_enabled(), rows, *first, *second, last)


class _ThreeLayers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, is_recorded: bool, rows: Tensor, *layers: Tensor) -> Tensor:
        w1, b1, w2, b2, w3 = layers
        blocks = list(_blocks(rows, len(w1)))
        num_kept = len(rows) if is_recorded else len(rows[blocks[0]])
        hidden1, hidden2 = rows.new_empty(num_kept, len(w1)), rows.new_empty(num_kept, len(w2))
        output = rows.new_empty(len(rows), len(w3))
        for block in blocks:
            place = block if is_recorded else slice(0, block.stop - block.start)
            h1, h2 = hidden1[place], hidden2[place]
            torch.addmm(b1, rows[block], w1.T, out=h1).relu_()
            torch.addmm(b2, h1, w2.T, out=h2).relu_()
            torch.mm(h2, w3.T, out=output[block])
        if is_recorded:
            ctx.save_for_backward(rows, hidden1, hidden2, w1, w2, w3)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        rows, hidden1, hidden2, w1, w2, w3 = ctx.saved_tensors
        grad_output = gradients[0].contiguous()
        grad_rows = torch.empty_like(rows)
        grad_w1, grad_w2, grad_w3 = torch.zeros_like(w1), torch.zeros_like(w2), torch.zeros_like(w3)
        grad_b1, grad_b2 = rows.new_zeros(len(w1)), rows.new_zeros(len(w2))
        blocks = list(_blocks(rows, len(w1)))
        scratch1, scratch2 = (rows.new_empty(len(rows[blocks[0]]), len(w)) for w in (w1, w2))
        for block in blocks:
            h1, h2, g3 = hidden1[block], hidden2[block], grad_output[block]
            g1, g2 = scratch1[: len(h1)], scratch2[: len(h2)]
            torch.addmm(grad_w3, g3.T, h2, out=grad_w3)
            _relu_backward(torch.mm(g3, w3, out=g2), h2)
            grad_b2 += g2.sum(0)
            torch.addmm(grad_w2, g2.T, h1, out=grad_w2)
            _relu_backward(torch.mm(g2, w2, out=g1), h1)
            grad_b1 += g1.sum(0)
            torch.addmm(grad_w1, g1.T, rows[block], out=grad_w1)
            torch.mm(g1, w1, out=grad_rows[block])
        return None, grad_rows, grad_w1, grad_b1, grad_w2, grad_b2, grad_w3


def _relu_backward(gradient: Tensor, output: Tensor) -> None:
    """Set the gradient to 0, in place, where the output of the ReLU is."""
    torch.ops.aten.threshold_backward.grad_input(gradient, output, 0, grad_input=gradient)


def _blocks(rows: Tensor, width: int) -> Iterator[slice]:
    """Yield the blocks of rows, on a GPU one of all."""
    size = len(rows)
    if rows.device.type == "cpu" and rows.element_size() >= 4:  # products of halves are added up in one piece
        size = max(1, torch.get_num_threads() * BLOCK_BYTES // (width * rows.element_size()))
    for start in range(0, max(1, len(rows)), max(1, size)):
        yield slice(start, min(start + size, len(rows)))
