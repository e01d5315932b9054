"""Sweep options: ``python -m pipelines.sweep --variations sweep.yaml --data data/digits``."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from glow.benchmarking.sweep import (
    Options,
    Variations,
    arguments_of,
    as_csv,
    as_markdown,
    is_trained,
    read_variations,
    report_directory,
    result_of,
    table_rows,
)
from glow.cli import parse_config, run_stage
from glow.config import SweepRun, TrainRun
from glow.data.read.manifest import load_dataset
from glow.files.writing import write_together


def main(argv: Sequence[str] | None = None) -> Path:
    """Train and measure the variations, or one of them, and write the table of all; return their directory."""
    config = parse_config(SweepRun, argv, "sweep")
    load_dataset(config.data).split(config.split)
    content, variations = read_variations(config.variations)
    runs = {name: training(config, content, name, options) for name, options in variations.items()}
    chosen = list(variations)
    if config.index is not None:
        if config.index >= len(chosen):
            raise ValueError(
                f"index: {config.index} is not allowed; {config.variations} has runs 0 to {len(chosen) - 1}"
            )
        chosen = chosen[config.index : config.index + 1]
    failed: list[str] = []
    for number, name in enumerate(chosen, 1):
        print(f"{number}/{len(chosen)} {name}", flush=True)
        if not finish(config, name, *runs[name]):
            failed.append(name)
        write_table(config, variations, runs)
    print((Path(config.output) / "sweep.md").read_text(), end="")
    if failed:
        raise ValueError(f"{len(failed)} of {len(chosen)} runs are not finished: {', '.join(failed)}")
    print(config.output)
    return Path(config.output)


def training(config: SweepRun, content: Variations, name: str, options: Options) -> tuple[TrainRun, list[str]]:
    """Return the configuration of a run, and its arguments."""
    arguments = [*arguments_of(content, options), f"--data.path={config.data}"]
    arguments.append(f"--output={Path(config.output) / name}")
    try:
        return parse_config(TrainRun, arguments, "train"), arguments
    except ValueError as error:
        raise ValueError(f"{config.variations}: run {name}: {error}") from error


def finish(config: SweepRun, name: str, run: TrainRun, arguments: Sequence[str]) -> bool:
    """Train and measure a run, or what of it is not done yet; return whether all is done."""
    if result_of(run, config.split) is not None:
        return True
    if not is_trained(run):
        call("train", arguments)
        if not is_trained(run):  # it failed, or was asked to stop
            return False
    measure = ["--checkpoint", run.output, "--data", config.data, "--split", config.split, "--baselines", "false"]
    call("evaluate", [*measure, "--output", str(report_directory(run, config.split))])
    return result_of(run, config.split) is not None


def call(stage: str, arguments: Sequence[str]) -> None:
    """Run a stage as a process. When this one is asked to stop, that one is too; it may save what it has."""
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        asked.append(number)
        process.terminate()

    process = subprocess.Popen([sys.executable, "-m", f"pipelines.{stage}", *arguments])
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    process.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    if asked:
        raise KeyboardInterrupt


def write_table(
    config: SweepRun, variations: Mapping[str, Options], runs: Mapping[str, tuple[TrainRun, list[str]]]
) -> None:
    """Write the table of all runs that are finished by now."""
    found = {name: result_of(run, config.split) for name, (run, _) in runs.items()}
    rows = table_rows(variations, {name: result for name, result in found.items() if result is not None})
    output = Path(config.output)
    write_together({output / "sweep.csv": as_csv(rows), output / "sweep.md": as_markdown(rows)})


if __name__ == "__main__":
    run_stage(main)
