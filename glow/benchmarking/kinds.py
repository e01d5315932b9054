"""The kinds of call that are timed: their work, and their speed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch.profiler import profile

from glow.benchmarking.contestants import Contestant
from glow.benchmarking.limits import Limits, Work
from glow.benchmarking.report import Measurement
from glow.benchmarking.timing import Spread, alternate, rate, ratio
from glow.config import BenchmarkRun
from glow.console import Progress
from glow.execution.precision import NETWORK_DTYPES, set_compute_dtype
from glow.planning.memory import FORWARD_PASSES, process_memory

SAMPLED = (64, 1)
PROFILED_CALLS = 3


@dataclass(frozen=True)
class Kind:
    """A kind of call that is timed."""

    name: str
    """Name in the table."""
    num_images: int
    """Images of a call."""
    call: Callable[[Contestant], object]
    """Makes a call."""
    work: Work
    """The least work of a call."""


def kinds_of_call(run: BenchmarkRun) -> list[Kind]:
    """Return the calls that are timed, with the arithmetic of the configuration and the memory that must be moved."""
    size = run.train.batch_size
    microbatch = min(size, run.train.microbatch_size or size)
    memory = process_memory(run, 1, microbatch)[0]
    forward = 2.0 * memory.num_macs
    # Memory that is kept from one pass to another, or from step to step, is written once and read once.
    held_bytes = (
        memory.step_bytes
        - memory.waiting_bytes
        - memory.working_bytes
        + memory.kept_bytes * (math.ceil(size / microbatch) - 1)
    )
    training = Work(FORWARD_PASSES[run.memory] * size * forward, 2 * held_bytes)
    kinds = [
        Kind("training", size, Contestant.train, training),
        Kind("log_prob", size, Contestant.log_prob, Work(size * forward, memory.weight_bytes)),
    ]
    for count in SAMPLED:
        work = Work(count * forward, memory.weight_bytes)
        kinds.append(Kind(f"sampling {count}", count, partial(Contestant.sample, count=count), work))
    return kinds


def time_calls(run: BenchmarkRun, contestants: Mapping[str, Contestant], limits: Limits) -> list[Measurement]:
    """Time each kind of call, the contestants in turn; measure the limits before, in the middle and after."""
    kinds, times = kinds_of_call(run), {}
    for number, kind in enumerate(kinds):
        if number in (0, len(kinds) // 2):
            limits.measure()
        # Another memory mode differs in training alone.
        taking_part = contestants if number == 0 or run.against == "normflows" else {"ours": contestants["ours"]}
        calls = {name: partial(kind.call, each) for name, each in taking_part.items()}
        with Progress(None, "round", kind.name) as progress:
            times[kind.name] = alternate(calls, run.repeats, run.seconds, limits.device, progress.update)
    limits.measure()
    return [measurement(kind, times[kind.name], limits) for kind in kinds]


def measurement(kind: Kind, times: Mapping[str, Sequence[float]], limits: Limits) -> Measurement:
    """Return the speed of a kind of call, given the seconds of each contestant's calls, which took turns."""
    ours, rivals = times["ours"], {name: each for name, each in times.items() if name != "ours"}
    call_s = Spread.of(ours)
    return Measurement(
        kind.name,
        kind.num_images,
        rate(ours, kind.num_images),
        call_s,
        kind.work.flops,
        limits.least_seconds(kind.work) / call_s.median,
        {name: rate(each, kind.num_images) for name, each in rivals.items()},
        {name: ratio(each, ours) for name, each in rivals.items()},
    )


def compare_precision(ours: Contestant) -> dict[str, float]:
    """Return bits/dim of the first batch, in the precision of the training and in float32, with the same weights."""
    trained_in = ours.trainer.accelerator.mixed_precision
    values = {}
    for name in ("no", trained_in):
        set_compute_dtype(ours.model, NETWORK_DTYPES[name])
        log_prob = ours.log_prob()
        assert log_prob is not None
        values["float32" if name == "no" else name] = -ours.trainer.bits_per_nat * float(log_prob.double().mean())
    return values


def write_traces(ours: Contestant, output: Path) -> None:
    """Write traces of some training and sampling calls, which TensorBoard and Perfetto show."""
    calls = {"training": ours.train} | {f"sampling-{count}": partial(ours.sample, count) for count in SAMPLED}
    for name, call in calls.items():
        call()  # the first call does more than the others
        with profile(acc_events=True) as profiler:  # see glow.planning.measuring
            for _ in range(PROFILED_CALLS):
                call()
        profiler.export_chrome_trace(str(output / f"{name}.pt.trace.json.gz"))
