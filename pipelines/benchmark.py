"""Measure speed and memory: ``python -m pipelines.benchmark --config configs/cifar10.yaml --against normflows``."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.profiler import profile
from tqdm import tqdm

from glow.benchmarking.contestants import Contestant, RandomBatch
from glow.benchmarking.limits import Limits, Work, describe_machine
from glow.benchmarking.peers import DIFFERENCES, NormflowsGlow, comparable, compare_sizes
from glow.benchmarking.report import Measurement, describe, put_row, row, rows_of
from glow.benchmarking.timing import Spread, alternate, rate, ratio
from glow.cli import parse_config, run_stage
from glow.config import BenchmarkRun, config_to_dict
from glow.data.loader import Share
from glow.data.manifest import Dataset, load_dataset
from glow.model import Glow
from glow.parallel.build import lay_out
from glow.parallel.placement import place
from glow.planning import FORWARD_PASSES, MEMORY_MODES, process_memory
from glow.precision import NETWORK_DTYPES, set_compute_dtype, use_exact_float32
from glow.sampling import Draw, sample_images
from glow.training.metrics import describe_environment
from glow.training.tasks import ImageTask
from glow.training.trainer import Trainer, TrainingBatch
from pipelines.train import build_accelerator, build_model, complete

SAMPLED = (64, 1)
TEMPERATURE = 0.7
NUM_BATCHES = 2
PROFILED_CALLS = 3

Seconds = Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of call that is timed."""

    name: str
    num_images: int
    call: Callable[[Contestant], object]
    work: Work


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure, print a table, and write benchmark.json and a line for a README; return their directory."""
    config = parse_config(BenchmarkRun, argv, "benchmark")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("benchmark runs as one process")
    run, dataset = find_data(config)
    if run.readme:
        rows_of(run.readme)  # before anything takes long
    accelerator = build_accelerator(run)
    use_exact_float32()
    limits = Limits(accelerator.device, NETWORK_DTYPES[accelerator.mixed_precision] or torch.float32)
    environment = describe_environment(accelerator.device, 1) | describe_machine()
    limits.measure()
    contestants = build_contestants(run, accelerator, training_batches(run, dataset))
    ours = contestants["ours"]
    sizes = {}
    if run.against == "normflows":
        assert run.model.image_shape is not None
        sizes = compare_sizes(ours.model, contestants["normflows"].model, run.model.image_shape)
    times = {}
    kinds = kinds_of_call(run)
    for number, kind in enumerate(kinds):
        if number == len(kinds) // 2:
            limits.measure()
        # Another memory mode computes and draws as this one does.
        is_same = run.against in MEMORY_MODES and number > 0
        times[kind.name] = time_kind(kind, {"ours": ours} if is_same else contestants, run, accelerator.device)
    memory = {name: each.memory() for name, each in contestants.items()}
    limits.measure()
    measurements = [measurement(kind, times[kind.name], limits) for kind in kinds]
    measurements += [read(run, dataset, accelerator.device)] if dataset else []

    results: dict[str, Any] = {
        "environment": environment,
        "config": config_to_dict(run),
        "num_parameters": sum(parameter.numel() for parameter in ours.model.parameters()),
        "num_macs": process_memory(run, 1, 1)[0].num_macs,
        "limits": limits.describe(),
        "measurements": [dataclasses.asdict(each) for each in measurements],
        "memory": memory,
    }
    if accelerator.mixed_precision != "no":
        results["precision"] = compare_precision(ours)
    if sizes:
        results["against"] = {"sizes": sizes, "differences": DIFFERENCES}
    print(describe(results, measurements))
    output = Path(run.output) / "benchmark"
    output.mkdir(parents=True, exist_ok=True)
    line = row(describe_model(run), describe_device(environment, accelerator), measurements, memory)
    (output / "benchmark.json").write_text(json.dumps(results, indent=1) + "\n")
    (output / "row.md").write_text(line + "\n")
    if run.readme:
        put_row(run.readme, line)
    if run.profile:
        write_traces(ours, output)
    print(f"\n{line}\n{output}")
    return output


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


def training_batches(run: BenchmarkRun, dataset: Dataset | None) -> list[TrainingBatch]:
    """Return a few batches, read before anything is timed."""
    if dataset is None:
        shape, classes = run.model.image_shape, run.model.num_classes or 0
        assert shape is not None
        return [RandomBatch.draw(run.train.batch_size, shape, classes, seed) for seed in range(NUM_BATCHES)]
    # Workers would go on reading.
    quiet = dataclasses.replace(run, data=dataclasses.replace(run.data, num_workers=0))
    return list(itertools.islice(ImageTask(quiet, dataset).train_batches(0, Share()), NUM_BATCHES))


def build_contestants(
    run: BenchmarkRun, accelerator: Accelerator, batches: Sequence[TrainingBatch]
) -> dict[str, Contestant]:
    """Build the model and what takes turns with it, all initialised from the first batch."""
    inputs = [value.to(accelerator.device) for value in batches[0].inputs]
    ours = build_model(run, accelerator)
    assert isinstance(ours, Glow)
    ours.initialize(*inputs)
    contestants = {"ours": contestant(ours, run, accelerator, batches)}
    if run.against is not None and run.against != "normflows":
        other = dataclasses.replace(run, memory=run.against, against=None)
        model = build_model(other, accelerator)
        assert isinstance(model, Glow)
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


def contestant(
    model: Glow | NormflowsGlow, run: BenchmarkRun, accelerator: Accelerator, batches: Sequence[TrainingBatch]
) -> Contestant:
    """Let a model train as the training stage does, and draw images as the sampling stage does."""
    layout = lay_out(model, run, place(run, 0, 1), accelerator)
    trainer = Trainer(layout, model.num_dims, run, accelerator)

    def draw(count: int) -> object:
        if isinstance(model, NormflowsGlow):
            return model.sample(count, TEMPERATURE).cpu()
        return list(sample_images(model, range(count), TEMPERATURE, Draw(run.train.seed), count))

    return Contestant(trainer, batches, draw)


def kinds_of_call(run: BenchmarkRun) -> list[Kind]:
    """Return what is timed, and what it takes: arithmetic as the configuration says, and memory that it must go
    through.
    """
    size = run.train.batch_size
    microbatch = min(size, run.train.microbatch_size or size)
    memory = process_memory(run, 1, microbatch)[0]
    forward = 2.0 * memory.num_macs
    # All that is kept from one pass to another, or from step to step, is written once and read once.
    held_bytes = memory.total_bytes - memory.working_bytes + memory.kept_bytes * (math.ceil(size / microbatch) - 1)
    training = Work(FORWARD_PASSES[run.memory] * size * forward, 2 * held_bytes)
    return [
        Kind("training", size, Contestant.train, training),
        Kind("log_prob", size, Contestant.log_prob, Work(size * forward, memory.weight_bytes)),
        *(
            Kind(
                f"sampling {count}",
                count,
                partial(Contestant.sample, count=count),
                Work(count * forward, memory.weight_bytes),
            )
            for count in SAMPLED
        ),
    ]


def time_kind(
    kind: Kind, contestants: Mapping[str, Contestant], run: BenchmarkRun, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds of each call of each contestant, which take turns."""
    calls = {name: partial(kind.call, each) for name, each in contestants.items()}
    with tqdm(desc=kind.name, unit="round", disable=None) as bar:
        return alternate(calls, run.repeats, run.seconds, device, bar.update)


def measurement(kind: Kind, times: Seconds, limits: Limits) -> Measurement:
    """Return what the times of a kind of call come to."""
    ours = times["ours"]
    call_s = Spread.of(ours)
    return Measurement(
        kind.name,
        kind.num_images,
        rate(ours, kind.num_images),
        call_s,
        kind.work.flops,
        limits.least_seconds(kind.work) / call_s.median,
        {name: rate(each, kind.num_images) for name, each in times.items() if name != "ours"},
        {name: ratio(each, ours) for name, each in times.items() if name != "ours"},
    )


def read(run: BenchmarkRun, dataset: Dataset, device: torch.device) -> Measurement:
    """Measure how fast batches are read; a call reads as many as there are workers, which work ahead."""
    batches = ImageTask(run, dataset).train_batches(0, Share())
    num_batches = max(1, run.data.num_workers)

    def call() -> None:
        for _ in range(num_batches):
            next(batches)

    with tqdm(desc="reading", unit="round", disable=None) as bar:
        times = alternate({"ours": call}, run.repeats, run.seconds, device, bar.update)["ours"]
    num_images = num_batches * run.train.batch_size
    return Measurement("reading", num_images, rate(times, num_images), Spread.of(times))


def compare_precision(ours: Contestant) -> dict[str, float]:
    """Return bits/dim of the first batch as trained, and with all of the same weights in float32."""
    scale = -ours.trainer.bits_per_nat
    dtype = NETWORK_DTYPES[ours.trainer.accelerator.mixed_precision]
    values = {}
    for name, each in (("float32", None), (ours.trainer.accelerator.mixed_precision, dtype)):
        set_compute_dtype(ours.model, each)
        log_prob = ours.log_prob()
        assert log_prob is not None
        values[name] = scale * float(log_prob.double().mean())
    return values


def write_traces(ours: Contestant, output: Path) -> None:
    """Write what some calls of training and sampling consist of: TensorBoard and Perfetto show it."""
    calls = {"training": ours.train} | {f"sampling-{count}": partial(ours.sample, count) for count in SAMPLED}
    for name, call in calls.items():
        call()
        with profile() as profiler:
            for _ in range(PROFILED_CALLS):
                call()
        profiler.export_chrome_trace(str(output / f"{name}.pt.trace.json.gz"))


def describe_model(run: BenchmarkRun) -> str:
    """Return what a line of the table is about."""
    model, train = run.model, run.train
    assert model.image_shape is not None
    return (
        f"L {model.num_levels}, K {model.num_steps_per_level}, width {model.hidden_channels}, {model.coupling}; "
        f"{train.batch_size} images of {'x'.join(map(str, model.image_shape))}, {run.memory}"
    )


def describe_device(environment: Mapping[str, Any], accelerator: Accelerator) -> str:
    """Return on what it was measured."""
    is_cpu = accelerator.device.type == "cpu"
    device = f"{environment['num_threads']} threads, {environment['cpu']}" if is_cpu else environment["device"]
    return device if accelerator.mixed_precision == "no" else f"{device}, {accelerator.mixed_precision}"


if __name__ == "__main__":
    run_stage(main)
