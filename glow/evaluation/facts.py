"""What bpd.json and scores.json say of the model, the data and the measurement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from glow.data.read.batch import Batch
from glow.data.read.reader import SplitReader
from glow.evaluation.likelihood import Bound, round_trip_error
from glow.execution.precision import compute_dtype_of
from glow.models.glow import Glow


def measurement_facts(model: Glow, bound: Bound, checkpoint: Mapping[str, Any], weights: str) -> dict[str, Any]:
    """Return what was measured, with which bound.

    Args:
        model: The model.
        bound: The bound.
        checkpoint: Path, step, sha256 of the weights, and precision of the training.
        weights: ``ema`` or ``raw``.
    """
    return {
        "checkpoint": checkpoint,
        "weights": weights,
        "dtype": compute_dtype_of(model),
        "num_dims": model.num_dims,
        "num_bits": model.config.num_bits,
        "class_conditional": model.config.class_conditional,
        "bound": bound.name,
        "num_noise_samples": bound.num_noise_samples,
        "seed": bound.seed,
    }


def model_facts(model: Glow) -> dict[str, Any]:
    """Return the size of a model, in the words of the paper: L levels of K steps, and the width of the networks."""
    return {
        "num_levels": model.config.num_levels,
        "num_steps_per_level": model.config.num_steps_per_level,
        "hidden_channels": model.config.hidden_channels,
        "coupling": model.config.coupling,
        "permutation": model.config.permutation,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def dataset_facts(reader: SplitReader, split: str | None) -> dict[str, Any]:
    """Return which images were measured.

    Args:
        reader: The images.
        split: The name of their split; None for images that are not a prepared data set.
    """
    return {
        "name": reader.dataset.name,
        "split": split,
        "num_images": reader.split.num_images,
        "sha256": reader.split.sha256,
        **({"decoder": reader.dataset.decoder} if reader.dataset.decoder else {}),
        **({"window": reader.size} if reader.size is not None else {}),
    }


def invertibility_facts(model: Glow, batch: Batch) -> dict[str, Any]:
    """Return how exactly ``decode`` undoes ``encode`` on a batch; None if the error is not finite."""
    error = round_trip_error(model, batch)
    return {"max_abs_error": error if math.isfinite(error) else None, "num_images": len(batch)}
