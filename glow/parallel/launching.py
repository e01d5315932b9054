"""The processes of a training: what a launcher started, checked against the configuration."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from glow.config import TrainRun
from glow.execution.precision import NETWORK_DTYPES

HOW_TO_LAUNCH = "to start several, use accelerate launch --multi_gpu (without GPUs too, and without --cpu)"


def build_accelerator(run: TrainRun) -> Accelerator:
    """Build the Accelerator of this process.

    Raises:
        ValueError: when the launcher and the configuration disagree: on the precision or the number of processes; or
            when a tracker is not installed.
    """
    for name in run.trackers:
        if name not in {kind.value for kind in get_available_trackers()}:
            raise ValueError(f"trackers: {name} is not installed; type pip install {name}, or leave it out")
    _check_precision(run)
    group = InitProcessGroupKwargs(timeout=timedelta(seconds=run.parallel.timeout_s))
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), mixed_precision=run.train.mixed_precision, kwargs_handlers=[group, ddp]
    )
    _check_processes(run, accelerator.num_processes)
    return accelerator


def _check_precision(run: TrainRun) -> None:
    # Without --mixed_precision, accelerate launch says "no" too.
    launched, chosen = os.environ.get("ACCELERATE_MIXED_PRECISION", "no"), run.train.mixed_precision
    if launched not in NETWORK_DTYPES:
        allowed = ", ".join(NETWORK_DTYPES)
        raise ValueError(f"accelerate launch --mixed_precision {launched} is not supported; choose one of {allowed}")
    if launched != "no" and chosen not in (None, launched):
        raise ValueError(
            f"train.mixed_precision: {chosen}, but accelerate launch was given --mixed_precision {launched}; give only "
            "one of them"
        )


def _check_processes(run: TrainRun, num_processes: int) -> None:
    """Raise a ValueError when this process has fewer or more partners than the user asked for."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched, but this one belongs to a group of {num_processes}; {HOW_TO_LAUNCH}"
        )
    if run.num_processes not in (None, num_processes):
        counted = "1 takes part" if num_processes == 1 else f"{num_processes} take part"
        raise ValueError(f"num_processes: {run.num_processes}, but {counted}; {HOW_TO_LAUNCH}")
    # Without --multi_gpu, accelerate launch starts one process on each machine, whatever was asked for, and prints
    # nothing. But it sets an address to meet at when more than one process or machine was asked for.
    is_alone = "WORLD_SIZE" not in os.environ
    if is_alone and run.num_processes is None and {"ACCELERATE_DYNAMO_BACKEND", "MASTER_ADDR"} <= os.environ.keys():
        raise ValueError(
            "accelerate launch was asked for several processes or machines, on its command line or in a config file, "
            f"but this process is alone; {HOW_TO_LAUNCH}. To train with this one process, add --num_processes 1 to the "
            "options of the training"
        )
