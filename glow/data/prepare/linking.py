"""Write a linked data set: dataset.json, and the places of samples in shards that stay where they are."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from glow.config import PrepareRun
from glow.data.images.decoding import ImageForm, decoder_version
from glow.data.prepare.selection import Sample, Selection
from glow.data.prepare.webshards import ShardSample, ShardsSource
from glow.data.read.files import is_remote
from glow.data.read.index import LinkedRow, index_digest, index_path, write_linked_index
from glow.data.read.manifest import Dataset, Shard, Split, write_manifest
from glow.files.writing import sync


def write_linked(
    config: PrepareRun, selection: Selection, directory: Path, target: Path, preparation: dict[str, Any]
) -> Dataset:
    """Write a linked data set to ``directory``, which will be renamed to ``target``.

    Within a split, images stand in the order of the shards.
    """
    height, width = (config.size, config.size) if isinstance(config.size, int) else config.size or (0, 0)
    form = ImageForm(config.color == "grey", height, width, resizes=True, recolors=True)
    splits = {}
    for split, samples in selection.splits.items():
        by_shard: dict[tuple[int, int], list[tuple[ShardSample, Sample]]] = defaultdict(list)
        for sample in samples:
            source = selection.sources[sample.source]
            assert isinstance(source, ShardsSource)
            number, found = source.samples[sample.index]
            by_shard[sample.source, number].append((found, sample))
        shards: list[Shard] = []
        for (source_number, number), members in sorted(by_shard.items()):
            source = selection.sources[source_number]
            assert isinstance(source, ShardsSource)
            rows = [
                LinkedRow(sample.key, *found.file, sample.label, found.checksum or 0)
                for found, sample in sorted(members, key=lambda pair: pair[0].file.offset)
            ]
            path = directory / f"{split}-{len(shards):05d}.tar"
            content = write_linked_index(index_path(path), rows)
            scan = source.scans[number]
            assert scan.sha256 is not None
            place = location_of(source.locations[number], target)
            digest = index_digest(form.shape, content)
            shards.append(Shard(path.name, len(rows), scan.num_bytes, scan.sha256, place, digest))
        splits[split] = Split.of(shards)
    dataset = Dataset(
        name=target.name,
        shape=form.shape,
        bit_depth=8,
        classes=selection.classes,
        splits=splits,
        preparation=preparation,
        decoder=decoder_version(),
    )
    write_manifest(directory, dataset)
    sync(directory)
    return dataset


def location_of(location: str, target: Path) -> str:
    """Return what dataset.json says of the place of a shard: a URL, a path below the data set, or an absolute path."""
    if is_remote(location):
        return location
    path = Path(location).resolve()
    return str(path.relative_to(target) if path.is_relative_to(target) else path)
