"""Whether a model is known without its data set."""

from __future__ import annotations

from glow.config import ModelConfig


def is_known(model: ModelConfig) -> bool:
    """Return whether the shape of the images, and the number of classes if there are any, are given."""
    return _missing(model) is None


def unknown_model(model: ModelConfig, error: Exception) -> ValueError:
    """Return the error for a model that is not known and has no data set; ``error`` says why there is none."""
    name = _missing(model)
    example = "'[3, 64, 64]'" if name == "image_shape" else "10"
    return ValueError(
        f"model.{name} is not set; give it, as in {example}, or the data.path of a prepared data set ({error})"
    )


def _missing(model: ModelConfig) -> str | None:
    if model.image_shape is None:
        return "image_shape"
    return "num_classes" if model.class_conditional and not model.num_classes else None
