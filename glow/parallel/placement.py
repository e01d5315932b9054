"""The place of a process: its part of every batch, and its part of the chain of units."""

from __future__ import annotations

from dataclasses import dataclass

from glow.config import TrainRun


@dataclass(frozen=True)
class Placement:
    """The place of one process: it reads the batches of ``replica`` and holds ``stage`` of the chain."""

    replica: int
    num_replicas: int
    stage: int = 0
    num_stages: int = 1


def place(run: TrainRun, rank: int, num_processes: int) -> Placement:
    """Return the place of process ``rank``.

    Replicas of one stage have neighbouring ranks. On a cluster they add up their gradients within a node; only the
    state between two stages, which is small, passes between nodes.

    Raises:
        ValueError: when the processes or the batch cannot be divided as the configuration asks.
    """
    config = run.parallel
    if config.shards is not None and num_processes % config.shards:
        raise ValueError(f"parallel.shards: {config.shards}, but {num_processes} processes are not a multiple of it")
    if config.stages is None:
        return Placement(rank, num_processes)
    num_replicas, rest = divmod(num_processes, config.stages)
    if rest:
        raise ValueError(f"parallel.stages: {config.stages}, but {num_processes} processes are not a multiple of it")
    num_steps = sum(run.model.steps)
    if config.stages > num_steps:
        raise ValueError(
            f"parallel.stages: {config.stages}, but the model has {num_steps} flow steps, one or more a stage"
        )
    _check_batches(run, config.stages, num_replicas)
    return Placement(rank % num_replicas, num_replicas, rank // num_replicas, config.stages)


def check_validation(run: TrainRun, num_images: int, num_processes: int) -> None:
    """Check that each process has something to validate, where all take part in every batch.

    Args:
        run: The configuration.
        num_images: Images of the validation split.
        num_processes: Number of processes.

    Raises:
        ValueError: when there are fewer images than processes.
    """
    count = min(num_images, run.train.num_validation_images or num_images)
    if run.parallel.mode in ("fsdp", "hsdp") and count < num_processes:
        raise ValueError(
            f"train.num_validation_images: {count} images to validate on, but with parallel.mode {run.parallel.mode} "
            f"each of {num_processes} processes needs one"
        )


def _check_batches(run: TrainRun, num_stages: int, num_replicas: int) -> None:
    """Check that every pipeline gets the same number of equal microbatches, at least one a stage."""
    share, rest = divmod(run.train.batch_size, num_replicas)
    if rest:
        raise ValueError(
            f"train.batch_size: {run.train.batch_size}, but {num_replicas} pipelines share it; give a multiple of "
            f"{num_replicas}"
        )
    size = run.train.microbatch_size or share
    if share % size or share // size < num_stages:
        allowed = [str(number) for number in range(1, share // num_stages + 1) if share % number == 0]
        raise ValueError(
            f"train.microbatch_size: {run.train.microbatch_size or 'not set'}, but {num_stages} pipeline stages need "
            f"{num_stages} or more equal microbatches of its {share} images; "
            + (f"give one of {', '.join(allowed)}" if allowed else "raise train.batch_size")
        )
