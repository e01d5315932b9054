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
from glow.planning.measuring import plot_kept
from glow.planning.model import is_known, unknown_model
from glow.planning.options import Option, options, recommend
from glow.planning.tables import GIB, advice, measurement_table, model_text, pipeline_table, ways_table
from glow.training.initial import with_initial_model
from glow.training.tasks.images import complete


def main(argv: Sequence[str] | None = None) -> Option | None:
    """Print what a training would cost; return the recommended way, or None if no way fits."""
    # Compiled steps take as much memory, but not every memory mode can be compiled.
    run = with_data(dataclasses.replace(parse_config(PlanRun, argv, "plan"), compile=False))
    num_processes = run.num_processes or 1
    images = run.train.microbatch_size or math.ceil(run.train.batch_size / num_processes)
    ways = options(run, num_processes, run.gpu_memory_gib * GIB, images)
    print(model_text(run))
    processes = "1 process" if num_processes == 1 else f"{num_processes} processes"
    print(f"\n{processes} of {run.gpu_memory_gib:g} GiB, {run.train.batch_size} images a step:")
    print(ways_table(ways, images))
    stages = pipeline_table(run, num_processes, ways, images)
    if stages:
        print(f"\n{stages}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    use_exact_float32()
    if run.measure:
        print(f"\n{measurement_table(run, images, device)}")
    if run.plot:
        plot_kept(run, images, device, run.plot)
    best = recommend(run, ways)
    print(f"\n{advice(ways, best)}")
    if run.plot:
        print(run.plot)
    return best


def with_data(run: PlanRun) -> PlanRun:
    """Return ``run`` with the shape of the images and the number of classes, from the data set if they are not given.

    Raises:
        ValueError: when the model is not known, or is a flow of vectors.
    """
    if run.is_of_vectors:
        raise ValueError("vectors.name: leave it out; plan is for a Glow of images")
    run = with_initial_model(run)
    if is_known(run.model):
        return run
    try:
        dataset = load_dataset(run.data.path)
    except (ValueError, OSError) as error:
        raise unknown_model(run.model, error) from error
    return dataclasses.replace(run, model=complete(run, dataset).model)


if __name__ == "__main__":
    run_stage(main)
