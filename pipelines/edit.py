"""See and edit images by their latents: ``python -m pipelines.edit --what interpolate --checkpoint runs/digits``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from glow.cli import parse_config, run_stage
from glow.config import EditRun, options_suffix
from glow.config.editing import OPTIONS
from glow.editing.attributes import save_directions
from glow.editing.choosing import Data
from glow.editing.comparing import train_on, write_neighbours, write_quality
from glow.editing.repairing import write_repairs
from glow.editing.tasks import (
    Result,
    write_applied,
    write_attributes,
    write_interpolation,
    write_levels,
    write_mix,
    write_reconstruction,
)
from glow.execution.precision import use_exact_float32
from glow.files.writing import write_together, write_whole
from glow.parallel.sharing import Processes
from glow.trained.images import TrainedGlow
from glow.training.checkpoints.manager import find_checkpoint, run_directory
from glow.training.checkpoints.models import load_model
from glow.training.checkpoints.reading import checkpoint_facts, read_config, read_state

CHOICES = ("weights", "dtype", "seed")
TASKS: dict[str, Callable[[Data, EditRun], Result]] = {
    "reconstruct": write_reconstruction,
    "interpolate": write_interpolation,
    "attributes": write_attributes,
    "levels": write_levels,
    "mix": write_mix,
    "inpaint": write_repairs,
    "restore": write_repairs,
    "neighbours": write_neighbours,
    "quality": write_quality,
}


def main(argv: Sequence[str] | None = None) -> Path:
    """Do what the options say, and write pictures and figures; return their directory."""
    config = parse_config(EditRun, argv, "edit")
    checkpoint = find_checkpoint(config.checkpoint, config.which, config.weights)
    run, state = read_config(checkpoint), read_state(checkpoint)
    use_exact_float32()
    model = load_model(checkpoint, weights=config.weights, dtype=config.dtype).to(Processes().device)
    data = Data(TrainedGlow(model, state.classes), config.data or run.data.path, run.data.size)
    folder = run_directory(checkpoint) / "edit"
    # Attributes have one place for each kind of weights, so that apply finds them.
    options = () if config.what == "attributes" else OPTIONS[config.what]
    suffix = options_suffix(config, (*CHOICES, *options))
    output = Path(config.output or folder / f"step-{state.step:08d}-{config.what}{suffix}")
    if config.what == "classifier":
        output = Path(config.output or folder / "classifier.safetensors")
        content, facts = train_on(data, config)
        write_whole(output, content)
        print(f"accuracy on test: {facts['test_accuracy']:.1%}")
        print(output)
        return output
    if config.what == "apply":
        suffix = options_suffix(config, ("weights", "dtype"))
        result = write_applied(data, config, folder / f"step-{state.step:08d}-attributes{suffix}")
    else:
        result = TASKS[config.what](data, config)
    origin = {
        "checkpoint": checkpoint_facts(checkpoint, config.weights),
        "weights": config.weights,
        "seed": config.seed,
    }
    if result.directions is not None:
        save_directions(output, result.directions, {**origin, "data": data.path})
    else:
        files = {output / name: content for name, content in result.files.items()}
        write_together({**files, output / f"{config.what}.json": result.text(origin)})
    for line in [*result.lines, output]:
        print(line)
    return output


if __name__ == "__main__":
    run_stage(main)
