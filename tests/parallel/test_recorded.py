"""Gradients of recorded passes: those of DistributedDataParallel, whatever the processes and microbatches."""

import dataclasses
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from conftest import random_inputs, run_ranks, tiny_glow

from glow.config import TrainRun
from glow.parallel.build import records_steps
from glow.parallel.layout import Replicated
from glow.parallel.placement import Placement
from glow.parallel.recorded import Recorded

SCALE = -0.01


class Replayed:
    """As a CUDA graph, it writes into the same tensors at each call."""

    def __init__(self, function):
        self.function, self.outputs = function, {}

    def __call__(self, *inputs):
        new = self.function(*inputs)
        key = inputs[1].shape
        if key not in self.outputs:
            self.outputs[key] = [None if value is None else value.clone() for value in new]
        for held, value in zip(self.outputs[key], new, strict=True):
            if held is not None:
                held.copy_(value)
        return self.outputs[key]


def gradients(layout_type, microbatch_size, num_processes=1, rank=0):
    model = tiny_glow(dtype=torch.float32, class_conditional=True, num_classes=3).train()
    unused = torch.nn.Parameter(torch.zeros(2))
    model.register_parameter("unused", unused)
    kwargs = {"record": Replayed} if layout_type is Recorded else {}
    layout = layout_type(model, Placement(rank, num_processes), Accelerator(cpu=True), **kwargs)
    results = []
    for seed in (1, 2):
        inputs = random_inputs(model.config, 10, torch.float32, seed=seed)
        share = slice(10 * rank // num_processes, 10 * (rank + 1) // num_processes)
        total = layout.backward([value[share] for value in inputs], microbatch_size, SCALE)
        grads = [None if p.grad is None else p.grad.double().flatten().clone() for p in model.parameters()]
        assert [g is None for g in grads] == [p is unused for p in model.parameters()]
        # Fused optimisers want it.
        assert all(p.grad is None or p.grad.stride() == p.stride() for p in model.parameters())
        results += [[float(total)], *(g.tolist() for g in grads if g is not None)]
        model.zero_grad()
    return [number for values in results for number in values]


@pytest.mark.parametrize("microbatch_size", [3, 5, 10])
def test_gradients_are_those_of_one_pass(microbatch_size):
    expected, actual = gradients(Replicated, 10), gradients(Recorded, microbatch_size)
    torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected), rtol=1e-4, atol=1e-6)


def in_rank(microbatch_size):
    import torch.distributed as dist

    return gradients(Recorded, microbatch_size, dist.get_world_size(), dist.get_rank())


def test_two_processes_get_the_gradients_of_one():
    expected = gradients(Replicated, 10)
    first, second = run_ranks(partial(in_rank, 2), 2)
    sizes = len(expected) // 2
    for number in (0, sizes):  # each process returns its part of the sum
        assert first[number] + second[number] == pytest.approx(expected[number], rel=1e-5)
        first[number] = second[number] = expected[number]
    assert first == second
    torch.testing.assert_close(torch.tensor(first), torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_steps_are_recorded_on_gpus_where_that_is_possible():
    run = TrainRun(output="x")
    assert records_steps(run, "cuda")
    assert not records_steps(run, "cpu")
    assert not records_steps(dataclasses.replace(run, memory="reversible"), "cuda")
    assert not records_steps(dataclasses.replace(run, cuda_graph=False), "cuda")
    with pytest.raises(ValueError, match="no GPU here"):
        records_steps(dataclasses.replace(run, cuda_graph=True), "cpu")
    with pytest.raises(ValueError, match="with cuda_graph give stored or checkpoint"):
        dataclasses.replace(run, cuda_graph=True, memory="reversible")
