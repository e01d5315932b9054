"""A sweep: variations of a configuration, and the table of what they reached."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from glow.config import TrainRun, flatten, path_part
from glow.evaluation.likelihood import Estimate
from glow.files.limits import JSON_BYTES, YAML_BYTES
from glow.files.reading import parse_json, parse_yaml, read_file
from glow.files.schema import from_plain
from glow.training.checkpoints.manager import CheckpointManager
from glow.training.checkpoints.reading import read_state
from glow.training.metrics import read_metrics

MAX_VARIATIONS = 1000
MAX_NAME = 80
OWN = ("output", "data.path")  # options that the sweep decides
Options = dict[str, Any]


@dataclass(frozen=True)
class Variations:
    """The content of the file of a sweep.

    Attributes:
        base: A configuration, by name or as a YAML file.
        options: Options of every run, by their names.
        grid: Values of options; every combination is a run.
        runs: Options of single runs. Each is combined with each point of the grid.
    """

    base: str | None = None
    options: Options = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    runs: list[Options] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """What a run of a sweep reached.

    Attributes:
        scores: Bits/dim of each image, by its key.
        num_steps: Steps that it made.
        seconds: Time of its steps, in seconds.
        num_parameters: Of its model.
    """

    scores: dict[str, float]
    num_steps: int
    seconds: float
    num_parameters: int


def read_variations(path: str) -> tuple[Variations, dict[str, Options]]:
    """Return the file of a sweep, and what differs in each of its runs, by the names of their directories.

    Raises:
        ValueError: when it is no such file, or two runs are the same.
    """
    content = from_plain(Variations, parse_yaml(read_file(path, YAML_BYTES), path), path)
    values = [content.grid[name] for name in content.grid]
    points = [dict(zip(content.grid, chosen, strict=True)) for chosen in itertools.product(*values)]
    variations = [{**point, **flatten(single)} for single in content.runs or [{}] for point in points]
    if not 1 <= len(variations) <= MAX_VARIATIONS:
        raise ValueError(f"{path}: {len(variations)} runs are not allowed; give 1 to {MAX_VARIATIONS}")
    for name in (name for options in (flatten(content.options), *variations) for name in options):
        if name in OWN:
            raise ValueError(f"{path}: {name} is not allowed; the sweep has its own --output and --data")
    if len({_digest(options) for options in variations}) < len(variations):
        raise ValueError(f"{path}: two of its {len(variations)} runs are the same; give each one once")
    named: dict[str, Options] = {}
    for options in variations:
        name = name_of(options)
        # 1 and -1 give the same name.
        named[f"{name}-{_digest(options)}" if name in named else name] = options
    return content, named


def name_of(options: Options) -> str:
    """Return the name of the directory of a run, such as ``optimizer.lr-0.001``."""
    text = "-".join(f"{name}-{path_part(option_text(value))}" for name, value in options.items()) or "base"
    if len(text) <= MAX_NAME:
        return text
    return f"{text[: MAX_NAME - 9]}-{_digest(options)}"


def _digest(options: Options) -> str:
    return hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()[:8]


def option_text(value: Any) -> str:
    """Return a value as one types it on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def arguments_of(content: Variations, options: Options) -> list[str]:
    """Return the options of the training of a run, without output and data."""
    given = {**flatten(content.options), **options}
    base = ["--config", content.base] if content.base else []
    return base + [f"--{name}={option_text(value)}" for name, value in given.items()]


def is_trained(run: TrainRun) -> bool:
    """Return whether a run has made all its steps."""
    checkpoint = CheckpointManager(run.output).latest()
    return checkpoint is not None and read_state(checkpoint).step >= run.train.num_steps


def report_directory(run: TrainRun, split: str) -> Path:
    """Return where the report of a run of a sweep lies."""
    return Path(run.output) / "report" / f"sweep-{split}"


def result_of(run: TrainRun, split: str) -> Result | None:
    """Return what a run reached; None while its report is not there, or is that of an earlier step.

    Raises:
        ValueError: when its report or its metrics are damaged.
    """
    report = report_directory(run, split)
    if not (report / "bpd.json").is_file():
        return None
    summary = parse_json(read_file(report / "bpd.json", JSON_BYTES), str(report / "bpd.json"))
    if summary["checkpoint"]["step"] < run.train.num_steps:
        return None
    rows = csv.DictReader(io.StringIO((report / "per_image.csv").read_text()))
    step, seconds = 0, 0.0
    for line in read_metrics(run.output):
        if "train/step_s" in line:
            seconds += line["train/step_s"] * (line["step"] - step)
            step = line["step"]
    return Result(
        scores={row["key"]: float(row["bits_per_dim"]) for row in rows},
        num_steps=summary["checkpoint"]["step"],
        seconds=seconds,
        num_parameters=summary["model"]["num_parameters"],
    )


def table_rows(variations: Mapping[str, Options], results: Mapping[str, Result]) -> list[list[str]]:
    """Return the table: a head, then a row for each run, the best bits/dim first, unfinished runs last.

    The difference to the best run is that of the same images: its error is smaller than those of the two means.
    """
    names = list(dict.fromkeys(name for options in variations.values() for name in options))
    titles = ["run", *names, "bits/dim", "standard error", "beside the best", "error of it", "steps", "training s"]
    rows = [[*titles, "parameters"]]
    mean = {name: Estimate.of(list(result.scores.values())).mean for name, result in results.items()}
    best = results[min(mean, key=lambda name: mean[name])] if mean else None
    for name in sorted(variations, key=lambda name: mean.get(name, np.inf)):
        chosen = [option_text(variations[name][key]) if key in variations[name] else "" for key in names]
        rows.append([name, *chosen, *_figures(results.get(name), best)])
    return rows


def _figures(result: Result | None, best: Result | None) -> list[str]:
    if result is None or best is None:
        return ["not finished", *[""] * 6]
    texts: list[str] = []
    apart = [result.scores[key] - best.scores[key] for key in best.scores]
    for values, sign in ((list(result.scores.values()), ""), (apart, "+")):
        estimate = Estimate.of(values)
        texts += [f"{estimate.mean:{sign}.4f}", f"{estimate.standard_error or 0:.4f}"]
    if result is best:
        texts[2:] = ["", ""]
    return [*texts, str(result.num_steps), f"{result.seconds:.0f}", str(result.num_parameters)]


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table."""
    escaped = [[text.replace("|", "\\|") for text in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]) + "\n"


def as_csv(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
