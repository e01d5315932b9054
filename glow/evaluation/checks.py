"""Checks that images fit a model, and that their likelihoods are finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

from glow.data.read.manifest import Dataset
from glow.evaluation.likelihood import ImageScore
from glow.models.glow import Glow


def check_shape(model: Glow, dataset: Dataset, location: str, hint: str = "") -> None:
    """Raise a ValueError if the images have another shape than those of the model.

    Args:
        model: The model.
        dataset: The images.
        location: Where they lie, for the message.
        hint: What to do, for the end of the message.
    """
    if dataset.shape != model.image_shape:
        raise ValueError(
            f"{location}: images of shape {list(dataset.shape)}, but the model is for {list(model.image_shape)}{hint}"
        )


def check_classes(model: Glow, dataset: Dataset, location: str) -> None:
    """Raise a ValueError if the images have more classes than the model."""
    num_classes = len(dataset.classes or ())
    if model.num_classes and num_classes > model.num_classes:
        raise ValueError(f"{location}: {num_classes} classes, but the model has {model.num_classes}")


def check_finite(scores: Sequence[ImageScore], location: str) -> None:
    """Raise a ValueError if an image has no finite likelihood."""
    invalid = [image.key for image in scores if not math.isfinite(image.bits_per_dim)]
    if invalid:
        raise ValueError(
            f"{location}: {len(invalid)} of {len(scores)} images have no finite likelihood, the first is "
            f"{invalid[0]}; nothing is written"
        )
