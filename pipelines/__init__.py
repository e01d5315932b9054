"""The stages, one module each: parse, build, run, say what was written."""

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from glow.cli import parse_config, run_stage
from glow.config import (
    BenchmarkRun,
    DemoRun,
    EditRun,
    EvaluateRun,
    ExploreRun,
    ExportRun,
    ImportRun,
    InferRun,
    PlanRun,
    PolicyRun,
    PrepareRun,
    RaceRun,
    SampleRun,
    ScoreRun,
    SweepRun,
    TrainRun,
)


class Stage(NamedTuple):
    """A stage: the dataclass of its options, and one line that says what it does."""

    config: type[Any]
    summary: str
    positional: bool = False  # options without a default are given without their names


# By the names of their modules, in the order in which a newcomer meets them.
STAGES = {
    "prepare": Stage(PrepareRun, "turn images into a sharded data set"),
    "train": Stage(TrainRun, "train a model, or resume its training"),
    "sample": Stage(SampleRun, "draw images, or vectors, from a trained model"),
    "evaluate": Stage(EvaluateRun, "measure bits/dim on a data set and write a report"),
    "score": Stage(ScoreRun, "score how anomalous each image is"),
    "edit": Stage(EditRun, "encode images, mix and change them, and compare samples with data"),
    "explore": Stage(ExploreRun, "show a trained model as a web page"),
    "plan": Stage(PlanRun, "predict the memory of a training and recommend how to run it"),
    "benchmark": Stage(BenchmarkRun, "measure the speed and memory of a model on this machine"),
    "race": Stage(RaceRun, "train several models for the same CPU time and compare their bits/dim"),
    "sweep": Stage(SweepRun, "train variations of a configuration and compare them in a table"),
    "infer": Stage(InferRun, "fit a flow to an unnormalised log-density"),
    "policy": Stage(PolicyRun, "train flows as policies by soft actor-critic"),
    "export": Stage(ExportRun, "write a trained model as a folder for others and for the Hugging Face Hub"),
    "import_checkpoint": Stage(ImportRun, "turn a model of another program into a checkpoint", positional=True),
    "demo": Stage(DemoRun, "prepare, train, sample and evaluate on small digits"),
}


def _interrupted(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """End with one line where Ctrl-C meets the imports of a stage, which take seconds; ``run_stage`` takes over."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    if os.environ.get("RANK", "0") == "0":
        print("interrupted", file=sys.stderr)
    raise SystemExit(130)


def _help_early() -> None:
    """Print the help of ``python -m pipelines.STAGE --help`` before the imports of the stage, which take seconds."""
    name = next((word for word in sys.orig_argv if "pipelines." in word), "").rpartition(".")[2]
    if name in STAGES and {"-h", "--help"} & set(sys.argv):
        run_stage(lambda: parse_config(STAGES[name].config, None, name, STAGES[name].positional))


# Not in programs that import this. Python says -m while it looks for the module of ``python -m pipelines.STAGE``.
if Path(sys.argv[0]).name in ("-m", "glow"):
    sys.excepthook = _interrupted
    _help_early()
