"""The models that are measured: ours, and those that it is compared with, all trained on the same batches."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from glow.benchmarking.peers import DIFFERENCES, NormflowsGlow, compare_sizes
from glow.config import BenchmarkRun
from glow.execution.memory import drift_of
from glow.execution.precision import NETWORK_DTYPES, set_compute_dtype
from glow.models.glow import Glow
from glow.parallel.build import lay_out
from glow.parallel.placement import place
from glow.planning.measuring import allocations
from glow.planning.memory import process_memory
from glow.training.batch import TrainingBatch
from glow.training.trainer import Trainer

TEMPERATURE = 0.7


class Contestant:
    """One of the models that take turns.

    Args:
        trainer: Trains the model; its steps are timed.
        batches: Training batches, used again and again.
        draw: Draws a number of images, uint8 in host memory.
    """

    def __init__(self, trainer: Trainer, batches: Sequence[TrainingBatch], draw: Callable[[int], object]) -> None:
        self.trainer = trainer
        self.model = trainer.model
        self.draw = draw
        self._first = batches[0]
        self._batches = itertools.cycle(batches)

    def train(self) -> None:
        """Make one step of the training."""
        self._set_training(True)
        self.trainer.train_step(next(self._batches))

    @torch.no_grad()
    def log_prob(self) -> Tensor | None:
        """Return the log-probabilities of the first batch."""
        self._set_training(False)
        return self.trainer.layout.log_prob([value.to(self.trainer.accelerator.device) for value in self._first.inputs])

    @torch.no_grad()
    def sample(self, count: int) -> None:
        """Draw images."""
        self._set_training(False)
        self.draw(count)

    def _set_training(self, mode: bool) -> None:
        """Set the mode once, as the stages do: a walk through all modules takes as long as a small layer."""
        if self.model.training != mode:
            self.model.train(mode)

    def memory(self) -> dict[str, int]:
        """Return ``held_bytes`` and ``peak_bytes``.

        Between two steps, weights, averages and the optimiser's state are held. The peak is the most memory during a
        step, counted by the allocator of the device.
        """
        state = self.trainer.optimizer.state.values()
        moments = [value for values in state for value in values.values() if isinstance(value, Tensor)]
        held = [*self.model.parameters(), *self.model.buffers(), *self.trainer.ema.average.values(), *moments]
        held_bytes = sum(tensor.nbytes for tensor in held)
        drift_of(self.model, reset=True)  # else memory from before would be freed during the step, with a warning
        with allocations(self.trainer.accelerator.device) as counted:
            self.train()
        return {"held_bytes": held_bytes, "peak_bytes": held_bytes + counted.peak_bytes}


def build_contestants(
    run: BenchmarkRun, accelerator: Accelerator, batches: Sequence[TrainingBatch]
) -> dict[str, Contestant]:
    """Build our model and its rivals by name, all initialised from the first batch."""
    inputs = [value.to(accelerator.device) for value in batches[0].inputs]
    ours = _build_glow(run, accelerator)
    ours.initialize(*inputs)
    contestants = {"ours": _contestant(ours, run, accelerator, batches)}
    if run.against is not None and run.against != "normflows":
        other = dataclasses.replace(run, memory=run.against, against=None, compile=False, cuda_graph=None)
        model = _build_glow(other, accelerator)
        model.load_state_dict(ours.state_dict())
        contestants[run.against] = _contestant(model, other, accelerator, batches)
    elif run.against == "normflows":
        dtype = NETWORK_DTYPES[accelerator.mixed_precision]
        precisions = {"normflows": None} | ({"normflows, autocast": dtype} if dtype else {})
        for name, autocast in precisions.items():
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(run.train.seed)
                theirs = NormflowsGlow(run.model, autocast).to(accelerator.device)
                theirs(*inputs)  # the first batch sets its ActNorms
            # It looks at values on the host in every pass, so it cannot be recorded.
            contestants[name] = _contestant(theirs, dataclasses.replace(run, cuda_graph=False), accelerator, batches)
    return contestants


def describe_sizes(run: BenchmarkRun, contestants: Mapping[str, Contestant]) -> dict[str, Any]:
    """Return parameters, and multiply-accumulates of a forward pass of one image; beside those of normflows, if given.

    Raises:
        ValueError: when the sizes differ too much.
    """
    memory = process_memory(run, 1, 1)[0]
    described: dict[str, Any] = {"num_parameters": memory.num_parameters, "num_macs": memory.num_macs}
    if run.against == "normflows":
        assert run.model.image_shape is not None
        ours, theirs = contestants["ours"].model, contestants["normflows"].model
        sizes = compare_sizes(ours, theirs, run.model.image_shape)
        version = importlib.metadata.version("normflows")
        described["against"] = {"normflows": version, "sizes": sizes, "differences": DIFFERENCES}
    return described


def _build_glow(run: BenchmarkRun, accelerator: Accelerator) -> Glow:
    """Build the model in a memory mode, with the first weights of a training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.train.seed)
        model = Glow(run.model).to(accelerator.device)
    model.set_memory(run.memory, run.anchor_every or None)
    set_compute_dtype(model, NETWORK_DTYPES[accelerator.mixed_precision])
    return model


def _contestant(
    model: Glow | NormflowsGlow, run: BenchmarkRun, accelerator: Accelerator, batches: Sequence[TrainingBatch]
) -> Contestant:
    """Train a model as the training stage does, and draw images from noise that the device makes."""
    layout = lay_out(model, run, place(run, 0, 1), accelerator)
    trainer = Trainer(layout, model.num_dims, run, accelerator)

    def draw(count: int) -> object:
        if isinstance(model, NormflowsGlow):
            return model.sample(count, TEMPERATURE).cpu()
        noise = torch.randn(count, model.num_dims, device=accelerator.device)
        labels = noise.new_zeros(count, dtype=torch.int64) if model.num_classes else None
        return model.sample(noise, TEMPERATURE, labels).cpu()

    return Contestant(trainer, batches, draw)
