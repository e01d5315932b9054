"""What a shard that somebody else wrote holds: its samples, their labels, and checksums if it is to be linked."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from glow.data.images.decoding import EXTENSIONS, stored_size
from glow.data.prepare.base import check_image_size
from glow.data.prepare.files import check_member, tar_members
from glow.data.read.files import is_remote, read_part, size_of
from glow.data.read.labels import MAX_JSON_BYTES, LabelRule
from glow.files.writing import write_whole

BUFFER_BYTES = 2**16  # asked for at once, where headers alone are read
Checksum = Literal["full", "headers"]


class File(NamedTuple):
    """A file in a tar: its name there, offset and size in bytes."""

    name: str
    offset: int
    size: int


class ShardSample(NamedTuple):
    """An image in a shard: its key there, its file, its label if there is one.

    ``checksum`` is the CRC-32 of the file, and ``size`` its height and width, where they were asked for.
    """

    key: str
    file: File
    label: str | None
    checksum: int | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Scan:
    """What one shard holds.

    Attributes:
        samples: The samples with an image.
        unused: Files that are not read, by extension.
        without_image: Keys of the samples without an image.
        keys_of_json: Keys of the first ``.json``, where no label is taken from it.
        num_bytes: Size of the shard.
        sha256: Its checksum, where it was asked for: of all bytes, or of the places of the samples.
    """

    samples: list[ShardSample]
    unused: Counter[str]
    without_image: list[str]
    keys_of_json: tuple[str, ...]
    num_bytes: int
    sha256: str | None


@dataclass(frozen=True)
class Linking:
    """How shards are indexed that stay where they are.

    Attributes:
        checksum: Whether every byte is read, or headers alone.
        folder: Where the scans of single shards are kept, so that an interrupted indexing goes on.
    """

    checksum: Checksum
    folder: Path

    def kept(self, location: str, rule: LabelRule) -> Path:
        """Return the file of the scan of a shard; a changed file on disk has another."""
        facts: tuple[Any, ...] = (location, self.checksum, *astuple(rule))
        if not is_remote(location):
            stat = Path(location).stat()
            facts += (str(Path(location).resolve()), stat.st_size, stat.st_mtime_ns)
        return self.folder / f"{hashlib.sha256(repr(facts).encode()).hexdigest()}.json"


def read_scan(path: Path) -> Scan | None:
    """Return a scan that was kept; None if there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        raw = json.loads(path.read_bytes())
        samples = [
            ShardSample(key, File(*file), label, checksum, None if size is None else tuple(size))
            for key, file, label, checksum, size in raw.pop("samples")
        ]
        unused, keys_of_json = Counter(raw.pop("unused")), tuple(raw.pop("keys_of_json"))
        return Scan(samples=samples, unused=unused, keys_of_json=keys_of_json, **raw)
    return None


def keep_scan(path: Path, scan: Scan) -> None:
    """Keep a scan."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(scan.__dict__))


class RemoteFile(io.RawIOBase):
    """A file on a server or in an object store, read part by part where it is needed."""

    def __init__(self, location: str) -> None:
        self.location, self.position = location, 0
        self.size = size_of(location)

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position."""
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        """Read bytes at the position."""
        end = min(self.position + len(buffer), self.size)
        if end <= self.position:
            return 0
        data, _ = read_part(self.location, self.position, end)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def open_file(path: str) -> io.BufferedReader:
    """Open a file on disk, or one of a server, to be read at any place."""
    return io.BufferedReader(RemoteFile(path), BUFFER_BYTES) if is_remote(path) else Path(path).open("rb")


def scan_shard(location: str, path: str, rule: LabelRule, checksum: Checksum | None = None) -> Scan:
    """Read the headers of a shard, and the labels.

    Args:
        location: The shard, for messages.
        path: The file that holds it, or its URL.
        rule: Where labels are.
        checksum: Whether to take checksums of the shard and of each image (full), or of the headers. None: no checksum.

    Raises:
        ValueError: when the shard is damaged or hostile, holds a file twice, or a label cannot be used; names the file.
    """
    samples, without_image, unused = [], [], Counter[str]()
    keys_of_json: tuple[str, ...] = ()
    digest = hashlib.sha256()
    with open_file(path) as stream, open_file(path) as headers:
        for key, members in grouped(location, _with_keys(files_of(location, headers), unused)):
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
                image = members[images[0]]
                if checksum is not None:  # what is linked is decoded later, without a second look
                    check_image_size(f"{location}: {image.name}", image.size)
                if checksum is not None and not image.size:
                    raise ValueError(f"{location}: {image.name}: has no bytes")
                facts = _facts_of(stream, image) if checksum == "full" else (None, None)
                samples.append(ShardSample(key, image, label, *facts))
                if checksum == "headers":
                    digest.update(f"{image!r} {label!r}\n".encode())
                if not keys_of_json and "json" in members and "json" not in used:
                    keys_of_json = _keys_of_json(stream, members["json"])
            else:
                without_image.append(key)
            unused.update(extension for extension in members if extension not in used)
        num_bytes = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        if checksum == "full":
            digest = hashlib.file_digest(stream, "sha256")
    sha256 = digest.hexdigest() if checksum else None
    return Scan(samples, unused, without_image, keys_of_json, num_bytes, sha256)


def _with_keys(files: Iterable[File], unused: Counter[str]) -> Iterator[File]:
    """Yield the files that belong to a sample; count hidden ones, and those without an extension."""
    for file in files:
        name = file.name.rpartition("/")[2]
        if name.startswith(".") or "." not in name:
            unused["hidden" if name.startswith(".") else "without an extension"] += 1
        else:
            yield file


def files_of(location: str, stream: BinaryIO) -> Iterator[File]:
    """Yield the files of a shard.

    Raises:
        ValueError: when a member leaves the archive, or is a link.
    """
    for member in tar_members(location, stream):
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


def _facts_of(stream: BinaryIO, file: File) -> tuple[int, tuple[int, int] | None]:
    """Return the checksum of an image, and its height and width if its header can be read."""
    stream.seek(file.offset)
    content = stream.read(file.size)
    return zlib.crc32(content), stored_size(content)


def _keys_of_json(stream: BinaryIO, file: File) -> tuple[str, ...]:
    stream.seek(file.offset)
    try:
        value = json.loads(stream.read(min(file.size, MAX_JSON_BYTES)))
    except (ValueError, RecursionError):
        return ()
    return tuple(map(str, value)) if isinstance(value, dict) else ()
