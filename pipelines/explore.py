"""Show a trained model as a web page: ``python -m pipelines.explore --checkpoint runs/digits``."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from glow.cli import parse_config, run_stage
from glow.config import ExploreRun
from glow.editing.attributes import TABLE, load_directions
from glow.editing.choosing import Data
from glow.execution.precision import use_exact_float32
from glow.explore.answers import Answers
from glow.explore.repairs import Repairs
from glow.trained.images import TrainedGlow
from glow.training.checkpoints.manager import find_checkpoint, run_directory
from glow.training.checkpoints.models import load_model
from glow.training.checkpoints.reading import read_config, read_state

LOCAL = ("127.0.0.1", "localhost")


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until it is interrupted.

    Raises:
        ValueError: when Gradio is missing, or there is no such checkpoint or data set.
    """
    config = parse_config(ExploreRun, argv, "explore")
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    login = None
    if config.host not in LOCAL:
        login = "glow", secrets.token_urlsafe(9)
        print(f"user {login[0]}, password {login[1]}")
    try:
        from glow.explore.page import build_page, serve
    except ModuleNotFoundError as error:
        raise ValueError("the page needs Gradio: pip install 'glow-flows[explore]'") from error
    checkpoint = find_checkpoint(config.checkpoint, config.which, config.weights)
    with Repairs(checkpoint, config.weights, config.dtype) as repairs:
        serve(build_page(open_answers(config, checkpoint, repairs)), config.host, config.port, login)


def open_answers(config: ExploreRun, checkpoint: Path, repairs: Repairs) -> Answers:
    """Load the model, its data, and the directions of attributes, if there are any."""
    run, state = read_config(checkpoint), read_state(checkpoint)
    use_exact_float32()
    model = TrainedGlow(load_model(checkpoint, weights=config.weights, dtype=config.dtype), state.classes)
    data = Data(model, config.data or run.data.path, run.data.size)
    folder = run_directory(checkpoint)
    found = folder / "edit" / f"step-{state.step:08d}-attributes"
    directions = load_directions(found, model.glow.num_dims) if (found / TABLE).is_file() else None
    return Answers.of(config.checkpoint, folder, data, directions, repairs)


if __name__ == "__main__":
    run_stage(main)
