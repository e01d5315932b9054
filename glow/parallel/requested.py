"""What accelerate launch was asked for, on its command line or in its config file, as options of the training."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping

from glow.config import TrainRun, config_to_dict, flatten

# Engines without a counterpart, and what to do instead.
ENGINES = {
    "DEEPSPEED": "for large models, give --parallel.mode fsdp or pipeline instead",
    "MEGATRON_LM": "for large models, give --parallel.mode pipeline instead",
}
OFFLOADS = {
    "FSDP_OFFLOAD_PARAMS": "give --memory checkpoint or reversible to the training instead",
    "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": "leave it out",
}
WITHOUT_TENSORS = (
    "choose parallel.mode (ddp, fsdp, hsdp or pipeline; there is no tensor, context or sequence parallelism)"
)


def as_requested(run: TrainRun) -> tuple[TrainRun, list[str]]:
    """Return a configuration with what accelerate launch was asked for, and each translation in words.

    Sharding and compilation are the training's own. So their requests are taken out of the environment: Accelerate
    would apply its own too.

    Raises:
        ValueError: for a request without a counterpart, or one that the configuration contradicts.
    """
    environment = dict(os.environ)
    for engine, instead in ENGINES.items():
        if _is_set(environment, f"ACCELERATE_USE_{engine}"):
            raise ValueError(f"accelerate launch --use_{engine.lower()} is not supported: {instead}")
    said = []
    for flag, changed in _changes(run, environment):
        if changed != run:
            said.append(f"accelerate launch {flag}: {_difference(run, changed)}")
        run = changed
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_PARALLELISM_CONFIG"):
        os.environ.pop(name, None)
    if "ACCELERATE_DYNAMO_BACKEND" in os.environ:
        os.environ["ACCELERATE_DYNAMO_BACKEND"] = "NO"
    return run, said


def _changes(run: TrainRun, environment: Mapping[str, str]) -> Iterator[tuple[str, TrainRun]]:
    """Yield each flag that was given, and the configuration with it and those before."""
    if _is_set(environment, "ACCELERATE_USE_FSDP"):
        run = _sharded(run, environment)
        yield "--use_fsdp", run
        if _is_set(environment, "FSDP_ACTIVATION_CHECKPOINTING") and run.memory == "stored":
            run = dataclasses.replace(run, memory="checkpoint")
            yield "--fsdp_activation_checkpointing true", run
    elif _is_set(environment, "ACCELERATE_USE_PARALLELISM_CONFIG"):
        raise ValueError(f"accelerate launch --use_parallelism_config is not supported: {WITHOUT_TENSORS}")
    backend = environment.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if backend == "no":
        return
    if backend != "inductor":
        raise ValueError(f"accelerate launch --dynamo_backend {backend} is not supported: give inductor or no")
    mode = environment.get("ACCELERATE_DYNAMO_MODE", "default")
    if mode != "default":
        raise ValueError(f"accelerate launch --dynamo_mode {mode} is not supported: leave it out")
    yield "--dynamo_backend inductor", dataclasses.replace(run, compile=True)


def _sharded(run: TrainRun, environment: Mapping[str, str]) -> TrainRun:
    for name, instead in OFFLOADS.items():
        if _is_set(environment, name):
            raise ValueError(f"accelerate launch --{name.lower()} true is not supported: {instead}")
    mode, shards = _sharding(environment)
    if run.parallel.mode == mode:
        return run
    if run.parallel.mode != "ddp":
        raise ValueError(
            f"parallel.mode: {run.parallel.mode}, but accelerate launch was given --use_fsdp, which stands for {mode}; "
            "give only one of them"
        )
    return dataclasses.replace(run, parallel=dataclasses.replace(run.parallel, mode=mode, shards=shards))


def _sharding(environment: Mapping[str, str]) -> tuple[str, int | None]:
    """Return the mode of FSDP that was asked for, and the processes in one group."""
    sizes = {
        name: int(environment.get(f"PARALLELISM_CONFIG_{name}_SIZE", "1"))
        for name in ("DP_REPLICATE", "DP_SHARD", "TP", "CP", "SP")
    }
    if max(sizes["TP"], sizes["CP"], sizes["SP"]) > 1:
        raise ValueError(f"accelerate launch --use_parallelism_config is not supported: {WITHOUT_TENSORS}")
    if sizes["DP_REPLICATE"] > 1 and sizes["DP_SHARD"] > 1:
        return "hsdp", sizes["DP_SHARD"]
    if environment.get("FSDP_VERSION") == "2":
        return "fsdp", None
    match environment.get("FSDP_SHARDING_STRATEGY", "1"):
        case "HYBRID_SHARD" | "HYBRID_SHARD_ZERO2" | "4" | "5":
            per_node = int(environment.get("LOCAL_WORLD_SIZE", "1"))
            return ("hsdp", per_node) if per_node > 1 else ("fsdp", None)
        case "NO_SHARD" | "3":
            return "ddp", None
        case _:
            return "fsdp", None


def _difference(before: TrainRun, after: TrainRun) -> str:
    """Name the options that differ, as ``parallel.mode hsdp, parallel.shards 8``."""
    old, new = (flatten(config_to_dict(run)) for run in (before, after))
    return ", ".join(f"{name} {str(new[name]).lower()}" for name in new if new[name] != old[name])


def _is_set(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "false").lower() in ("true", "1")
