"""Select the images of every split: join the sources, hold out images, shuffle, and name the samples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from glow.config import PrepareRun
from glow.data.prepare.base import Source
from glow.data.prepare.scanning import Linking
from glow.data.prepare.sources import open_source
from glow.randomness import generator

MAX_KEY_LENGTH = 80
SPLITS: tuple[str, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image: the number of its source, its index there, its key in the data set, its class index or None."""

    source: int
    index: int
    key: str
    label: int | None


@dataclass(frozen=True)
class Selection:
    """The sources of a data set, its class names (or None), and the samples of each split in their stored order."""

    sources: list[Source]
    classes: tuple[str, ...] | None
    splits: dict[str, list[Sample]]


def select_samples(config: PrepareRun, linking: Linking | None = None) -> Selection:
    """Open the sources and distribute their images over the splits.

    Args:
        config: The options.
        linking: How shards are indexed, if they are to be linked.

    Raises:
        ValueError: when a source cannot be used, only some sources have labels, or there are too few images.
    """
    held_out: dict[str, float | int | str | None] = {
        "test": parse_held_out("test", config.test),
        "validation": parse_held_out("validation", config.validation),
    }
    own = {split: value for split, value in held_out.items() if isinstance(value, str)}
    specs = [*config.source, *own.values()]
    sources = [open_source(spec, config.torchvision_root, config.download, config.label, linking) for spec in specs]
    classes = join_classes(sources, num_train=len(config.source))
    samples = name_samples(sources, classes)

    pool = [sample for sample in samples if sample.source < len(config.source)]
    order = generator(config.seed, "split").permutation(len(pool)).tolist()
    chosen: dict[str, list[Sample]] = {}
    for split, amount in held_out.items():
        if isinstance(amount, str):
            number = len(config.source) + list(own).index(split)
            chosen[split] = [sample for sample in samples if sample.source == number]
        elif amount is not None:
            count = round(amount * len(pool)) if isinstance(amount, float) else amount
            if count < 1:
                raise ValueError(f"{split}: {amount} of {len(pool)} images is not one image; give a count, such as 1")
            if count >= len(order):
                raise ValueError(
                    f"{split}: {count} images are asked for, but of {len(pool)} images {len(order)} are left, "
                    "at least one of them for train"
                )
            chosen[split] = [pool[position] for position in sorted(order[:count])]
            order = order[count:]
    chosen["train"] = [pool[position] for position in sorted(order)]
    splits = {split: shuffled(chosen[split], config.seed, split) for split in SPLITS if split in chosen}
    return Selection(sources, classes, splits)


def parse_held_out(name: str, text: str | None) -> float | int | str | None:
    """Parse what to hold out: a count, a fraction (with a dot), or a source of its own.

    Raises:
        ValueError: when a fraction is not in (0, 1) or a count is below 1.
    """
    if text is None:
        return None
    if re.fullmatch(r"[+-]?\d+", text):
        if int(text) < 1:
            raise ValueError(f"{name}: {text} is not allowed; a count is 1 or more")
        return int(text)
    if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE):
        if not 0 < float(text) < 1:
            raise ValueError(f"{name}: {text} is not allowed; a fraction lies between 0 and 1")
        return float(text)
    return text


def join_classes(sources: Sequence[Source], num_train: int) -> tuple[str, ...] | None:
    """Return the sorted class names of all sources, or None without labels.

    Raises:
        ValueError: when only some sources have labels, or a held-out source has a class that train has not.
    """
    without = [source.spec for source in sources if source.labels is None]
    if without and len(without) < len(sources):
        labelled = next(source.spec for source in sources if source.labels is not None)
        raise ValueError(f"{without[0]}: has no class folders or labels, but {labelled} has; join sources of one kind")
    if without:
        return None
    classes = {label for source in sources[:num_train] for label in source.labels or ()}
    for source in sources[num_train:]:
        unknown = sorted(set(source.labels or ()) - classes)
        if unknown:
            raise ValueError(f"{source.spec}: its classes {', '.join(unknown)} do not occur in the train images")
    return tuple(sorted(classes))


def name_samples(sources: Sequence[Source], classes: tuple[str, ...] | None) -> list[Sample]:
    """Return a sample for every image, each with a unique key."""
    numbers = {name: number for number, name in enumerate(classes or ())}
    samples = []
    taken: set[str] = set()
    next_suffix: dict[str, int] = {}
    for number, source in enumerate(sources):
        for index, name in enumerate(source.names):
            slug = key = slugify(name)
            while key in taken:
                suffix = f"-{next_suffix.setdefault(slug, 2)}"
                next_suffix[slug] += 1
                key = slug[: MAX_KEY_LENGTH - len(suffix)] + suffix
            taken.add(key)
            samples.append(Sample(number, index, key, None if source.labels is None else numbers[source.labels[index]]))
    return samples


def slugify(name: str) -> str:
    """Turn ``airplane/0001.png`` into ``airplane-0001``; of a long path, keep the end."""
    stem, _, extension = name.rpartition(".")
    return re.sub(r"[^A-Za-z0-9_-]", "-", name if "/" in extension or not stem else stem)[-MAX_KEY_LENGTH:]


def shuffled(samples: Sequence[Sample], seed: int, split: str) -> list[Sample]:
    """Return the samples of a split in a random order that depends on the seed and the split only."""
    return [samples[position] for position in generator(seed, "shuffle", split).permutation(len(samples)).tolist()]
