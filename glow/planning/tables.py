"""The text of a plan: size of the model, ways to train it, predicted and measured memory, and advice."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from glow.config import TrainRun
from glow.planning.measuring import measure_step
from glow.planning.memory import FORWARD_PASSES, MEMORY_MODES, describe_stages, in_mode, process_memory
from glow.planning.options import RESERVE, Option

GIB = 2**30


def model_text(run: TrainRun) -> str:
    """Return images, size and arithmetic of the model."""
    model = run.model
    assert model.image_shape is not None
    whole = process_memory(in_mode(run, "stored"), 1, 1)[0]
    return (
        f"{'x'.join(map(str, model.image_shape))} images; L {model.num_levels}, K {model.steps_text}, width "
        f"{model.hidden_channels}, {model.coupling}: {_scaled(whole.num_parameters)} parameters, "
        f"{_scaled(whole.num_macs)} multiply-accumulates in a forward pass of one image"
    )


def _scaled(count: int) -> str:
    """Return a count in the largest unit that it fills."""
    size, unit = next((each for each in ((1e9, "G"), (1e6, "M")) if count >= each[0]), (1e3, "k"))
    return f"{count / size:.1f} {unit}"


def ways_table(ways: Sequence[Option], images: int) -> str:
    """Return the memory of each way at a microbatch of ``images``, and the largest microbatch that fits."""
    lines = [
        f"  {'parallel':12}{'memory':12}{f'GiB at {images}':>12}{'largest microbatch':>20}{'forward passes a step':>23}"
    ]
    for way in ways:
        largest = way.largest or "none fits"
        gib = f"{way.needed_bytes / GIB:.2f}"
        lines.append(f"  {way.layout:12}{way.memory:12}{gib:>12}{largest:>20}{FORWARD_PASSES[way.memory]:>23}")
    return "\n".join(lines)


def pipeline_table(run: TrainRun, num_processes: int, ways: Sequence[Option], images: int) -> str | None:
    """Return the stages of the pipeline in the memory mode of the configuration; None if no way has a pipeline."""
    way = next((way for way in ways if way.parallel.mode == "pipeline" and way.memory == run.memory), None)
    if way is None:
        return None
    stages = process_memory(dataclasses.replace(run, parallel=way.parallel), num_processes, images)
    return f"Stages of the pipeline, memory {run.memory}, microbatches of {images}:\n{describe_stages(stages)}"


def measurement_table(run: TrainRun, images: int, device: torch.device) -> str:
    """Measure a step of one process in each memory mode; return its memory beside the predicted one."""
    lines = [
        f"Measured on {device}, one process, microbatch {images}:",
        f"  {'memory':12}{'predicted MiB':>16}{'measured MiB':>16}{'predicted / measured':>24}",
    ]
    for memory in MEMORY_MODES:
        single = in_mode(run, memory)
        memory_of_step = process_memory(single, 1, images, device.type)[0]
        predicted = memory_of_step.step_bytes - memory_of_step.waiting_bytes  # one microbatch is measured
        measured = measure_step(single, images, device)
        sizes = f"{predicted / 2**20:>16.1f}{measured / 2**20:>16.1f}"
        lines.append(f"  {memory:12}{sizes}{predicted / measured:>24.3f}")
    return "\n".join(lines)


def advice(ways: Sequence[Option], best: Option | None) -> str:
    """Return the recommendation, and the reason for it."""
    if best is None:
        least = min(ways, key=lambda way: way.needed_bytes)
        return (
            f"recommended: nothing fits; {least.layout} with memory {least.memory} comes nearest "
            f"({least.needed_bytes / GIB:.2f} GiB). Use more processes or a smaller model."
        )
    return (
        f"recommended: {best.arguments}\n"
        "Why: the table is sorted by communication, then by arithmetic, the least first. This is the first way with "
        "room for\nenough images to keep a GPU busy (or for train.microbatch_size, if it is given). "
        f"{RESERVE:.0%} of the memory stays free."
    )


def describe_training(run: TrainRun, num_parameters: int, num_processes: int, device: torch.device) -> str:
    """Return the size of a model, and the part of each process unless each has the whole model."""
    processes = "1 process" if num_processes == 1 else f"{num_processes} processes"
    text = f"{num_parameters:,} parameters; {processes} on {device}"
    if run.parallel.mode == "ddp":
        return text
    images = run.train.microbatch_size or run.train.batch_size * (run.parallel.stages or 1) // num_processes
    return f"{text}\n{describe_stages(process_memory(run, num_processes, images, device.type))}"
