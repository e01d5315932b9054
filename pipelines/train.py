"""Train: ``python -m pipelines.train --config configs/digits.yaml``, or the same under ``accelerate launch -m``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from accelerate import Accelerator

from glow.cli import parse_config, run_stage
from glow.config import TrainRun, config_to_dict, flatten
from glow.data.read.batch import Share
from glow.data.read.workers import dead_workers_in_one_line
from glow.execution.compiling import failed_compilation_in_one_line
from glow.execution.precision import use_exact_float32
from glow.locking import locked
from glow.parallel.agreement import check_agreement, decided_by_main
from glow.parallel.build import lay_out
from glow.parallel.launching import build_accelerator
from glow.parallel.placement import check_validation, place
from glow.parallel.requested import as_requested
from glow.planning.tables import describe_training
from glow.training.checkpoints.manager import check_output
from glow.training.metrics import write_record
from glow.training.resuming import find_resumption
from glow.training.starting import start, start_facts
from glow.training.stop import INTERRUPT, StopRequest, forget_stop
from glow.training.tasks.find import find_task
from glow.training.tasks.task import Task
from glow.training.trainer import Trainer


def main(argv: Sequence[str] | None = None) -> None:
    """Train, or go on training, up to ``train.num_steps``."""
    task = find_task(parse_config(TrainRun, argv, "train"))
    # Its clock starts here, before anything that takes long.
    with StopRequest(task.run.output, task.run.time_limit) as stop:
        train(task, stop)


def train(task: Task, stop: StopRequest) -> None:
    """Check that all processes train the same, and let one training at a time write to the run directory."""
    task.run, translations = as_requested(task.run)
    accelerator = build_accelerator(task.run)
    for translation in translations:
        say(translation, accelerator)
    # The launcher decides the precision where the configuration does not: recorded with the run.
    train = dataclasses.replace(task.run.train, mixed_precision=accelerator.mixed_precision)
    task.run = run = dataclasses.replace(task.run, train=train)
    # Before the first collective of the model: processes with other models would wait for each other.
    splits = {f"{name} split": split.sha256 for name, split in task.splits.items()}
    check_agreement(flatten(config_to_dict(run)) | splits)
    if "validation" in task.splits:
        check_validation(run, task.splits["validation"].num_images, accelerator.num_processes)
    if accelerator.is_main_process:
        check_output(run.output)
    lock = locked(Path(run.output) / ".lock", run.output, stop.reason) if accelerator.is_main_process else nullcontext()
    with lock, dead_workers_in_one_line(), failed_compilation_in_one_line():
        train_locked(task, stop, accelerator)


def train_locked(task: Task, stop: StopRequest, accelerator: Accelerator) -> None:
    """Build everything, resume from the last checkpoint if there is one, and train."""
    use_exact_float32()
    run, data = task.run, task.splits["train"]
    found = decided_by_main(lambda: find_resumption(run, data.sha256, task.classes), accelerator)
    if found:
        if found.state.step >= run.train.num_steps:
            done = f"{run.output} is finished ({found.state.step} steps); to train longer, raise train.num_steps"
            say(f"{done}\n{found.checkpoint}", accelerator)
            return
        for change in found.changes:
            say(f"changed since the checkpoint: {change}", accelerator)
    placement = place(run, accelerator.process_index, accelerator.num_processes)
    share = Share(placement.replica, placement.num_replicas)
    model, batches = start(task, share, accelerator, found, stop)
    if accelerator.is_main_process:
        forget_stop(run.output)
        write_record(run, accelerator.device, accelerator.num_processes)
        print(describe_training(run, model, accelerator.num_processes, accelerator.device), flush=True)
    layout = lay_out(model, run, placement, accelerator)
    facts = start_facts(task, found, accelerator)
    trainer = Trainer(layout, model.num_dims, run, accelerator, data, task.scale, facts)
    if found:
        trainer.restore(found)
        say(f"resuming {run.output} after step {trainer.step} of {run.train.num_steps}", accelerator)
    validation = task.validation(share)
    if validation is None:
        say(f"{run.source} has no validation split: training runs without validation", accelerator)
    reason = trainer.fit(batches, validation, task.preview, stop)
    if trainer.step < run.train.num_steps:
        say(f"stopped after step {trainer.step}; give the same command to resume", accelerator)
    if accelerator.is_main_process:
        print(trainer.checkpoints.latest(), flush=True)
    accelerator.end_training()
    if reason == INTERRUPT:
        raise KeyboardInterrupt  # for exit status 130


def say(text: object, accelerator: Accelerator) -> None:
    """Print on the main process (accelerator.print would on one of each node)."""
    if accelerator.is_main_process:
        print(text, flush=True)


if __name__ == "__main__":
    run_stage(main)
