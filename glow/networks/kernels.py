"""Kernels for GPUs, written in Triton, where torch would need several passes over memory."""

from __future__ import annotations

import os
import shutil
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 32, 128  # of a block
BLOCKS = 32  # of rows that one program goes through


@triton.jit
def _relu_backward(  # noqa: PLR0913, PLR0917
    gradient: Any,
    output: Any,
    sums: Any,
    num_rows: Any,
    width: Any,
    num_blocks: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
) -> None:
    strip = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    total = tl.zeros([block_columns], dtype=tl.float32)
    for block in range(num_blocks):
        rows = (strip * num_blocks + block) * block_rows + tl.arange(0, block_rows)
        places = rows[:, None] * width + columns[None, :]
        is_inside = (rows[:, None] < num_rows) & (columns[None, :] < width)
        values = tl.load(gradient + places, mask=is_inside, other=0.0)
        passes = tl.load(output + places, mask=is_inside, other=0.0) > 0
        values = tl.where(passes, values, tl.zeros_like(values))
        tl.store(gradient + places, values, mask=is_inside)
        total += tl.sum(values.to(tl.float32), axis=0)
    tl.store(sums + strip * width + columns, total, mask=columns < width)


def relu_backward_and_sum(gradient: Tensor, output: Tensor) -> Tensor:
    """Set ``gradient [P, width]`` to 0, in place, where the output of a ReLU is 0; return its sum over rows, float32.

    One pass over memory. The sum does not depend on the order in which programs end.
    """
    num_rows, width = gradient.shape
    num_strips = triton.cdiv(num_rows, ROWS * BLOCKS)
    sums = gradient.new_empty(num_strips, width, dtype=torch.float32)
    grid = (num_strips, triton.cdiv(width, COLUMNS))
    _relu_backward[grid](gradient, output, sums, num_rows, width, BLOCKS, ROWS, COLUMNS)
    return sums.sum(0)


@cache
def are_available() -> bool:
    """Return whether Triton can build kernels here: it needs a C compiler."""
    return any(shutil.which(name) for name in (os.environ.get("CC", ""), "cc", "gcc", "clang") if name)
