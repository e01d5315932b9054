"""Repairs in a process of their own, so that the sliders of all others stay quick."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glow.editing.repair import Repaired, inpaint
from glow.execution.precision import use_exact_float32
from glow.trained.images import TrainedGlow
from glow.training.checkpoints.models import load_model

PATIENCE_S = 600
_model: TrainedGlow | None = None  # of the process that repairs


class Repairs:
    """Fills in missing pixels, one image after the other, in another process. A context manager.

    Args:
        checkpoint: The checkpoint of the model.
        weights: Its weights, ``ema`` or ``raw``.
        dtype: Precision of the coupling networks.
    """

    def __init__(self, checkpoint: Path, weights: str, dtype: str) -> None:
        self._arguments = checkpoint, weights, dtype
        self._pool: Any = None

    def __enter__(self) -> Repairs:
        """Start the process; it loads the model in the meantime."""
        self._pool = multiprocessing.get_context("spawn").Pool(1, _load, self._arguments)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process, whatever it is doing."""
        self._pool.terminate()

    def inpaint(self, image: Tensor, is_missing: Tensor, label: int | None, seed: int, num_draws: int) -> Repaired:
        """Return what ``editing.repair.inpaint`` does.

        Raises:
            ValueError: when nothing is missing, or it takes too long.
        """
        arrays = image.numpy(), is_missing.numpy()
        waiting = self._pool.apply_async(_inpaint, (*arrays, label, seed, num_draws))
        try:
            values = waiting.get(PATIENCE_S)
        except multiprocessing.TimeoutError as error:
            raise ValueError(f"The repair did not end within {PATIENCE_S} s. Take fewer draws.") from error
        return Repaired(**{name: _tensor(value) for name, value in values.items()})


def _load(checkpoint: Path, weights: str, dtype: str) -> None:
    global _model
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the page ends this process
    os.nice(10)
    torch.set_num_threads(1)
    use_exact_float32()
    _model = TrainedGlow(load_model(checkpoint, weights=weights, dtype=dtype))


def _inpaint(image: np.ndarray, is_missing: np.ndarray, label: int | None, seed: int, num_draws: int) -> dict[str, Any]:
    assert _model is not None
    found = inpaint(_model, torch.from_numpy(image), torch.from_numpy(is_missing), label, seed, num_draws)
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in values.items()}


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
