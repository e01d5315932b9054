"""Between lines of the log, the host waits once a step for the device: for the numbers that decide on the update."""

import itertools

import pytest
import torch
from accelerate import Accelerator
from conftest import random_inputs, tiny_glow
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from glow.config import OptimizerConfig, TrainConfig, TrainRun
from glow.parallel.layout import Replicated
from glow.parallel.placement import Placement
from glow.parallel.recorded import Recorded
from glow.training import update
from glow.training.trainer import Trainer

# On a GPU the host waits for each of these; torch.tensor copies from memory that is not pinned.
CALLS = {"tolist", "cpu", "numpy", "new_tensor", "tensor", "as_tensor"}
OPERATIONS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select"}


class Calls(TorchFunctionMode):
    def __init__(self, note):
        super().__init__()
        self.note = note

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ in CALLS:
            self.note(func.__name__)
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    def __init__(self, note):
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in OPERATIONS:
            self.note(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class Batch:
    def __init__(self, inputs, skipped=()):
        self.inputs, self.skipped, self.keys = inputs, skipped, []

    def __len__(self):
        return len(self.inputs[0])


def reads_of(tmp_path, layout, name, memory="stored"):
    """Train three steps, with a line of the log after the last; return what was read after the first one."""
    model = tiny_glow(torch.float32)
    run = TrainRun(
        str(tmp_path),
        train=TrainConfig(num_steps=3, batch_size=4, microbatch_size=2, log_every=3),
        optimizer=OptimizerConfig(name=name, max_grad_norm=1.0),
        memory=memory,
        max_drift=1.0 if memory == "reversible" else None,
    )
    model.set_memory(memory)
    accelerator = Accelerator(cpu=True)
    trainer = Trainer(layout(model, Placement(0, 1), accelerator), model.num_dims, run, accelerator)
    batches = (Batch(random_inputs(model.config, 4, torch.float32, seed)) for seed in itertools.count())
    reads = []

    def note(call):
        if trainer.step in (1, 2):
            reads.append(call)

    with Calls(note), Operations(note):
        trainer.fit(batches, None, lambda model: {})
    return reads


# Adamax keeps its numbers of steps in host memory on a CPU, and on the device on a GPU.
@pytest.mark.parametrize(
    ("name", "memory"),
    [("adam", "stored"), ("adamw", "checkpoint"), ("muon", "reversible"), ("sgd", "stored")],
)
def test_a_step_reads_once(tmp_path, name, memory):
    assert reads_of(tmp_path, Replicated, name, memory) == 2 * ["tolist"]


def test_a_recorded_step_reads_once(tmp_path, monkeypatch):
    monkeypatch.setattr(update, "CudaGraphs", lambda function, num_warm_ups: function)
    monkeypatch.setattr(update, "records_steps", lambda run, device: True)

    def recorded(*arguments):
        return Recorded(*arguments, record=lambda function: function)

    assert reads_of(tmp_path, recorded, "adam") == 2 * ["tolist"]
