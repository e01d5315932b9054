"""The images that an edit works on: files, or images of a prepared data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glow.console import track
from glow.data.read.reader import SplitReader
from glow.editing.reconstruct import likeliest_labels
from glow.evaluation.checks import check_shape
from glow.sampling.images import number_of_class
from glow.trained.images import TrainedGlow


@dataclass(frozen=True)
class Chosen:
    """Images, uint8 ``[N, C, H, W]``, their names, and the classes that the model takes or the data have, ``[N]``."""

    images: Tensor
    names: list[str]
    labels: Tensor | None

    def given_to(self, model: TrainedGlow) -> Tensor | None:
        """Return the labels, if the model takes them."""
        return self.labels if model.glow.num_classes else None


@dataclass(frozen=True)
class Data:
    """A prepared data set of images for a model.

    Attributes:
        model: The model.
        path: The data set.
        window: Height and width of the windows that the model was trained on; None for whole images.
    """

    model: TrainedGlow
    path: str
    window: int | None = None

    def open(self, split: str) -> SplitReader:
        """Open a split; raise a ValueError if there is none, or its images do not fit the model."""
        reader = SplitReader(self.path, split, size=self.window)
        check_shape(self.model.glow, reader.shape, self.path)
        return reader

    def read(self, split: str, numbers: Iterable[int] | None = None) -> Chosen:
        """Read images of a split by number; all by default.

        Raises:
            ValueError: when there is no such image, or the model needs labels and there are none.
        """
        reader = self.open(split)
        wanted = list(range(len(reader)) if numbers is None else numbers)
        beyond = [number for number in wanted if not 0 <= number < len(reader)]
        if beyond:
            raise ValueError(f"images: {beyond[0]}, but {self.path}:{split} has images 0 to {len(reader) - 1}")
        images, names, labels = [], [], []
        for start in track(range(0, len(wanted), 500), -(-len(wanted) // 500), "part", "reading"):
            samples = reader.read(wanted[start : start + 500])
            for number in wanted[start : start + 500]:
                images.append(torch.from_numpy(reader.decode(samples[number]).copy()))
                names.append(samples[number].key)
                labels.append(samples[number].label)
        if self.model.glow.num_classes and None in labels:
            raise ValueError(f"{self.path}: no labels, but the model is class_conditional")
        known = None if None in labels else torch.tensor(labels)
        return Chosen(torch.stack(images), names, known)

    def first(self, split: str, count: int | None) -> Chosen:
        """Read the first images of a split; all, if ``count`` is None or larger."""
        length = len(self.open(split))
        return self.read(split, range(min(length, count or length)))

    def classes(self, split: str) -> list[str]:
        """Return the names of the classes; raise a ValueError if the data set has none."""
        classes = self.open(split).dataset.classes
        if classes is None:
            raise ValueError(f"{self.path}: no labels; give two folders, positive and negative")
        return list(classes)


def choose(data: Data, split: str, texts: Sequence[str], label: int | str | None, default_count: int) -> Chosen:
    """Return the images that a user names: files, or numbers of images of a split; by default the first of the split.

    Raises:
        ValueError: for files and numbers together, or a label for images that have theirs.
    """
    model = data.model
    of_split = [text for text in texts if text.isascii() and text.isdigit()]
    if texts and not of_split:
        images = model.read_images(texts)
        number = number_of_class(label, model.classes)
        classes = likeliest_labels(model, images) if number is None else torch.full((len(images),), number)
        return Chosen(images, [text.rpartition("/")[2] for text in texts], classes)
    if len(of_split) < len(texts):
        raise ValueError("images: give files, or numbers of images of the split, and not both")
    if label is not None:
        raise ValueError(f"label: {label}, but images of a data set have labels; leave it out")
    return data.read(split, map(int, of_split)) if texts else data.first(split, default_count)
