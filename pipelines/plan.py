"""Plan a training: ``python -m pipelines.plan --config configs/celebahq256.yaml --gpu_memory_gib 80``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

from glow.cli import parse_config, run_stage
from glow.config import PlanRun
from glow.data.read.manifest import load_dataset
from glow.execution.precision import use_exact_float32
from glow.planning.measuring import measure_step, plot_kept
from glow.planning.memory import (
    FORWARD_PASSES,
    MEMORY_MODES,
    RESERVE,
    Option,
    describe_stages,
    in_mode,
    options,
    process_memory,
    recommend,
)
from glow.training.tasks.images import complete

GIB = 2**30


def main(argv: Sequence[str] | None = None) -> Option | None:
    """Print what training would cost; return the way that is recommended, if one fits."""
    # What is compiled takes as much memory, and may not go with all modes that are planned for.
    run = with_data(dataclasses.replace(parse_config(PlanRun, argv, "plan"), compile=False))
    num_processes = run.num_processes or 1
    images = run.train.microbatch_size or math.ceil(run.train.batch_size / num_processes)
    ways = options(run, num_processes, run.gpu_memory_gib * GIB, images)
    best = recommend(run, ways)
    describe_model(run)
    print(f"\n{num_processes} process(es) of {run.gpu_memory_gib:g} GiB, {run.train.batch_size} images a step:")
    describe_ways(ways, images)
    describe_pipeline(run, num_processes, ways, images)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    use_exact_float32()
    if run.measure:
        describe_measurement(run, images, device)
    if run.plot:
        plot_kept(run, images, device, run.plot)
    print("\n" + advice(run, ways, best) + (f"\n{run.plot}" if run.plot else ""))
    return best


def with_data(run: PlanRun) -> PlanRun:
    """Return ``run`` with the shape of images and number of classes, from the data set where they are not given."""
    if run.is_of_vectors:
        raise ValueError("vectors.name: a flow of vectors needs no plan: leave it out")
    classes_known = run.model.num_classes or not run.model.class_conditional
    if run.model.image_shape and classes_known:
        return run
    try:
        return dataclasses.replace(run, model=complete(run, load_dataset(run.data.path)).model)
    except (ValueError, OSError) as error:
        missing = "num_classes" if run.model.image_shape else "image_shape"
        raise ValueError(f"model.{missing}: give it, or the data.path of a prepared data set ({error})") from error


def describe_model(run: PlanRun) -> None:
    """Print parameters and arithmetic."""
    model = run.model
    assert model.image_shape is not None
    whole = process_memory(in_mode(run, "stored"), 1, 1)[0]
    print(
        f"{'x'.join(map(str, model.image_shape))} images; L {model.num_levels}, K {model.num_steps_per_level}, width "
        f"{model.hidden_channels}, {model.coupling}: {whole.num_parameters / 1e6:.1f} M parameters, "
        f"{whole.num_macs / 1e9:.1f} G multiply-accumulates in a forward pass of one image"
    )


def describe_ways(ways: Sequence[Option], images: int) -> None:
    """Print the memory of each way at a microbatch of ``images``, and the largest that fits."""
    print(
        f"  {'parallel':12}{'memory':12}{f'GiB at {images}':>12}{'largest microbatch':>20}{'forward passes a step':>23}"
    )
    for way in ways:
        largest = way.largest or "none fits"
        gib = f"{way.needed_bytes / GIB:.2f}"
        print(f"  {way.layout:12}{way.memory:12}{gib:>12}{largest:>20}{FORWARD_PASSES[way.memory]:>23}")


def describe_pipeline(run: PlanRun, num_processes: int, ways: Sequence[Option], images: int) -> None:
    """Print the stages of the pipeline among the ways, in the memory mode of the configuration."""
    way = next((way for way in ways if way.parallel.mode == "pipeline" and way.memory == run.memory), None)
    if way is None:
        return
    candidate = dataclasses.replace(run, parallel=way.parallel)
    print(f"\nStages of the pipeline, memory {run.memory}, microbatches of {images}:")
    print(describe_stages(process_memory(candidate, num_processes, images)))


def describe_measurement(run: PlanRun, images: int, device: torch.device) -> None:
    """Print the measured memory of a process alone beside the predicted one."""
    print(f"\nMeasured on {device}, one process, microbatch {images}:")
    print(f"  {'memory':12}{'predicted MiB':>16}{'measured MiB':>16}{'predicted / measured':>24}")
    for memory in MEMORY_MODES:
        single = in_mode(run, memory)
        predicted = process_memory(single, 1, images, device.type)[0].total_bytes
        measured = measure_step(single, images, device)
        sizes = f"{predicted / 2**20:>16.1f}{measured / 2**20:>16.1f}"
        print(f"  {memory:12}{sizes}{predicted / measured:>24.3f}")


def advice(run: PlanRun, ways: Sequence[Option], best: Option | None) -> str:
    """Return the recommendation, and why."""
    if best is None:
        least = min(ways, key=lambda way: way.needed_bytes)
        return (
            f"recommended: nothing fits; {least.layout} with memory {least.memory} comes nearest "
            f"({least.needed_bytes / GIB:.2f} GiB): more processes or a smaller model are needed"
        )
    return (
        f"recommended: {best.arguments}\n"
        "Why: the table goes from the least communication, then the least arithmetic, to the most; this is the first "
        "that has\nroom for enough images to keep a GPU busy (train.microbatch_size, where it is given). "
        f"{RESERVE:.0%} of the memory stays free."
    )


if __name__ == "__main__":
    run_stage(main)
