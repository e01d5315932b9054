"""The first batches of a training, and what makes two batches the same."""

import itertools

import torch

from glow.config import DataConfig
from glow.data.read.loader import train_batches


def take(dataset, count, batch_size=10, images_seen=0, share=None, **config):
    """The first ``count`` batches of a training."""
    return list(
        itertools.islice(train_batches(DataConfig(str(dataset), **config), batch_size, 0, images_seen, share), count)
    )


def same(a, b):
    return (
        a.keys == b.keys
        and torch.equal(a.images, b.images)
        and torch.equal(a.noise, b.noise)
        and torch.equal(a.labels, b.labels)
    )
