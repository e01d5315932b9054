"""Take over a trained model: ``python -m pipelines.import_checkpoint --format rosinality model_200001.pt``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from glow.cli import parse_config, run_stage
from glow.config import ImportRun, ModelConfig, TrainRun
from glow.importing.chaiyujin import from_chaiyujin, from_y0ast
from glow.importing.kamenbliznashki import from_kamenbliznashki
from glow.importing.normflows import from_normflows
from glow.importing.reading import read_state_dict
from glow.importing.rosinality import from_rosinality
from glow.training.checkpoints.manager import CheckpointManager, check_output
from glow.training.checkpoints.state import State
from glow.training.checkpoints.writing import Snapshot

IMPORTERS: dict[str, Callable[..., tuple[ModelConfig, dict[str, Tensor]]]] = {
    "rosinality": from_rosinality,
    "y0ast": from_y0ast,
    "chaiyujin": from_chaiyujin,
    "normflows": from_normflows,
    "kamenbliznashki": from_kamenbliznashki,
}
KEYS = {"y0ast": "model", "chaiyujin": "graph", "kamenbliznashki": "state_dict"}
"""Where in its files a program puts the state dict, if not alone."""
OPTIONS = ("image_size", "num_bits", "image_range", "scale")


def main(argv: Sequence[str] | None = None) -> Path:
    """Write the model as the only checkpoint of a new run directory; return the checkpoint."""
    config = parse_config(ImportRun, argv, "import_checkpoint", positional=True)
    output = config.output or f"runs/{Path(config.path).stem}"
    checkpoints = CheckpointManager(output)
    if checkpoints.all():
        raise ValueError(f"{output}: holds checkpoints already; choose another --output")
    check_output(output)
    options = {name: getattr(config, name) for name in OPTIONS if getattr(config, name) is not None}
    model, tensors = IMPORTERS[config.format](read_state_dict(config.path, KEYS.get(config.format)), **options)
    print(
        f"L {model.num_levels}, K {model.steps_text}, width {model.hidden_channels}, {model.coupling}, "
        f"1x1 convolutions {model.permutation}; images {list(model.image_shape or ())}, {model.num_bits} bits"
    )
    state = State(step=0, images_seen=0)
    saved = checkpoints.save(Snapshot({"model": tensors, "ema": tensors}, TrainRun(output, model=model), state))
    print(saved)
    return saved


if __name__ == "__main__":
    run_stage(main)
