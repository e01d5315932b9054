"""From a checkpoint to the folder of an exported model."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save

import glow
from glow.files.limits import JSON_BYTES
from glow.files.reading import parse_json, read_file
from glow.files.schema import from_plain
from glow.files.writing import write_together
from glow.sampling.files import find_grids
from glow.sharing.card import SAMPLES, card_text
from glow.training.checkpoints.exported import EXPORT, WEIGHTS, Export, Measured, export_text, without_places
from glow.training.checkpoints.manager import run_directory
from glow.training.checkpoints.models import load_flow, load_model
from glow.training.checkpoints.reading import checkpoint_facts, read_config, read_state

CARD = "README.md"
FILES = (WEIGHTS, SAMPLES, CARD, EXPORT)
SHOWN = "temperature 0.70"


def export(
    checkpoint: Path, output: Path, weights: Literal["ema", "raw"], license: str | None, address: str | None
) -> None:
    """Write an exported model: weights, config.json, the card, and the grid of samples if there is one.

    Args:
        checkpoint: The directory of the checkpoint.
        output: The folder, new or empty.
        weights: Which weights.
        license: Name of the license.
        address: Of the model on the Hub, for the card.

    Raises:
        ValueError: when the checkpoint is damaged, or the folder is not empty.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output}: exists and is not empty; choose another --output")
    run, state, directory = read_config(checkpoint), read_state(checkpoint), run_directory(checkpoint)
    model = (load_flow if run.is_of_vectors else load_model)(checkpoint, weights=weights)
    tensors = save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, {"format": "pt"})
    described = Export(
        run=without_places(run),
        state=dataclasses.replace(state, sha256={WEIGHTS: hashlib.sha256(tensors).hexdigest()}),
        weights=weights,
        version=glow.__version__,
        measured=find_measured(directory, str(checkpoint_facts(checkpoint, weights)["sha256"])),
        license=license,
    )
    grids = find_grids(directory / "samples" / f"step-{state.step:08d}", weights)
    grid = grids.get(SHOWN) or next(iter(grids.values()), None)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    write_together(
        {
            output / WEIGHTS: tensors,
            **({output / SAMPLES: grid.read_bytes()} if grid else {}),
            output / CARD: card_text(described, num_parameters, address, grid is not None),
            output / EXPORT: export_text(described),
        }
    )


def find_measured(run: Path, sha256: str) -> list[Measured]:
    """Return the bits/dim in the valid float32 reports of a run on these weights, by their checksum.

    Raises:
        ValueError: when a report is damaged.
    """
    found = []
    for path in sorted((run / "report").glob("*/bpd.json")):
        report: dict[str, Any] = from_plain(
            dict[str, Any], parse_json(read_file(path, JSON_BYTES), str(path)), str(path)
        )
        try:
            is_exact = report.get("dtype", "float32") == "float32"  # earlier versions had no other
            if report["checkpoint"]["sha256"] != sha256 or not report["valid"] or not is_exact:
                continue
            same = ("bits_per_dim", "standard_error", "num_images", "bound", "num_noise_samples", "seed")
            data = {"data": report["dataset"]["name"], "split": report["dataset"]["split"]}
            values = {name: report[name] for name in same} | data | {"data_sha256": report["dataset"]["sha256"]}
            found.append(from_plain(Measured, values))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a report of evaluate: {error}") from error
    return found
