"""Checks that images fit a model, and that their likelihoods are finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

from glow.data.read.manifest import Dataset
from glow.evaluation.likelihood import ImageScore
from glow.models.glow import Glow


def check_shape(model: Glow, shape: tuple[int, int, int], location: str, hint: str = "") -> None:
    """Raise a ValueError if the images have another shape than those of the model.

    Args:
        model: The model.
        shape: Channels, height, width of the images.
        location: Where they lie, for the message.
        hint: What to do, for the end of the message.
    """
    if shape != model.image_shape:
        raise ValueError(
            f"{location}: images of shape {list(shape)}, but the model is for {list(model.image_shape)}{hint}"
        )


def check_classes(model: Glow, trained: Sequence[str] | None, dataset: Dataset, location: str) -> None:
    """Raise a ValueError if the images have classes that a class-conditional model does not have.

    Args:
        model: The model.
        trained: The names of its classes, as far as they are known.
        dataset: The images.
        location: Where they lie, for the message.
    """
    if not model.num_classes:
        return
    num_classes = len(dataset.classes or ())
    if num_classes > model.num_classes:
        raise ValueError(f"{location}: {num_classes} classes, but the model has {model.num_classes}")
    check_class_names(trained, dataset.classes, location)


def check_class_names(trained: Sequence[str] | None, found: Sequence[str] | None, location: str) -> None:
    """Raise a ValueError if a class of the images has another name than that class of the model.

    Args:
        trained: Names of the classes that a model was trained on; None if they are not known.
        found: Names of the classes of the images; None without classes.
        location: Where the images lie, for the message.
    """
    for number, (before, now) in enumerate(zip(trained or (), found or (), strict=False)):
        if before != now:
            raise ValueError(
                f"{location}: class {number} is {now!r}, but the model was trained with {before!r} as class {number}; "
                "use images with the classes of the training"
            )


def check_finite(scores: Sequence[ImageScore], location: str) -> None:
    """Raise a ValueError if an image has no finite likelihood."""
    invalid = [image.key for image in scores if not math.isfinite(image.bits_per_dim)]
    if invalid:
        raise ValueError(
            f"{location}: {len(invalid)} of {len(scores)} images have no finite likelihood, the first is "
            f"{invalid[0]}; nothing is written"
        )
