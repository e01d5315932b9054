"""Memory of forward and backward passes as the allocator of the device counts it, to hold predictions against."""

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
from torch.profiler import ProfilerActivity, profile

from glow.config import TrainRun
from glow.execution.precision import NETWORK_DTYPES, set_compute_dtype
from glow.models.glow import Glow
from glow.planning.memory import MEMORY_MODES, in_mode, process_memory
from glow.training.ema import EMA
from glow.training.optimizer import build_optimizer

PLOTTED_STEPS = (4, 8, 16, 32)


@dataclass
class Allocations:
    """What was allocated and not freed since a moment, in bytes."""

    live_bytes: int = 0
    """At the end."""
    peak_bytes: int = 0
    """At most."""


def measure_step(run: TrainRun, images: int, device: torch.device) -> int:
    """Return the most memory, in bytes, that training needs for one microbatch in a process alone.

    Model, averaged weights, gradients and the optimiser's state are there before, as in all steps but the first.
    """
    with allocations(device) as counted:
        model = _ready_model(run, device)
        ema = EMA(model, run.train.ema_decay)
        optimizer = build_optimizer(model.parameters(), run.optimizer)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        model(*_random_inputs(model, images, device)).sum().backward()
        del ema
    return counted.peak_bytes


def measure_kept(run: TrainRun, images: int, device: torch.device) -> int:
    """Return the memory, in bytes, that a forward pass keeps for the backward pass."""
    model = _ready_model(run, device)
    inputs = _random_inputs(model, images, device)
    with allocations(device) as counted:
        log_prob = model(*inputs)
    del log_prob
    return counted.live_bytes


def plot_kept(run: TrainRun, images: int, device: torch.device, path: str) -> None:
    """Draw what forward passes keep over the number of steps in a level, for each memory mode.

    Points are measured, lines predicted.
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
    """Count what is allocated within, up to its end."""
    counted = Allocations()
    # Garbage of before that is collected within would count as memory set free.
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
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # that there is no GPU is no error
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield counted
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        counted.live_bytes += event.nbytes()
        counted.peak_bytes = max(counted.peak_bytes, counted.live_bytes)


def _ready_model(run: TrainRun, device: torch.device) -> Glow:
    model = Glow(run.model).to(device)
    model.initialize(*_random_inputs(model, 2, device))
    model.set_memory(run.memory, run.anchor_every or None)
    set_compute_dtype(model, NETWORK_DTYPES[run.train.mixed_precision or "no"])
    return model.train()


def _random_inputs(model: Glow, images: int, device: torch.device) -> list[Tensor]:
    """Return images, noise, and labels where the model takes them."""
    shape = (images, *model.image_shape)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    noise = torch.rand(shape, device=device).clamp(1e-6, 1 - 1e-6)
    labels = [torch.zeros(images, dtype=torch.int64, device=device)] if model.num_classes else []
    return [pixels, noise, *labels]
