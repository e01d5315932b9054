"""Shards that somebody else wrote: tars in the layout of WebDataset, of which the files of one sample share a key."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import mmap
import shutil
import tempfile
import warnings
import weakref
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL import Image

from glow.console import Progress
from glow.data.images.decoding import EXTENSIONS, decode, image_errors
from glow.data.prepare.base import NUM_KINDS, Source, check_image_size
from glow.data.prepare.files import check_member, tar_members
from glow.data.read.files import copy, is_remote
from glow.data.read.labels import MAX_JSON_BYTES, LabelRule, class_names

NUM_READERS = 4  # shards that are fetched at a time
MAX_OPEN = 64


class File(NamedTuple):
    """A file in a tar: its name there, offset and size in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class ShardSample:
    """An image in a shard: its key there, its file, its label if there is one.

    ``checksum`` is the CRC-32 of the file, where it was asked for.
    """

    key: str
    file: File
    label: str | None
    checksum: int | None = None


@dataclass(frozen=True)
class Scan:
    """What one shard holds.

    Attributes:
        samples: The samples with an image.
        unused: Files that are not read, by extension.
        without_image: Keys of the samples without an image.
        keys_of_json: Keys of the first ``.json``, where no label is taken from it.
        num_bytes: Size of the shard.
        sha256: Its checksum, where it was asked for.
    """

    samples: list[ShardSample]
    unused: Counter[str]
    without_image: list[str]
    keys_of_json: tuple[str, ...]
    num_bytes: int
    sha256: str | None


class ShardsSource(Source):
    """The images of shards in the layout of WebDataset.

    Shards of servers and object stores are copied to a temporary directory, which lives as long as the source. If they
    are to be linked, the copies are removed one by one, and images cannot be loaded.

    Args:
        spec: The text that the user typed.
        locations: The shards, in order.
        rule: Where labels are.
        links: Whether the shards are to be linked: checksums are taken.
    """

    def __init__(self, spec: str, locations: Sequence[str], rule: LabelRule, links: bool = False) -> None:
        self.locations = list(locations)
        self.copies = list(self.locations)
        self.links = links
        self.scans = scans = self._scan(rule)
        samples = [(number, sample) for number, scan in enumerate(scans) for sample in scan.samples]
        self.samples = samples
        names = [sample.file.name for _, sample in samples]
        super().__init__(spec, names, names, labels_of(spec, [sample for _, sample in samples], rule))
        _warn_of_unused(spec, scans, len(samples), has_labels=self.labels is not None)

    def _scan(self, rule: LabelRule) -> list[Scan]:
        if any(map(is_remote, self.locations)):
            folder = Path(tempfile.mkdtemp(prefix="glow-shards-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

        def scan(number: int) -> Scan:
            location = self.locations[number]
            if is_remote(location):
                path = folder / f"{number}.tar"
                copy(location, path)
                self.copies[number] = str(path)
            scan = scan_shard(location, self.copies[number], rule, self.links)
            if self.links and is_remote(location):
                Path(self.copies[number]).unlink()
            return scan

        importlib.import_module("webdataset.tariterators")  # slow, so before the bar
        scans = []
        with Progress(len(self.locations), "shard") as progress, ThreadPoolExecutor(NUM_READERS) as pool:
            for result in pool.map(scan, range(len(self.locations))):
                scans.append(result)
                progress.update(1)
        return scans

    def location(self, index: int) -> str:
        """Return the name of an image for messages."""
        number, sample = self.samples[index]
        return f"{self.locations[number]}: {sample.file.name}"

    def load(self, index: int) -> Image.Image:
        """Read and decode one image."""
        with image_errors(self.location(index)):
            return decode(self.location(index), self.read(index))

    def read(self, index: int) -> bytes:
        """Return the content of one file."""
        number, sample = self.samples[index]
        file = sample.file
        check_image_size(self.location(index), file.size)
        return self._open(number)[file.offset : file.offset + file.size]

    @cached_property
    def _opened(self) -> dict[int, mmap.mmap]:
        return {}

    def _open(self, number: int) -> mmap.mmap:
        if number not in self._opened:
            if len(self._opened) >= MAX_OPEN:
                self._opened.pop(next(iter(self._opened))).close()
            with Path(self.copies[number]).open("rb") as stream:
                self._opened[number] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        return self._opened[number]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name not in ("_opened", "scans")}


def scan_shard(location: str, path: str, rule: LabelRule, takes_checksums: bool = False) -> Scan:
    """Read the headers of a shard, and the labels.

    Args:
        location: The shard, for messages.
        path: The file that holds it.
        rule: Where labels are.
        takes_checksums: Whether to read all of it, for checksums of the shard and of each image.

    Raises:
        ValueError: when the shard is damaged or hostile, holds a file twice, or a label cannot be used; names the file.
    """
    samples, without_image, unused = [], [], Counter[str]()
    keys_of_json: tuple[str, ...] = ()
    with Path(path).open("rb") as stream:
        for key, members in grouped(location, files_of(location, path)):
            images = [extension for extension in members if f".{extension.rpartition('.')[2]}" in EXTENSIONS]
            used = {images[0]} if images else set()
            label = key.partition("/")[0] if rule.kind == "folder" and "/" in key else None
            if images and rule.member in members:
                used.add(str(rule.member))
                file = members[str(rule.member)]
                name = f"{location}: {file.name}"
                if file.size > MAX_JSON_BYTES:
                    raise ValueError(f"{name}: {file.size} bytes, too many for a label")
                stream.seek(file.offset)
                label = rule.find(name, stream.read(file.size))
            if images:
                checksum = _checksum(stream, members[images[0]]) if takes_checksums else None
                samples.append(ShardSample(key, members[images[0]], label, checksum))
                if not keys_of_json and "json" in members and "json" not in used:
                    keys_of_json = _keys_of_json(stream, members["json"])
            else:
                without_image.append(key)
            unused.update(extension for extension in members if extension not in used)
        num_bytes = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest() if takes_checksums else None
    return Scan(samples, unused, without_image, keys_of_json, num_bytes, sha256)


def files_of(location: str, path: str) -> Iterator[File]:
    """Yield the files of a shard.

    Raises:
        ValueError: when a member leaves the archive, or is a link.
    """
    for member in tar_members(location, path):
        check_member(location, member.name)
        if member.issym() or member.islnk() or member.issparse():
            raise ValueError(
                f"{location}: member {member.name!r} is a link or a sparse file; pack the files themselves"
            )
        if member.isreg():
            yield File(member.name, member.offset_data, member.size)


def grouped(location: str, files: Iterable[File]) -> Iterator[tuple[str, Mapping[str, File]]]:
    """Yield the key of each sample, and its files by extension: neighbours that share a key.

    Raises:
        ValueError: when a sample holds two files of one extension.
    """
    from webdataset.tariterators import group_by_keys  # slow to import

    named = ({"fname": file.name, "data": file, "__url__": location} for file in files)
    try:
        for sample in group_by_keys(named):
            yield sample["__key__"], {name: file for name, file in sample.items() if not name.startswith("__")}
    except ValueError as error:
        if "duplicate file name" not in str(error):
            raise
        name = str(error.args[0]).partition(": duplicate")[0]
        raise ValueError(f"{location}: member {name!r} is there twice") from error


def labels_of(spec: str, samples: Sequence[ShardSample], rule: LabelRule) -> list[str] | None:
    """Return the names of the classes of samples, or None without labels.

    Raises:
        ValueError: when some samples have a label and others have not, or none has one that was asked for.
    """
    if rule.kind == "none":
        return None
    labels = [sample.label for sample in samples if sample.label is not None]
    without = next((sample.key for sample in samples if sample.label is None), None)
    if without is None:
        return class_names(labels)
    if not labels and rule.kind is None:
        return None
    kind = {"folder": "folder", "json": ".json"}.get(str(rule.kind), ".cls")
    raise ValueError(
        f"{spec}: {len(samples) - len(labels)} of {len(samples)} images have no {kind} for a label, such as "
        f"{without!r}; --label none leaves labels out"
    )


def _checksum(stream: BinaryIO, file: File) -> int:
    stream.seek(file.offset)
    return zlib.crc32(stream.read(file.size))


def _keys_of_json(stream: BinaryIO, file: File) -> tuple[str, ...]:
    stream.seek(file.offset)
    try:
        value = json.loads(stream.read(min(file.size, MAX_JSON_BYTES)))
    except (ValueError, RecursionError):
        return ()
    return tuple(map(str, value)) if isinstance(value, dict) else ()


def _warn_of_unused(spec: str, scans: Sequence[Scan], num_images: int, has_labels: bool) -> None:
    """Say once what is not read of the shards."""
    unused = sum((scan.unused for scan in scans), Counter[str]())
    keys = [key for scan in scans for key in scan.without_image]
    if unused:
        common = unused.most_common()
        shown = [f"{count} .{kind}"[:40] for kind, count in common[:NUM_KINDS]]
        more = sum(count for _, count in common[NUM_KINDS:])
        text = f"{spec}: beside {num_images} images, these files are not read: "
        text += ", ".join(shown + [f"{more} more"] * (more > 0))
        names = next((scan.keys_of_json for scan in scans if scan.keys_of_json), ())
        if names and not has_labels:
            text += f"; --label json:KEY takes labels from the .json files, which have {', '.join(names[:12])[:200]}"
        warnings.warn(text, stacklevel=2)
    if keys:
        warnings.warn(
            f"{spec}: {len(keys)} samples have no image, such as {keys[0]!r}; the files of a sample must be neighbours "
            "in the tar",
            stacklevel=2,
        )
