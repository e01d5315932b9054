"""Show a trained model as a web page: ``python -m pipelines.explore --checkpoint runs/digits``."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from typing import Any

from glow.cli import parse_config, run_stage
from glow.config import ExploreRun
from glow.editing.attributes import TABLE, load_directions
from glow.editing.choosing import Data
from glow.execution.precision import use_exact_float32
from glow.explore.answers import Answers
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
    page = build(config)
    login = None
    if config.host not in LOCAL:
        login = "glow", secrets.token_urlsafe(9)
        print(f"user {login[0]}, password {login[1]}")
    from glow.explore.page import serve  # needs Gradio, which build has looked for

    serve(page, config.host, config.port, login)


def build(config: ExploreRun) -> Any:
    """Load the model and its data, and return the page."""
    try:
        from glow.explore.page import build_page
    except ModuleNotFoundError as error:
        raise ValueError("the page needs Gradio: pip install 'glow-flows[explore]'") from error
    checkpoint = find_checkpoint(config.checkpoint, config.which, config.weights)
    run, state = read_config(checkpoint), read_state(checkpoint)
    use_exact_float32()
    model = TrainedGlow(load_model(checkpoint, weights=config.weights, dtype=config.dtype), state.classes)
    data = Data(model, config.data or run.data.path, run.data.size)
    folder = run_directory(checkpoint) / "edit" / f"step-{state.step:08d}-attributes"
    directions = load_directions(folder, model.glow.num_dims) if (folder / TABLE).is_file() else None
    return build_page(Answers.of(config.checkpoint, data, directions))


if __name__ == "__main__":
    run_stage(main)
