"""Turn images into a sharded data set: ``python -m pipelines.prepare --source SRC --output data/NAME``."""

from __future__ import annotations

from collections.abc import Sequence

from glow.cli import parse_config, run_stage
from glow.config import PrepareRun
from glow.data.prepare.preview import describe_sources
from glow.data.prepare.writer import find_prepared, prepare
from glow.data.read.manifest import Dataset

NUM_SHOWN = 5


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare a data set and say what it holds; or say what it would hold."""
    config = parse_config(PrepareRun, argv, "prepare")
    if config.dry_run:
        print(describe_sources(config))
        return
    dataset = find_prepared(config)
    if dataset is not None:
        print("already prepared with these options; to prepare it again, give another --output")
    else:
        dataset = prepare(config)
    print(summary(dataset))
    print(config.output)


def summary(dataset: Dataset) -> str:
    """Describe a data set in a few lines."""
    splits = ", ".join(
        f"{name} {split.num_images} in {len(split.shards)} shard{'s' * (len(split.shards) != 1)}"
        for name, split in dataset.splits.items()
    )
    channels, *least = dataset.shape
    height, width = (f"{low}" for low in least)
    if dataset.largest:
        height, width = (f"{low} to {high}" for low, high in zip(least, dataset.largest, strict=True))
    count = len(dataset.classes or ())
    classes = f"{count} class{'es' * (count != 1)}" if count else "no labels"
    lines = [f"{dataset.name}: {channels} x {height} x {width}, {classes}; {splits}"]
    locations = [shard.location or "" for split in dataset.splits.values() for shard in split.shards]
    if any(location.startswith("/") for location in locations):
        lines.append("its shards lie outside of its folder: give train --data.root, and other stages GLOW_DATA_ROOT")
    if dataset.left_out:
        lines.append(f"left out: {len(dataset.left_out)} images (all are listed in dataset.json)")
        lines += [f"  {entry['name']}: {entry['reason']}" for entry in dataset.left_out[:NUM_SHOWN]]
    return "\n".join(lines)


if __name__ == "__main__":
    run_stage(main)
