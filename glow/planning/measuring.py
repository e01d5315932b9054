"""Measure the memory of forward and backward passes with the allocator of the device, to check predictions."""

from __future__ import annotations

import dataclasses
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.autograd.profiler import profile

from glow.config import ModelConfig, TrainRun
from glow.execution.precision import NETWORK_DTYPES, set_compute_dtype
from glow.models.glow import Glow
from glow.planning.memory import MEMORY_MODES, in_mode, process_memory
from glow.training.ema import EMA
from glow.training.optimizer import build_optimizer

PLOTTED_STEPS = (4, 8, 16, 32)


@dataclass
class Allocations:
    """Memory that was allocated since a moment and not freed, in bytes."""

    live_bytes: int = 0
    """At the end."""
    peak_bytes: int = 0
    """At most."""


def measure_step(run: TrainRun, images: int, device: torch.device) -> int:
    """Return the most memory, in bytes, that one process alone needs for one microbatch.

    The model, averaged weights, gradients and the optimiser's state exist before, as in every step but the first.
    """
    with allocations(device) as counted:
        model = _ready_model(run, device)
        ema = EMA(model, run.train.ema_decay)
        optimizer = build_optimizer(model.parameters(), run.optimizer)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        model(*random_inputs(run.model, images, device=device)).sum().backward()
        del ema
    return counted.peak_bytes


def measure_kept(run: TrainRun, images: int, device: torch.device) -> int:
    """Return the memory, in bytes, that a forward pass keeps for the backward pass."""
    model = _ready_model(run, device)
    inputs = random_inputs(run.model, images, device=device)
    with allocations(device) as counted:
        log_prob = model(*inputs)
    del log_prob
    return counted.live_bytes


def plot_kept(run: TrainRun, images: int, device: torch.device, path: str) -> None:
    """Draw the memory that a forward pass keeps over the number of steps in a level, for each memory mode.

    Points are measured, lines are predicted.
    """
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for memory in MEMORY_MODES:
        measured, predicted = [], []
        for num_steps in PLOTTED_STEPS:
            model = dataclasses.replace(run.model, num_steps_per_level=num_steps)
            single = in_mode(dataclasses.replace(run, model=model), memory)
            measured.append(measure_kept(single, images, device) / 2**20)
            predicted.append(process_memory(single, 1, images, device.type)[0].kept_bytes / 2**20)
        (line,) = axes.plot(PLOTTED_STEPS, predicted, linewidth=1)
        axes.plot(PLOTTED_STEPS, measured, "o", color=line.get_color(), label=memory)
        axes.annotate(f"{measured[-1]:.3g}", (PLOTTED_STEPS[-1], measured[-1]), (6, 2), textcoords="offset points")
    axes.set(xlabel="steps in a level, K", ylabel=f"MiB kept for backward, {images} images", xticks=PLOTTED_STEPS)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.08)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="measured; lines: predicted")
    figure.savefig(path, dpi=120)


@contextmanager
def allocations(device: torch.device) -> Iterator[Allocations]:
    """Count the memory that is allocated in the body of the ``with``."""
    counted = Allocations()
    # Garbage from before, collected inside, would count as memory set free.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield counted
        torch.cuda.synchronize(device)
        counted.live_bytes = torch.cuda.memory_allocated(device) - before
        counted.peak_bytes = torch.cuda.max_memory_allocated(device) - before
        return
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # it would report a missing GPU as an error
    # Not torch.profiler: its tables of all operations take most of the time, and nothing here reads them.
    with profile(use_kineto=True, profile_memory=True) as profiler:
        yield counted
    assert profiler.kineto_results is not None
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        counted.live_bytes += event.nbytes()
        counted.peak_bytes = max(counted.peak_bytes, counted.live_bytes)


def _ready_model(run: TrainRun, device: torch.device) -> Glow:
    model = Glow(run.model).to(device)
    model.initialize(*random_inputs(run.model, 2, device=device))
    model.set_memory(run.memory, run.anchor_every or None)
    set_compute_dtype(model, NETWORK_DTYPES[run.train.mixed_precision or "no"])
    return model.train()


def random_inputs(model: ModelConfig, count: int, seed: int = 0, device: torch.device | None = None) -> list[Tensor]:
    """Return the inputs of ``count`` random images: images, noise, and labels if the model takes them."""
    assert model.image_shape is not None
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *model.image_shape), dtype=torch.uint8, generator=rng)
    noise = torch.rand(images.shape, generator=rng).clamp(1e-6, 1 - 1e-6)
    labels = [torch.randint(0, model.num_classes, (count,), generator=rng)] if model.num_classes else []
    return [value.to(device) for value in (images, noise, *labels)]
