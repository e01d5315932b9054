"""A small classifier of a data set's own labels, whose features compare sets of images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from glow.files.limits import Limit
from glow.files.reading import parse_json, read_file
from glow.files.schema import from_plain
from glow.randomness import generator

NUM_FEATURES = 64
PACKAGED = {"digits": "digits.safetensors"}  # by the name of the data set
CLASSIFIER_BYTES = Limit("GLOW_MAX_CLASSIFIER_BYTES", 2**24, "bytes")


class Classifier(nn.Module):
    """Three convolutions, means over quarters of the image, a layer of 64 features, and the classes.

    Args:
        num_channels: Of the images.
        num_classes: Number of classes.
    """

    scale: Tensor

    def __init__(self, num_channels: int, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(num_channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
        )
        self.squeeze = nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, NUM_FEATURES), nn.ReLU())
        self.head = nn.Linear(NUM_FEATURES, num_classes)
        self.register_buffer("scale", torch.ones(()))

    def features(self, images: Tensor) -> Tensor:
        """Return the features ``[N, 64]`` of uint8 images ``[N, C, H, W]``, with a mean square of 1 in training."""
        x = self.body(images.float() / 127.5 - 1)
        return self.squeeze(nn.functional.adaptive_avg_pool2d(x, 2)) / self.scale

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the classes, ``[N, classes]``."""
        return self.head(self.features(images))


def train_classifier(
    images: Tensor, labels: Tensor, num_classes: int, seed: int = 0, num_epochs: int = 40
) -> Classifier:
    """Train a classifier of uint8 images ``[N, C, H, W]`` by Adam, in batches of 64, its learning rate falling to 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(images.shape[1], num_classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, num_epochs)
    for epoch in range(num_epochs):
        order = torch.from_numpy(generator(seed, "classifier", epoch).permutation(len(images)))
        for rows in order.split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    scale = features_of(model, images).square().mean().sqrt()
    with torch.no_grad():  # the classes stay as they are
        model.head.weight.mul_(scale)
        model.scale.copy_(scale)
    return model.eval()


@torch.no_grad()
def features_of(model: Classifier, images: Tensor) -> Tensor:
    """Return the features ``[N, 64]`` of uint8 images ``[N, C, H, W]``, 256 at a time."""
    return torch.cat([model.features(part) for part in images.split(256)])


@torch.no_grad()
def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    """Return the share of images whose class is found."""
    right = [model(part).argmax(1) == truth for part, truth in zip(images.split(256), labels.split(256), strict=True)]
    return float(torch.cat(right).double().mean())


def classifier_bytes(model: Classifier, facts: dict[str, Any]) -> bytes:
    """Return the content of a file of a classifier: safetensors, with facts about its training."""
    return save({name: value.contiguous() for name, value in model.state_dict().items()}, {"facts": json.dumps(facts)})


def packaged_classifier(name: str) -> Path | None:
    """Return the file of the classifier that comes with glow for a data set of this name; None if there is none."""
    return Path(str(files("glow.editing") / PACKAGED[name])) if name in PACKAGED else None


def load_classifier(path: str | Path, image_shape: Sequence[int]) -> tuple[Classifier, dict[str, Any]]:
    """Read a classifier, and the facts about its training.

    Raises:
        ValueError: when the file is missing or damaged, or it is for other images.
    """
    try:
        tensors = load(read_file(path, CLASSIFIER_BYTES))
        with safe_open(path, framework="pt") as file:
            facts = parse_json((file.metadata() or {}).get("facts", "{}"), str(path))
    except SafetensorError as error:
        raise ValueError(f"{path}: not a classifier, or damaged: {error}") from error
    head = tensors.get("head.bias")
    model = Classifier(image_shape[0], 1 if head is None else head.numel())
    expected = {name: value.shape for name, value in model.state_dict().items()}
    if {name: value.shape for name, value in tensors.items()} != expected:
        raise ValueError(
            f"{path}: not a classifier of images of {image_shape[0]} channels; train one with --what classifier"
        )
    model.load_state_dict(tensors)
    return model.eval(), from_plain(dict[str, Any], facts, f"{path}: facts")
