"""Measure speed and memory: ``python -m pipelines.benchmark --config configs/cifar10.yaml --against normflows``."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from glow.benchmarking.batches import read, training_batches
from glow.benchmarking.contestants import Contestant
from glow.benchmarking.kinds import compare_precision, kinds_of_call, measurement, write_traces
from glow.benchmarking.limits import Limits, describe_machine
from glow.benchmarking.peers import DIFFERENCES, NormflowsGlow, comparable, compare_sizes
from glow.benchmarking.report import Measurement, describe, put_row, row, rows_of
from glow.benchmarking.timing import alternate
from glow.cli import parse_config, run_stage
from glow.config import BenchmarkRun, config_to_dict
from glow.data.read.manifest import Dataset, load_dataset
from glow.execution.precision import NETWORK_DTYPES, set_compute_dtype, use_exact_float32
from glow.models.glow import Glow
from glow.parallel.build import lay_out
from glow.parallel.launching import build_accelerator
from glow.parallel.placement import place
from glow.planning.memory import process_memory
from glow.training.metrics import describe_environment
from glow.training.tasks.images import complete
from glow.training.trainer import Trainer, TrainingBatch

TEMPERATURE = 0.7


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure, print a table, and write benchmark.json and a line for a README; return their directory."""
    config = parse_config(BenchmarkRun, argv, "benchmark")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("benchmark runs as one process")
    if config.readme:
        rows_of(config.readme)  # before anything takes long
    run, dataset = find_data(config)
    accelerator = build_accelerator(run)
    # As the launcher says, where the configuration says nothing.
    train = dataclasses.replace(run.train, mixed_precision=accelerator.mixed_precision)
    run = dataclasses.replace(run, train=train)
    use_exact_float32()
    environment = describe_environment(accelerator.device, 1) | describe_machine()
    contestants = build_contestants(run, accelerator, training_batches(run, dataset))
    results: dict[str, Any] = {"environment": environment, "config": config_to_dict(run)}
    results |= describe_arithmetic(run, contestants)
    limits = Limits(accelerator.device, NETWORK_DTYPES[accelerator.mixed_precision] or torch.float32)
    measurements = time_calls(run, contestants, limits)
    measurements += [read(run, dataset)] if dataset else []
    results |= {"limits": limits.describe(), "measurements": [dataclasses.asdict(each) for each in measurements]}
    results["memory"] = {name: each.memory() for name, each in contestants.items()}
    if accelerator.mixed_precision != "no":
        results["precision"] = compare_precision(contestants["ours"])
    print(describe(results, measurements))
    line = row(describe_model(run), describe_device(environment, accelerator), measurements, results["memory"])
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


def describe_arithmetic(run: BenchmarkRun, contestants: Mapping[str, Contestant]) -> dict[str, Any]:
    """Return parameters, and multiply-accumulates of a forward pass of one image; of both where normflows takes part.

    Raises:
        ValueError: when its model is not nearly equal.
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


def time_calls(run: BenchmarkRun, contestants: Mapping[str, Contestant], limits: Limits) -> list[Measurement]:
    """Let the contestants take turns at each kind of call, and measure the limits before, amid and after."""
    kinds, times = kinds_of_call(run), {}
    for number, kind in enumerate(kinds):
        if number in (0, len(kinds) // 2):
            limits.measure()
        # Another memory mode is the same but for training.
        taking_part = contestants if number == 0 or run.against == "normflows" else {"ours": contestants["ours"]}
        calls = {name: partial(kind.call, each) for name, each in taking_part.items()}
        with tqdm(desc=kind.name, unit="round", disable=None) as bar:
            times[kind.name] = alternate(calls, run.repeats, run.seconds, limits.device, bar.update)
    limits.measure()
    return [measurement(kind, times[kind.name], limits) for kind in kinds]


def find_data(run: BenchmarkRun) -> tuple[BenchmarkRun, Dataset | None]:
    """Return ``run`` with what the data decides, and the data set, where there is one.

    Raises:
        ValueError: where data is needed to know the model.
    """
    try:
        dataset = load_dataset(run.data.path)
    except (ValueError, OSError) as error:
        is_known = run.model.num_classes or not run.model.class_conditional
        if run.model.image_shape is None or not is_known:
            missing = "num_classes" if run.model.image_shape else "image_shape"
            raise ValueError(f"model.{missing}: give it, or the data.path of a prepared data set ({error})") from error
        print(f"random images, and no reading of data: {error}")
        return prepared(run), None
    return prepared(dataclasses.replace(run, model=complete(run, dataset).model)), dataset


def prepared(run: BenchmarkRun) -> BenchmarkRun:
    """Return ``run`` with the model that is comparable, where it is compared with normflows."""
    model = comparable(run.model) if run.against == "normflows" else run.model
    if model != run.model:
        print("against normflows: model.network_actnorm is false in both")
    return dataclasses.replace(run, model=model)


def build_contestants(
    run: BenchmarkRun, accelerator: Accelerator, batches: Sequence[TrainingBatch]
) -> dict[str, Contestant]:
    """Build the model and what takes turns with it, all initialised from the first batch."""
    inputs = [value.to(accelerator.device) for value in batches[0].inputs]
    ours = build_glow(run, accelerator)
    ours.initialize(*inputs)
    contestants = {"ours": contestant(ours, run, accelerator, batches)}
    if run.against is not None and run.against != "normflows":
        other = dataclasses.replace(run, memory=run.against, against=None, compile=False)
        model = build_glow(other, accelerator)
        model.load_state_dict(ours.state_dict())
        contestants[run.against] = contestant(model, other, accelerator, batches)
    elif run.against == "normflows":
        dtype = NETWORK_DTYPES[accelerator.mixed_precision]
        precisions = {"normflows": None} | ({"normflows, autocast": dtype} if dtype else {})
        for name, autocast in precisions.items():
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(run.train.seed)
                theirs = NormflowsGlow(run.model, autocast).to(accelerator.device)
                theirs(*inputs)  # the first batch sets its ActNorms
            contestants[name] = contestant(theirs, run, accelerator, batches)
    return contestants


def build_glow(run: BenchmarkRun, accelerator: Accelerator) -> Glow:
    """Build the model in a memory mode, with the first weights of a training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.train.seed)
        model = Glow(run.model).to(accelerator.device)
    model.set_memory(run.memory, run.anchor_every or None)
    set_compute_dtype(model, NETWORK_DTYPES[accelerator.mixed_precision])
    return model


def contestant(
    model: Glow | NormflowsGlow, run: BenchmarkRun, accelerator: Accelerator, batches: Sequence[TrainingBatch]
) -> Contestant:
    """Let a model train as the training stage does, and draw images of noise that the device makes."""
    layout = lay_out(model, run, place(run, 0, 1), accelerator)
    trainer = Trainer(layout, model.num_dims, run, accelerator)

    def draw(count: int) -> object:
        if isinstance(model, NormflowsGlow):
            return model.sample(count, TEMPERATURE).cpu()
        noise = torch.randn(count, model.num_dims, device=accelerator.device)
        labels = noise.new_zeros(count, dtype=torch.int64) if model.num_classes else None
        return model.sample(noise, TEMPERATURE, labels).cpu()

    return Contestant(trainer, batches, draw)


def describe_model(run: BenchmarkRun) -> str:
    """Return what a line of the table is about."""
    model, train = run.model, run.train
    assert model.image_shape is not None
    return (
        f"L {model.num_levels}, K {model.num_steps_per_level}, width {model.hidden_channels}, {model.coupling}; "
        f"{train.batch_size} images of {'x'.join(map(str, model.image_shape))}, {run.memory}"
        f"{', compiled' if run.compile else ''}"
    )


def describe_device(environment: Mapping[str, Any], accelerator: Accelerator) -> str:
    """Return on what it was measured."""
    is_cpu = accelerator.device.type == "cpu"
    device = f"{environment['cpu']}, {environment['num_threads']} thread(s)" if is_cpu else environment["device"]
    return device if accelerator.mixed_precision == "no" else f"{device}, {accelerator.mixed_precision}"


if __name__ == "__main__":
    run_stage(main)
