"""Write a linked data set: dataset.json, and the places of samples in shards that stay where they are."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from glow.config import PrepareRun
from glow.data.images.decoding import decoder_version, scaled_size
from glow.data.prepare.scanning import ShardSample
from glow.data.prepare.selection import Sample, Selection
from glow.data.prepare.webshards import ShardsSource
from glow.data.read.files import is_remote
from glow.data.read.manifest import Dataset, Shard, Split, form_text, size_range, write_manifest
from glow.data.read.samples import SampleRow, SamplesWriter
from glow.files.writing import sync


def write_linked(
    config: PrepareRun, selection: Selection, directory: Path, target: Path, preparation: dict[str, Any]
) -> Dataset:
    """Write a linked data set to ``directory``, which will be renamed to ``target``.

    Within a split, images stand in the order of the shards.
    """
    least, largest = _size_range(config, selection)
    shape = (1 if config.color == "grey" else 3, *least)
    splits = {}
    for split, samples in selection.splits.items():
        by_shard: dict[tuple[int, int], list[tuple[ShardSample, Sample]]] = defaultdict(list)
        for sample in samples:
            source = selection.sources[sample.source]
            assert isinstance(source, ShardsSource)
            number, found = source.samples[sample.index]
            by_shard[sample.source, number].append((found, sample))
        shards: list[Shard] = []
        path, form = directory / f"{split}.samples", form_text(shape, largest, config.short_side)
        with SamplesWriter(path, form) as writer:
            for (source_number, number), members in sorted(by_shard.items()):
                source = selection.sources[source_number]
                assert isinstance(source, ShardsSource)
                members.sort(key=lambda pair: pair[0].file.offset)
                writer.add(
                    [
                        SampleRow(sample.key, found.file.offset, found.file.size, found.checksum, sample.label)
                        for found, sample in members
                    ]
                )
                scan = source.scans[number]
                assert scan.sha256 is not None
                name, place = f"{split}-{len(shards):05d}.tar", location_of(source.locations[number], target)
                shards.append(Shard(name, len(members), scan.num_bytes, scan.sha256, place))
            splits[split] = Split.of(shards, writer.finish())
    dataset = Dataset(
        name=target.name,
        shape=shape,
        largest=largest,
        short_side=config.short_side,
        bit_depth=8,
        classes=selection.classes,
        splits=splits,
        preparation=preparation,
        decoder=decoder_version(),
    )
    write_manifest(directory, dataset)
    sync(directory)
    return dataset


def _size_range(config: PrepareRun, selection: Selection) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Return the least height and width of the images as they will be read, and the greatest if they are others."""
    if config.short_side is None:
        assert config.size is not None
        return (config.size, config.size) if isinstance(config.size, int) else config.size, None
    found = {
        sample.size
        for source in selection.sources
        if isinstance(source, ShardsSource)
        for _, sample in source.samples
        if sample.size is not None
    }
    if not found:
        raise ValueError(f"{config.source[0]}: of no image the size can be read")
    return size_range({scaled_size(*size, config.short_side) for size in found})


def location_of(location: str, target: Path) -> str:
    """Return what dataset.json says of the place of a shard: a URL, a path below the data set, or an absolute path."""
    if is_remote(location):
        return location
    path = Path(location).resolve()
    return str(path.relative_to(target) if path.is_relative_to(target) else path)
