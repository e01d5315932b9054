"""Take over a trained model: ``python -m pipelines.import_checkpoint --format rosinality model_200001.pt``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glow.cli import parse_config, run_stage
from glow.config import ImportRun, TrainRun
from glow.importing.rosinality import from_rosinality, read_state_dict
from glow.training.checkpoints.manager import CheckpointManager, check_output
from glow.training.checkpoints.state import State
from glow.training.checkpoints.writing import Snapshot


def main(argv: Sequence[str] | None = None) -> Path:
    """Write the model as the only checkpoint of a new run directory; return the checkpoint."""
    config = parse_config(ImportRun, argv, "import_checkpoint", positional=True)
    output = config.output or f"runs/{Path(config.path).stem}"
    checkpoints = CheckpointManager(output)
    if checkpoints.all():
        raise ValueError(f"{output}: holds checkpoints already; choose another --output")
    check_output(output)
    model, tensors = from_rosinality(read_state_dict(config.path), config.image_size, config.num_bits)
    print(
        f"L {model.num_levels}, K {model.steps_text}, width {model.hidden_channels}, {model.coupling}, "
        f"1x1 convolutions {model.permutation}; {config.image_size} x {config.image_size}, {config.num_bits} bits"
    )
    state = State(step=0, images_seen=0)
    saved = checkpoints.save(Snapshot({"model": tensors, "ema": tensors}, TrainRun(output, model=model), state))
    print(saved)
    return saved


if __name__ == "__main__":
    run_stage(main)
