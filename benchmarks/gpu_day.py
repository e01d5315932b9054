"""Everything to measure on a machine with a GPU, in one command that can be repeated.

``python benchmarks/gpu_day.py --minutes 10`` runs the tests of ``tests/gpu``, the benchmark in each precision with and
without each option, a profile, and a training of ``configs/cifar10_fast.yaml`` with its evaluation. It writes
``report.md`` and ``report.json`` after each part. The same command again goes on with the parts that are not done.
``--device cpu --smoke`` goes through the same parts with a tiny model.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from glow.training.metrics import describe_environment

PRECISIONS = ("no", "bf16", "fp16")
GPU_OPTIONS = {"single kernels": ["--cuda_graph", "false"]}
OPTIONS = {
    "as it is": [],
    "compiled": ["--compile", "true"],
    "memory checkpoint": ["--memory", "checkpoint"],
    "memory reversible": ["--memory", "reversible"],
    "adamax": ["--optimizer.name", "adamax"],
}
GRACE_S = 40  # for a training that was asked to stop: it saves


@dataclass(frozen=True)
class Part:
    """One command, and what to read from what it writes."""

    name: str
    command: list[str]
    limit_s: float
    result: Callable[[str], Any]
    """Gets what the command printed."""


def main() -> None:
    """Run the parts that are not done while there is time, and write the report after each."""
    options = parse()
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    record = output / "report.json"
    state: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {"parts": {}}
    kind = {"device": options.device, "smoke": options.smoke, "data": options.data}
    if state.setdefault("kind", kind) != kind:
        sys.exit(f"error: {record} is of {state['kind']}, not of {kind}; give another --output")
    state["environment"] = describe_environment(torch.device(options.device), 1)
    end = time.monotonic() + 60 * options.minutes
    for part in parts(options, output):
        if state["parts"].get(part.name, {}).get("is_done"):
            continue
        left_s = end - time.monotonic() - GRACE_S
        if left_s < min(part.limit_s, 60 * options.minutes - 2 * GRACE_S):
            print(f"no time is left for: {part.name}; give the same command again")
            break
        state["parts"][part.name] = run_part(part, min(part.limit_s, left_s), options, output)
        write(state, output)
    write(state, output)
    print(output / "report.md")


def parse() -> argparse.Namespace:
    """Return the options; errors are one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="runs/gpu_day", help="directory of the report")
    parser.add_argument("--data", default="data/cifar10", help="prepared data set of the training")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="a tiny model of the digits, to try the command")
    parser.add_argument("--minutes", type=float, default=60.0, help="time of this call")
    parser.add_argument("--only", default="", help="parts whose names contain this")
    options = parser.parse_args()
    if options.minutes <= 2 * GRACE_S / 60:
        parser.error(f"--minutes: {options.minutes:g}; give more than {2 * GRACE_S / 60:.2f}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: torch finds no GPU here; --device cpu --smoke tries the command without one")
    if options.device == "cpu" and not options.smoke:
        parser.error("--device cpu needs --smoke: the full measurement would take days")
    if not options.smoke and not (Path(options.data) / "dataset.json").exists():
        parser.error(f"--data: {options.data} is no prepared data set; configs/cifar10_fast.yaml says how to make it")
    if options.smoke:
        options.data = str(Path(options.output) / "digits")
    return options


def parts(options: argparse.Namespace, output: Path) -> Iterator[Part]:
    """Give the parts that were asked for, in order."""
    for part in all_parts(options, output):
        if options.only in part.name or part.name == "data":
            yield part


def all_parts(options: argparse.Namespace, output: Path) -> Iterator[Part]:
    """Give all parts, in order: the quick ones first."""
    smoke, data = options.smoke, options.data
    if smoke:
        command = stage("prepare", "--source", "digits", "--validation", "180", "--test", "360", "--output", data)
        yield Part("data", command, 120, last_line)
    tests = ["-m", "pytest", "tests/gpu", "-v", "--tb=short", "--durations=0", "-p", "no:cacheprovider"]
    tests += ["-k", "half_precision_are_near or cpu_in_float64 or kernels"] if smoke else []
    yield Part("tests", [sys.executable, *tests], 480, test_results)
    config = ["--config", "configs/smoke.yaml" if smoke else "configs/cifar10.yaml", "--data.path", data]
    config += ["--seconds", "0.2", "--repeats", "2"] if smoke else ["--seconds", "3", "--train.batch_size", "512"]
    variants = OPTIONS if options.device == "cpu" else GPU_OPTIONS | OPTIONS
    for precision in PRECISIONS:
        for name, changes in variants.items():
            if smoke and name == "compiled" and precision != "no":
                continue  # a minute each
            folder = output / "benchmark" / f"{precision} {name}".replace(" ", "-")
            command = [*config, "--train.mixed_precision", precision, *changes, "--output", str(folder)]
            yield Part(f"benchmark {precision} {name}", stage("benchmark", *command), 180, benchmark_of(folder))
    folder = output / "profile"
    command = [*config, "--train.mixed_precision", "bf16", "--profile", "true", "--output", str(folder)]
    yield Part("profile", stage("benchmark", *command), 240, lambda _: kernels_of(folder / "benchmark"))
    run = output / "cifar10_fast"
    config = ["--config", "configs/smoke.yaml" if smoke else "configs/cifar10_fast.yaml", "--data.path", data]
    for number in (1, 2):  # pieces of one training
        limit = ["--train.num_steps", str(10 * number)] if smoke else ["--time_limit", "00:08:00"]
        train = stage("train", *config, *limit, "--output", str(run))
        yield Part(f"training {number}", train, 90 if smoke else 540, lambda _: training_of(run))
    evaluate = stage("evaluate", "--checkpoint", str(run), "--data", data, "--split", "validation")
    yield Part("evaluation", [*evaluate, "--baselines", "false"], 90 if smoke else 480, lambda _: report_of(run))


def stage(name: str, *arguments: str) -> list[str]:
    """Return the command of a stage."""
    return [sys.executable, "-m", f"pipelines.{name}", *arguments]


def run_part(part: Part, limit_s: float, options: argparse.Namespace, output: Path) -> dict[str, Any]:
    """Run a command for a time, and return how it ended. One that runs too long is asked to stop, then killed."""
    print(f"{part.name}: {' '.join(part.command)}", flush=True)
    environment = os.environ | {"GLOW_TEST_DEVICE": options.device}
    if options.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    log, start = output / f"{part.name.replace(' ', '-')}.log", time.monotonic()
    ending = "finished"
    with log.open("w") as file:
        process = subprocess.Popen(
            part.command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        for step_s, sent in ((limit_s, signal.SIGTERM), (GRACE_S, signal.SIGKILL)):
            try:
                process.wait(step_s)
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, sent)
                ending = f"stopped after {limit_s:.0f} s"
    process.wait()
    if process.returncode and ending == "finished":
        ending = f"failed with status {process.returncode}"
    try:
        result = part.result(log.read_text())
    except (OSError, ValueError, KeyError, IndexError) as error:
        result = None
        ending += f"; no result ({type(error).__name__}: {error})"
    seconds = round(time.monotonic() - start, 1)
    print(f"{part.name}: {ending}, {seconds} s", flush=True)
    # A part that was not given its whole time may have it in another call.
    is_done = ending == "finished" or limit_s == part.limit_s
    facts = {"is_done": is_done, "ending": ending, "seconds": seconds, "command": " ".join(part.command[1:])}
    return facts | {"log": log.name, "result": result}


def last_line(printed: str) -> str:
    """Return the last line."""
    return printed.splitlines()[-1]


def test_results(printed: str) -> dict[str, str]:
    """Return the outcome of each test that ended, also of a run that was stopped."""
    ended = re.findall(r"^tests/gpu/\S+::(.+) (PASSED|FAILED|SKIPPED|ERROR)\b", printed, re.MULTILINE)
    return dict(ended)


def benchmark_of(folder: Path) -> Callable[[str], dict[str, Any]]:
    """Return a function that reads what a benchmark measured."""

    def read(_: str) -> dict[str, Any]:
        facts = json.loads((folder / "benchmark" / "benchmark.json").read_text())
        speeds = {each["name"]: each["images_per_s"]["median"] for each in facts["measurements"]}
        return {"images_per_s": speeds, "memory": facts["memory"]["ours"], "precision": facts.get("precision")}

    return read


def kernels_of(folder: Path) -> list[list[Any]]:
    """Return the kernels of the traced training steps that took longest: name, calls, milliseconds."""
    with gzip.open(folder / "training.pt.trace.json.gz", "rt") as file:
        events = [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]
    kernels = [event for event in events if event.get("cat") == "kernel"]
    kernels = kernels or [event for event in events if event.get("cat") == "cpu_op"]
    times: Counter[str] = Counter()
    for event in kernels:
        times[event["name"]] += event["dur"]
    counts = Counter(event["name"] for event in kernels)
    return [[name, counts[name], round(duration / 1e3, 3)] for name, duration in times.most_common(15)]


def training_of(run: Path) -> dict[str, Any]:
    """Return the last lines of a training's metrics, merged."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {key: value for line in lines for key, value in line.items() if isinstance(value, int | float)}


def report_of(run: Path) -> dict[str, Any]:
    """Return what an evaluation measured."""
    newest = max((run / "report").glob("*/bpd.json"), key=lambda path: path.stat().st_mtime)
    facts = json.loads(newest.read_text())
    return {name: facts[name] for name in ("bits_per_dim", "standard_error", "num_images", "dtype", "valid")}


def write(state: dict[str, Any], output: Path) -> None:
    """Write the record and the report, each at once."""
    for name, text in (("report.json", json.dumps(state, indent=1) + "\n"), ("report.md", report(state))):
        aside = output / f"{name}.part"
        aside.write_text(text)
        aside.replace(output / name)


def report(state: dict[str, Any]) -> str:
    """Return the Markdown of everything that was measured so far."""
    lines = ["# What a GPU shows", "", "## Machine", ""]
    lines += [f"- {name}: {value}" for name, value in state["environment"].items()]
    lines += [f"- {name}: {value}" for name, value in state["kind"].items()]
    found = {name: part for name, part in state["parts"].items() if part["result"]}
    if tests := found.get("tests"):
        counts = Counter(tests["result"].values())
        lines += ["", "## Tests", "", ", ".join(f"{count} {word.lower()}" for word, count in counts.items()), ""]
        lines += [f"- {word}: {name}" for name, word in tests["result"].items() if word != "PASSED"]
    benchmarks = {name: part["result"] for name, part in found.items() if name.startswith("benchmark")}
    if benchmarks:
        lines += ["", "## Speed, images a second", "", *benchmark_table(benchmarks)]
    if profile := found.get("profile"):
        rows = ([f"`{name[:80]}`", count, duration] for name, count, duration in profile["result"])
        lines += ["", "## Profile of training steps, bf16", "", *table(["kernel", "calls", "ms"], rows)]
    for name in ("training 1", "training 2", "evaluation"):
        if name in found:
            lines += ["", f"## {name.capitalize()}", ""]
            lines += table(["figure", "value"], [[key, value] for key, value in found[name]["result"].items()])
    rows = ([name, part["ending"], part["seconds"], f"`{part['command']}`"] for name, part in state["parts"].items())
    lines += ["", "## Parts", "", *table(["part", "ending", "seconds", "command"], rows)]
    return "\n".join(lines) + "\n"


def benchmark_table(benchmarks: dict[str, dict[str, Any]]) -> list[str]:
    """Return a row for each precision and option."""
    kinds = list(next(iter(benchmarks.values()))["images_per_s"])
    rows = []
    for name, result in benchmarks.items():
        _, precision, option = name.split(" ", 2)
        speeds = [f"{result['images_per_s'].get(kind, float('nan')):.4g}" for kind in kinds]
        rows.append([precision, option, *speeds, f"{result['memory']['peak_bytes'] / 2**30:.3g}"])
    return table(["precision", "option", *kinds, "peak GiB"], rows)


def table(head: Sequence[str], rows: Any) -> list[str]:
    """Return the lines of a table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines]


if __name__ == "__main__":
    main()
