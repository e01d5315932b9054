"""Share a model: ``python -m pipelines.export --checkpoint runs/digits --output hub/digits``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glow.cli import parse_config, run_stage
from glow.config import ExportRun
from glow.files.hub import SCHEME, push
from glow.sharing.exporting import FILES, export
from glow.training.checkpoints.exported import is_exported
from glow.training.checkpoints.manager import find_checkpoint, run_directory


def main(argv: Sequence[str] | None = None) -> str:
    """Write the folder of a model, and upload it on request; return its path, or its address on the Hub."""
    config = parse_config(ExportRun, argv, "export")
    folder = find_checkpoint(config.checkpoint, config.which, config.weights)
    if not is_exported(folder):
        address = f"{SCHEME}{config.push}" if config.push else None
        output = Path(config.output or Path("hub") / run_directory(folder).resolve().name)
        export(folder, output, config.weights, config.license, address)
        folder = output
    elif not config.push or config.output or config.license:
        raise ValueError(f"{folder}: exported already; give --push alone, or the run that it was exported from")
    place = str(folder)
    if config.push:
        print(folder)
        place = push(folder, [name for name in FILES if (folder / name).is_file()], config.push)
    print(place)
    return place


if __name__ == "__main__":
    run_stage(main)
