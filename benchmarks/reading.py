"""What it costs to read a training image: glow beside webdataset with Pillow.

``python benchmarks/reading.py data/cifar10`` reads the train split of a prepared data set in one process, in both ways
in turn, and prints CPU time an image: decoding, label, mirroring, shift, dequantisation noise, batches of 128.
"""

from __future__ import annotations

import argparse
import io
import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image

from glow.config import DataConfig
from glow.data.read.loader import train_batches
from glow.data.read.manifest import load_dataset

BATCH_SIZE, SHIFT = 128, 3


def ours(path: str) -> Iterator[Any]:
    """Batches of glow."""
    return train_batches(DataConfig(path, shift=SHIFT, flip=True), BATCH_SIZE, seed=0)


def theirs(path: str) -> Iterator[Any]:
    """The same work in a pipeline of webdataset: shuffled, decoded by Pillow, augmented with numpy."""
    shards = [str(Path(path) / shard.path) for shard in load_dataset(path).split("train").shards]
    rng = np.random.default_rng(0)

    def sample(png: bytes, cls: bytes) -> tuple[np.ndarray, np.ndarray, int]:
        image = np.asarray(Image.open(io.BytesIO(png)))
        image = image.reshape(*image.shape[:2], -1).transpose(2, 0, 1)
        if rng.random() < 0.5:
            image = image[:, :, ::-1]
        _, height, width = image.shape
        down, right = rng.integers(0, 2 * SHIFT, size=2, endpoint=True)
        padded = np.pad(image, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)), mode="edge")
        image = padded[:, down : down + height, right : right + width]
        return np.ascontiguousarray(image), rng.random(image.shape, dtype=np.float32), int(cls)

    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(1000).to_tuple("png", "cls")
    batches = dataset.map(lambda pair: sample(*pair)).batched(BATCH_SIZE, partial=False)
    while True:
        for images, noise, labels in batches:
            yield torch.as_tensor(images), torch.as_tensor(noise), torch.as_tensor(labels)


def main() -> None:
    """Measure both ways in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=60, help="a round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    contestants = {"glow": ours(options.data), "webdataset + Pillow": theirs(options.data)}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(options.rounds + 1):
        for name, batches in contestants.items():
            start = time.process_time()
            for _ in itertools.islice(batches, options.batches):
                pass
            if number:  # the first round warms up
                times[name].append((time.process_time() - start) / options.batches / BATCH_SIZE * 1e6)
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"{name}: {middle:.0f} us of CPU an image (quartiles {low:.0f} to {high:.0f})")


if __name__ == "__main__":
    main()
