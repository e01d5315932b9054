"""A race: contestants train for the same CPU time; what counts is their bits/dim on held-out images."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glow.benchmarking.peers import NormflowsGlow, comparable, count_macs
from glow.config import TrainRun
from glow.data.read.batch import Share
from glow.data.read.loader import eval_batches
from glow.data.read.reader import SplitReader
from glow.execution.precision import use_exact_float32
from glow.models.images import bits_per_dim
from glow.parallel.build import lay_out
from glow.parallel.launching import build_accelerator
from glow.parallel.placement import place
from glow.training.starting import build_model, initialize
from glow.training.tasks.find import find_task
from glow.training.trainer import Trainer
from glow.training.validation import eval_mode

BATCH_SIZE = 50  # of a measurement
NUM_CHECKED = 200  # images of a measurement on the way
STEPS_BETWEEN_LOOKS = 20  # at the clock


@dataclass(frozen=True)
class Budget:
    """How long a contestant trains, and how it is measured.

    Attributes:
        cpu_seconds: CPU time of the process: imports, initialisation, training, and all measurements.
        num_checks: Measurements on the way, at equal parts of the budget.
        split: Split that is measured.
        num_images: Images of the last measurement.
    """

    cpu_seconds: float
    num_checks: int
    split: str
    num_images: int


@dataclass(frozen=True)
class Finish:
    """What a contestant reached.

    Attributes:
        num_parameters: Of its model.
        num_macs: Multiply-accumulates of the log-probability of one image.
        num_steps: Steps that it made.
        cpu_seconds: CPU time that it took, with the last measurement.
        curve: CPU seconds, step and mean bits/dim of the first ``NUM_CHECKED`` images, at each measurement.
        bits_per_dim: Of each image at the end.
    """

    num_parameters: int
    num_macs: int
    num_steps: int
    cpu_seconds: float
    curve: list[tuple[float, int, float]]
    bits_per_dim: list[float]


def race(
    run: TrainRun,
    is_peer: bool,
    budget: Budget,
    report: Callable[[str], None],
    clock: Callable[[], float] = time.process_time,
) -> Finish:
    """Train a contestant in this process until its budget is used up.

    The learning rate falls by what is left of the budget: the number of steps is found anew all the time, from the CPU
    time of those that were made.

    Args:
        run: The configuration. ``train.num_steps`` counts for nothing.
        is_peer: Whether the model is that of normflows, with the configuration's optimiser, schedule and averages.
        budget: Its budget.
        report: Is told each measurement.
        clock: CPU seconds since the start of the process.

    Raises:
        ValueError: when the configuration cannot be raced, or the budget ends before the second measurement.
    """
    accelerator = build_accelerator(run)
    use_exact_float32()
    task = find_task(run)
    if is_peer:
        task.run = dataclasses.replace(task.run, model=comparable(task.run.model))
    run, batches = task.run, task.train_batches(0, Share())
    if is_peer:
        first = [next(batches)]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(run.train.seed)
            model: Any = NormflowsGlow(run.model)
            model(*first[0].inputs)  # the first batch sets its ActNorms
    else:
        model = build_model(task, accelerator)
        first = initialize(model, partial(next, batches), run.train)
    batches = itertools.chain(first, batches)
    trainer = Trainer(lay_out(model, run, place(run, 0, 1), accelerator), model.num_dims, run, accelerator)
    reader = SplitReader(run.data.path, budget.split, run.data.root, run.data.size)

    def check() -> tuple[float, int, float]:
        scores = _measure(trainer, reader, min(NUM_CHECKED, len(reader)), run)
        return clock(), trainer.step, float(scores.mean())

    start = clock()
    curve = [check()]
    per_image = (clock() - start) / min(NUM_CHECKED, len(reader))
    num_last = min(budget.num_images, len(reader))
    ahead = per_image * num_last  # CPU time of the measurement at the end
    begin = clock()
    checking = 0.0
    while (used := clock()) < budget.cpu_seconds - ahead:
        if (trainer.step and trainer.step % STEPS_BETWEEN_LOOKS == 0) or trainer.step == 3:
            step_seconds = (used - begin - checking) / trainer.step
            num_left = budget.num_checks - len(curve)
            left = (budget.cpu_seconds - ahead - used - num_left * per_image * NUM_CHECKED) / step_seconds
            _set_num_steps(trainer, trainer.step + max(1, round(left)))
        trainer.train_step(next(batches))
        if used > len(curve) * budget.cpu_seconds / budget.num_checks:
            before = clock()
            curve.append(check())
            checking += clock() - before
            report(f"{curve[-1][0]:.0f} s, step {curve[-1][1]}: {curve[-1][2]:.4f} bits/dim")
    if trainer.step < 4:
        raise ValueError(f"cpu_seconds: {budget.cpu_seconds:g} is not allowed; {used:.0f} s have gone before step 4")
    scores = _measure(trainer, reader, num_last, run)
    curve.append((clock(), trainer.step, float(scores[:NUM_CHECKED].mean())))
    assert run.model.image_shape is not None
    return Finish(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_macs=count_macs(model, run.model.image_shape),
        num_steps=trainer.step,
        cpu_seconds=curve[-1][0],
        curve=curve,
        bits_per_dim=scores.tolist(),
    )


def _set_num_steps(trainer: Trainer, num_steps: int) -> None:
    trainer.run = dataclasses.replace(trainer.run, train=dataclasses.replace(trainer.run.train, num_steps=num_steps))


@torch.no_grad()
def _measure(trainer: Trainer, reader: SplitReader, num_images: int, run: TrainRun) -> np.ndarray:
    """Return the bits/dim of the first images of a split by the averaged weights: the ELBO, by one draw of noise."""
    scores: list[Tensor] = []
    with trainer.ema.applied(trainer.model), eval_mode(trainer.model):
        for batch in eval_batches(reader, BATCH_SIZE, run.train.seed, num_images=num_images):
            log_prob = trainer.layout.log_prob(list(batch.inputs))
            assert log_prob is not None
            scores.append(bits_per_dim(log_prob.double(), trainer.num_dims))
    return torch.cat(scores).numpy()


def seconds_to(curve: Sequence[tuple[float, int, float]], level: float) -> float | None:
    """Return the CPU time at which a curve first reaches a level, between two measurements; None if it never does."""
    for (before, _, high), (after, _, low) in itertools.pairwise(curve):
        if low <= level:
            return before if high <= level else before + (after - before) * (high - level) / (high - low)
    return None
