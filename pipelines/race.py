"""Race models: ``python -m pipelines.race --contestants cifar10_cpu --contestants normflows:cifar10_cpu --data D``."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glow.benchmarking.race import Budget, Finish, race
from glow.benchmarking.standings import plot, standings
from glow.cli import parse_config, run_stage
from glow.config import RaceRun, TrainRun, config_to_dict, path_part
from glow.data.read.manifest import load_dataset
from glow.evaluation.figures import png
from glow.files.reading import parse_json
from glow.files.schema import from_plain
from glow.files.writing import write_together, write_whole

PEER = "normflows:"


def main(argv: Sequence[str] | None = None) -> Path:
    """Let all contestants race, and write the table and the picture; return their directory."""
    config = parse_config(RaceRun, argv, "race")
    load_dataset(config.data).split(config.split)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    budget = Budget(config.cpu_seconds, config.num_checks, config.split, config.num_images)
    entries = {
        f"{contestant}{f' (seed {seed})' * (len(config.seeds) > 1)}": run_of(contestant, seed, config.data)
        for contestant in config.contestants
        for seed in config.seeds
    }
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that start now
    finishes: dict[str, Future[Finish]] = {}
    try:
        with ProcessPoolExecutor(
            config.at_a_time, multiprocessing.get_context("spawn"), max_tasks_per_child=1
        ) as executor:
            for name, (run, is_peer) in entries.items():
                finishes[name] = executor.submit(finish_of, name, run, is_peer, budget, output)
            results = {name: finish.result() for name, finish in finishes.items()}
    except BrokenProcessPool as error:
        raise ChildProcessError("a contestant's process died, perhaps for lack of memory") from error
    table = standings(results)
    facts = {"config": config_to_dict(config), "finishes": {name: asdict(each) for name, each in results.items()}}
    write_together(
        {
            output / "race.png": png(plot(results)),
            output / "race.json": json.dumps(facts) + "\n",
            output / "race.md": table,
        }
    )
    print(f"{table}{output}")
    return output


def run_of(contestant: str, seed: int, data: str) -> tuple[TrainRun, bool]:
    """Return the configuration of a contestant, and whether it is a model of normflows."""
    name = contestant.removeprefix(PEER)
    run = parse_config(TrainRun, ["--config", name, "--train.seed", str(seed)], "train")
    if run.is_of_vectors or run.target.source or run.model.class_conditional or run.data.stream:
        raise ValueError(f"contestants: {contestant} is not a model of images without classes, of a prepared data set")
    return dataclasses.replace(run, data=dataclasses.replace(run.data, path=data, num_workers=0)), name != contestant


def finish_of(name: str, run: TrainRun, is_peer: bool, budget: Budget, output: Path) -> Finish:
    """Return what a contestant reached; one that has finished before does not race again."""
    path = output / f"{path_part(name)}.json"
    options: dict[str, Any] = json.loads(json.dumps({"run": config_to_dict(run), "budget": asdict(budget)}))
    if path.is_file():
        kept = parse_json(path.read_bytes(), str(path))
        if isinstance(kept, dict) and kept.get("options") == options:
            return from_plain(Finish, kept["finish"])
    finish = race(run, is_peer, budget, lambda line: print(f"{name}: {line}", flush=True))
    write_whole(path, json.dumps({"options": options, "finish": asdict(finish)}) + "\n")
    return finish


if __name__ == "__main__":
    run_stage(main)
