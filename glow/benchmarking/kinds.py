"""The kinds of call that are timed, what each has to do, and how fast it is."""

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
from glow.benchmarking.timing import Spread, rate, ratio
from glow.config import BenchmarkRun
from glow.execution.precision import NETWORK_DTYPES, set_compute_dtype
from glow.planning.memory import FORWARD_PASSES, process_memory

SAMPLED = (64, 1)
PROFILED_CALLS = 3


@dataclass(frozen=True)
class Kind:
    """A kind of call that is timed."""

    name: str
    """What it is called."""
    num_images: int
    """Images that a call is about."""
    call: Callable[[Contestant], object]
    """Makes a call."""
    work: Work
    """What a call has to do at least."""


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
    kinds = [
        Kind("training", size, Contestant.train, training),
        Kind("log_prob", size, Contestant.log_prob, Work(size * forward, memory.weight_bytes)),
    ]
    for count in SAMPLED:
        work = Work(count * forward, memory.weight_bytes)
        kinds.append(Kind(f"sampling {count}", count, partial(Contestant.sample, count=count), work))
    return kinds


def measurement(kind: Kind, times: Mapping[str, Sequence[float]], limits: Limits) -> Measurement:
    """Return what the seconds of the calls of each contestant, which took turns, come to."""
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
    """Return bits/dim of the first batch in the precision of training, and of the same weights in float32."""
    trained_in = ours.trainer.accelerator.mixed_precision
    values = {}
    for name in ("no", trained_in):
        set_compute_dtype(ours.model, NETWORK_DTYPES[name])
        log_prob = ours.log_prob()
        assert log_prob is not None
        values["float32" if name == "no" else name] = -ours.trainer.bits_per_nat * float(log_prob.double().mean())
    return values


def write_traces(ours: Contestant, output: Path) -> None:
    """Write what some calls of training and sampling consist of, as TensorBoard and Perfetto show it."""
    calls = {"training": ours.train} | {f"sampling-{count}": partial(ours.sample, count) for count in SAMPLED}
    for name, call in calls.items():
        call()  # what is different the first time is not what a trace is to show
        with profile() as profiler:
            for _ in range(PROFILED_CALLS):
                call()
        profiler.export_chrome_trace(str(output / f"{name}.pt.trace.json.gz"))
