"""What the stage edit writes of samples beside data: nearest neighbours and distances."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from glow.config import EditRun
from glow.data.read.manifest import load_dataset
from glow.editing.attributes import flatten
from glow.editing.choosing import Data
from glow.editing.classifier import (
    accuracy,
    classifier_bytes,
    features_of,
    load_classifier,
    packaged_classifier,
    train_classifier,
)
from glow.editing.distances import frechet, squared_mmd, with_error
from glow.editing.neighbours import nearest, share_nearer
from glow.editing.pictures import png_bytes, sheet
from glow.editing.tasks import Result, latents_of
from glow.evaluation.likelihood import Estimate
from glow.randomness import generator

NUM_SHOWN, NUM_NEAREST = 8, 4


def labels_of_samples(data: Data, count: int) -> Tensor | None:
    """Return the classes of samples, which take turns; None for a model without classes."""
    num_classes = data.model.glow.num_classes
    return torch.arange(count) % num_classes if num_classes else None


def write_neighbours(data: Data, config: EditRun) -> Result:
    """Find the training images nearest to samples, by pixels and by latents."""
    model = data.model
    train, test = data.first("train", None), data.first(config.split, config.num_images)
    samples = model.sample(len(test.images), temperature=config.temperature, seed=config.seed)
    drawn = flatten(model.encode(samples, labels=labels_of_samples(data, len(samples))))
    spaces = {
        "pixels": (samples.float() / 255, test.images.float() / 255, train.images.float() / 255),
        "latents": (drawn, latents_of(model, test), latents_of(model, train)),
    }
    facts: dict[str, Any] = {"num_samples": len(samples), "temperature": config.temperature, "split": config.split}
    files, lines = {}, []
    for space, (of_samples, of_test, reference) in spaces.items():
        found, usual = nearest(of_samples, reference, NUM_NEAREST), nearest(of_test, reference)
        share = share_nearer(found, usual)
        facts[space] = {
            "share_nearer_than_1_percent_of_test_images": share,
            "median_distance_of_samples": float(found.distances[:, 0].median()),
            "median_distance_of_test_images": float(usual.distances[:, 0].median()),
            "nearest": [train.names[number] for number in found.numbers[:, 0].tolist()],
        }
        rows = [[samples[i], *train.images[found.numbers[i]]] for i in range(min(NUM_SHOWN, len(samples)))]
        captions = [["", *(f"{d:.2f}" for d in found.distances[i].tolist())] for i in range(len(rows))]
        heads = ["sample", *(f"train {number + 1}" for number in range(NUM_NEAREST))]
        files[f"neighbours-{space}.png"] = png_bytes(sheet(rows, (), heads, captions))
        lines.append(f"{space}: {share:.1%} of samples have a training image nearer than 1% of the test images have")
    return Result(files, facts, lines)


def train_on(data: Data, config: EditRun) -> tuple[bytes, dict[str, Any]]:
    """Train the classifier of a data set; return the content of its file, and facts about it."""
    names = data.classes("train")
    train, test = data.first("train", None), data.first("test", None)
    assert train.labels is not None
    assert test.labels is not None
    model = train_classifier(train.images, train.labels, len(names), config.seed)
    dataset = load_dataset(data.path)
    facts: dict[str, Any] = {
        "data": dataset.name,
        "data_sha256": dataset.splits["train"].sha256,
        "num_images": len(train.images),
        "seed": config.seed,
        "test_accuracy": accuracy(model, test.images, test.labels),
    }
    return classifier_bytes(model, facts), facts


def write_quality(data: Data, config: EditRun) -> Result:
    """Measure kernel and Frechet distances of samples to a split, and between halves of the split as the floor.

    Raises:
        ValueError: when there is no classifier, or there are too few images.
    """
    model, name = data.model, load_dataset(data.path).name
    path = config.features or packaged_classifier(name)
    if path is None:
        raise ValueError(
            f"features: no classifier of {name} comes with glow; train one by edit --what classifier, and give its file"
        )
    classifier, trained = load_classifier(path, model.glow.image_shape)
    real = data.first(config.split, config.num_images)
    if len(real.images) < 40:
        raise ValueError(f"num_images: {len(real.images)} images of {config.split}; distances need 40 or more")
    samples = model.sample(len(real.images), temperature=config.temperature, seed=config.seed)
    x, y = features_of(classifier, samples), features_of(classifier, real.images)
    order = torch.from_numpy(generator(config.seed, "halves").permutation(len(y)))
    half = len(y) // 2
    first, second = y[order[:half]], y[order[half : 2 * half]]
    distances = {
        "squared_mmd": squared_mmd(x, y),
        "squared_mmd_of_halves": squared_mmd(first, second),
        "frechet": with_error(frechet, x, y),
        "frechet_of_half_the_samples": with_error(frechet, x[:half], first),
        "frechet_of_halves": with_error(frechet, first, second),
    }
    facts = {
        "features": {"file": str(path), **trained},
        "split": config.split,
        "num_images": len(y),
        "num_images_of_a_half": half,
        "temperature": config.temperature,
        **{key: asdict(value) for key, value in distances.items()},
    }
    lines = [
        f"squared MMD: samples {text(distances['squared_mmd'])}; halves of {config.split} "
        f"{text(distances['squared_mmd_of_halves'])}",
        f"Frechet distance, {half} images: samples {text(distances['frechet_of_half_the_samples'])}; halves of "
        f"{config.split} {text(distances['frechet_of_halves'])}",
        f"Frechet distance, {len(y)} images: samples {text(distances['frechet'])}",
    ]
    return Result({}, facts, lines)


def text(estimate: Estimate) -> str:
    """Return an estimate and its error."""
    return f"{estimate.mean:.4g} ± {estimate.standard_error:.2g}"
