"""Measure speed and memory: ``python -m pipelines.benchmark --config configs/cifar10.yaml --against normflows``."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from glow.benchmarking.batches import read, training_batches
from glow.benchmarking.contestants import build_contestants, describe_sizes
from glow.benchmarking.kinds import compare_precision, time_calls, write_traces
from glow.benchmarking.limits import Limits, describe_machine
from glow.benchmarking.peers import comparable
from glow.benchmarking.report import describe, describe_device, describe_model, put_row, row, rows_of
from glow.cli import parse_config, run_stage
from glow.config import BenchmarkRun, config_to_dict
from glow.data.read.manifest import Dataset, load_dataset
from glow.execution.precision import NETWORK_DTYPES, use_exact_float32
from glow.parallel.launching import build_accelerator
from glow.planning.model import is_known, unknown_model
from glow.training.initial import with_initial_model
from glow.training.metrics import describe_environment
from glow.training.tasks.images import complete


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure, print a table, and write benchmark.json and a line for a document; return their directory."""
    config = parse_config(BenchmarkRun, argv, "benchmark")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("benchmark runs as one process")
    if config.readme:
        rows_of(config.readme)  # before anything takes long
    run, dataset = find_data(config)
    accelerator = build_accelerator(run)
    precision, is_cpu = accelerator.mixed_precision, accelerator.device.type == "cpu"
    # The launcher decides the precision if the configuration does not.
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, mixed_precision=precision))
    use_exact_float32()
    environment = describe_environment(accelerator.device, 1) | describe_machine()
    contestants = build_contestants(run, accelerator, training_batches(run, dataset))
    results: dict[str, Any] = {"environment": environment, "config": config_to_dict(run)}
    results |= describe_sizes(run, contestants)
    limits = Limits(accelerator.device, NETWORK_DTYPES[precision] or torch.float32)
    measurements = time_calls(run, contestants, limits)
    measurements += [read(run, dataset)] if dataset else []
    results |= {"limits": limits.describe(), "measurements": [dataclasses.asdict(each) for each in measurements]}
    results["memory"] = {name: each.memory() for name, each in contestants.items()}
    if precision != "no":
        results["precision"] = compare_precision(contestants["ours"])
    print(describe(results, measurements))
    line = row(describe_model(run), describe_device(environment, is_cpu, precision), measurements, results["memory"])
    output = Path(run.output) / "benchmark"
    output.mkdir(parents=True, exist_ok=True)
    (output / "benchmark.json").write_text(json.dumps(results, indent=1) + "\n")
    (output / "row.md").write_text(line + "\n")
    if run.readme:
        put_row(run.readme, line)
    if run.profile:
        write_traces(contestants["ours"], output)
    print(f"\n{line}\n{output}")
    return output


def find_data(run: BenchmarkRun) -> tuple[BenchmarkRun, Dataset | None]:
    """Return ``run`` with the model that is measured, and the data set if there is one.

    Raises:
        ValueError: when the model is not known without a data set.
    """
    run, dataset = with_initial_model(run), None
    try:
        dataset = load_dataset(run.data.path)
    except (ValueError, OSError) as error:
        if not is_known(run.model):
            raise unknown_model(run.model, error) from error
        print(f"no data set: images are random, and reading is not measured ({error})")
    model = complete(run, dataset).model if dataset else run.model
    if run.against == "normflows" and model != comparable(model):
        model = comparable(model)
        print("against normflows: model.network_actnorm is set to false in both models")
    return dataclasses.replace(run, model=model), dataset


if __name__ == "__main__":
    run_stage(main)
