"""Train: ``python -m pipelines.train --config configs/digits.yaml``, or the same under ``accelerate launch -m``."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from glow.cli import parse_config, run_stage
from glow.config import TrainRun, config_to_dict, flatten
from glow.data.read.batch import Share
from glow.data.read.manifest import Split
from glow.execution.precision import NETWORK_DTYPES, set_compute_dtype, use_exact_float32
from glow.locking import locked
from glow.parallel.agreement import check_agreement
from glow.parallel.build import lay_out
from glow.parallel.launching import build_accelerator
from glow.parallel.placement import Placement, place
from glow.planning.memory import describe_stages, process_memory
from glow.training.checkpoints.manager import CheckpointManager
from glow.training.checkpoints.models import load_weights
from glow.training.checkpoints.reading import read_state, read_tensors
from glow.training.metrics import write_environment
from glow.training.resuming import changed_options, check_same_run
from glow.training.stop import StopRequest, forget_stop
from glow.training.tasks.find import find_task
from glow.training.tasks.task import Model, Task
from glow.training.trainer import Trainer


def main(argv: Sequence[str] | None = None) -> None:
    """Train, or go on training, up to ``train.num_steps``."""
    task = find_task(parse_config(TrainRun, argv, "train"))
    # Before anything that takes long.
    with StopRequest(task.run.output, task.run.time_limit) as stop:
        train(task, stop)


def train(task: Task, stop: StopRequest) -> None:
    """Let one training at a time write to the run directory."""
    accelerator = build_accelerator(task.run)
    # As the launcher says, where the configuration says nothing: for the record.
    train = dataclasses.replace(task.run.train, mixed_precision=accelerator.mixed_precision)
    task.run = run = dataclasses.replace(task.run, train=train)
    # Before the first collective of the model: processes with other models would wait for each other.
    splits = {f"{name} split": split.sha256 for name, split in task.splits.items()}
    check_agreement(flatten(config_to_dict(run)) | splits)
    if "validation" in task.splits:
        check_validation(run, task.splits["validation"], accelerator)
    with locked(Path(run.output) / ".lock", run.output) if accelerator.is_main_process else nullcontext():
        train_locked(task, stop, accelerator)


def train_locked(task: Task, stop: StopRequest, accelerator: Accelerator) -> None:
    """Build everything, resume where there is a checkpoint, and train."""
    use_exact_float32()
    run, splits = task.run, task.splits
    checkpoints = CheckpointManager(run.output, run.train.keep_last)
    # The main process decides for all: file systems of clusters do not show all nodes the same at once.
    latest = broadcast_object_list([checkpoints.latest_intact() if accelerator.is_main_process else None])[0]
    if latest and not goes_on(latest, run, splits["train"].sha256, accelerator):
        return
    images_seen = read_state(latest)["images_seen"] if latest else 0
    placement = place(run, accelerator.process_index, accelerator.num_processes)
    share = Share(placement.replica, placement.num_replicas)
    batches = task.train_batches(images_seen, share)

    model = build_model(task, accelerator)
    if accelerator.is_main_process:
        describe(run, accelerator)
        describe_layout(run, model, accelerator, placement)
    if latest:
        load_weights(model, read_tensors(latest, "model"), latest)
    else:
        first = next(batches)
        model.initialize(*(value.to(accelerator.device) for value in first.inputs))
        batches = itertools.chain([first], batches)
    layout = lay_out(model, run, placement, accelerator)
    trainer = Trainer(layout, model.num_dims, run, accelerator, splits["train"], task.scale)
    if latest:
        trainer.restore(latest)
        say(accelerator, f"resuming {run.output} after step {trainer.step} of {run.train.num_steps}")

    validation = task.validation(share)
    if validation is None:
        say(accelerator, f"{run.source} has no validation split: nothing is measured on held-out images")
    trainer.fit(batches, validation, task.preview, stop)
    if trainer.step < run.train.num_steps:
        say(accelerator, f"stopped after step {trainer.step}; the same command goes on")
    say(accelerator, checkpoints.latest())
    accelerator.end_training()


def build_model(task: Task, accelerator: Accelerator) -> Model:
    """Build the whole model, with its first weights, on the device of this process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.run.train.seed)
        model = task.build_model().to(accelerator.device)
    set_compute_dtype(model, NETWORK_DTYPES[accelerator.mixed_precision])
    return model


def check_validation(run: TrainRun, split: Split, accelerator: Accelerator) -> None:
    """Raise a ValueError when a process would have nothing to validate where all have to take part."""
    count = min(split.num_images, run.train.num_validation_images or split.num_images)
    if run.parallel.mode in ("fsdp", "hsdp") and count < accelerator.num_processes:
        raise ValueError(
            f"train.num_validation_images: {count} images to validate on, but with parallel.mode {run.parallel.mode} "
            f"each of {accelerator.num_processes} processes needs one"
        )


def say(accelerator: Accelerator, text: object) -> None:
    """Print on the main process (accelerator.print would on one of each node)."""
    if accelerator.is_main_process:
        print(text)


def describe(run: TrainRun, accelerator: Accelerator) -> None:
    """Write config.yaml and environment.json, and forget that an earlier training stopped."""
    output = Path(run.output)
    output.mkdir(parents=True, exist_ok=True)
    forget_stop(output)
    (output / "config.yaml").write_text(yaml.safe_dump(config_to_dict(run), sort_keys=False))
    write_environment(output, accelerator.device, accelerator.num_processes)


def describe_layout(run: TrainRun, model: nn.Module, accelerator: Accelerator, placement: Placement) -> None:
    """Print the size of the model, and what each process has of it where that is not all."""
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{num_parameters:,} parameters; {accelerator.num_processes} process(es) on {accelerator.device}")
    if run.parallel.mode != "ddp":
        images = run.train.microbatch_size or run.train.batch_size // placement.num_replicas
        print(describe_stages(process_memory(run, accelerator.num_processes, images, accelerator.device.type)))


def goes_on(latest: Path, run: TrainRun, data_sha256: str, accelerator: Accelerator) -> bool:
    """Say what is different since the checkpoint; return whether anything is left to do.

    Raises:
        ValueError: when the run cannot go on like this.
    """
    check_same_run(latest, run, data_sha256)
    step = read_state(latest)["step"]
    if step >= run.train.num_steps:
        say(accelerator, f"{run.output} has made {step} steps already: nothing to do\n{latest}")
        return False
    for change in changed_options(latest, run):
        say(accelerator, f"changed since the checkpoint: {change}")
    return True


if __name__ == "__main__":
    run_stage(main)
