"""CUDA graphs: thousands of kernels that the GPU starts by itself, after one call of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: list[Any]


class CudaGraphs:
    """A function of tensors on a GPU, recorded once for each shape of its inputs and replayed in later calls.

    A replay runs the same kernels on the same memory. So the function must not look at values. What it reads besides
    its inputs, such as parameters, must stay at its place; it may change there.

    Args:
        function: Takes tensors and returns tensors, or None in place of some.
        num_warm_ups: Calls before it is recorded, in which libraries choose their kernels and take their memory. 0 for
            a function that may not be called more often than asked for.

    Source: docs.pytorch.org, "CUDA semantics", section "CUDA Graphs".
    """

    def __init__(self, function: Callable[..., Sequence[Any]], num_warm_ups: int = 3) -> None:
        self.function = function
        self.num_warm_ups = num_warm_ups
        self._recordings: dict[object, _Recording] = {}

    def __call__(self, *inputs: Tensor) -> list[Any]:
        """Return the outputs. The next call writes new values into the same tensors.

        Raises:
            ValueError: when the function cannot be recorded.
        """
        key = tuple((value.shape, value.dtype) for value in inputs)
        if key not in self._recordings:
            self._recordings[key] = self._record(inputs)
        recording = self._recordings[key]
        for held, value in zip(recording.inputs, inputs, strict=True):
            held.copy_(value, non_blocking=True)
        recording.graph.replay()
        return recording.outputs

    def _record(self, inputs: Sequence[Tensor]) -> _Recording:
        device = inputs[0].device
        held = [value.clone() for value in inputs]
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(self.num_warm_ups):
                self.function(*held)
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may use the GPU meanwhile: checkpoints are written by one.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = list(self.function(*held))
        except RuntimeError as error:
            reason = " ".join(str(error).split("\n", 1)[0].split())
            raise ValueError(f"cuda_graph: true, but this model cannot be recorded; give false ({reason})") from error
        return _Recording(graph, held, outputs)
