"""The command ``glow``: ``glow STAGE [OPTIONS]`` is ``python -m pipelines.STAGE [OPTIONS]``."""

from __future__ import annotations

import difflib
import importlib
import sys
import textwrap
from collections.abc import Sequence

import glow
from glow.cli import config_names, parse_config, run_stage
from pipelines import STAGES


def main(argv: Sequence[str] | None = None) -> None:
    """Run a stage, or print help; arguments of None are those of the process.

    Raises:
        ValueError: for an unknown stage, or for options that its stage does not take.
    """
    name, *options = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("--help", "-h"):
        print(describe())
    elif name == "--version":
        print(f"glow {glow.__version__}")
    elif name not in STAGES:
        near = difflib.get_close_matches(name, STAGES, n=1)
        instead = f"did you mean {near[0]}?" if near else f"the stages are {', '.join(STAGES)}"
        raise ValueError(f"{name}: no such stage; {instead}")
    else:
        # Help and wrong options need no torch, which takes seconds to import.
        parse_config(STAGES[name].config, options, name, STAGES[name].positional)
        importlib.import_module(f"pipelines.{name}").main(options)


def describe() -> str:
    """Return the text of ``glow --help``."""
    width = max(map(len, STAGES))
    lines = [f"  {name:{width}}  {stage.summary}" for name, stage in STAGES.items()]
    return "\n".join(
        [
            "usage: glow STAGE [OPTIONS]",
            "       glow STAGE --help        list the options of a stage",
            "       glow --version",
            "",
            "Train, sample from and measure Glow image-density models. Stages:",
            "",
            *lines,
            "",
            "Configurations that come with glow, for --config NAME:",
            "",
            textwrap.fill(", ".join(config_names()), 78, initial_indent="  ", subsequent_indent="  "),
        ]
    )


def run() -> None:
    """Run ``glow`` from the command line."""
    run_stage(main)


if __name__ == "__main__":
    run()
