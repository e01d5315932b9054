"""Where a sample lies in a shard, and how its bytes become a sample."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NamedTuple

BLOCK = 512  # of a tar: a header stands before each file
NAME_BYTES = 100  # of a name in a header; the end of a longer one stands elsewhere


@dataclass(frozen=True)
class Sample:
    """One image as stored in a shard: its key, the bytes of its file, and the text of its label (empty: no label)."""

    key: str
    png: bytes
    cls: bytes

    @property
    def label(self) -> int | None:
        """The index of the class, or None without a label."""
        return int(self.cls) if self.cls else None


class Place(NamedTuple):
    """The place of a sample in the index of a split: its number and key, offset and size of its image file in the tar.

    The index has the class, and the CRC-32 of the image file unless the shards were linked by their headers alone.
    """

    number: int
    key: str
    offset: int
    size: int
    checksum: int | None
    label: int | None

    @property
    def start(self) -> int:
        """The first byte to read."""
        return self.offset

    @property
    def end(self) -> int:
        """The byte after the last one to read."""
        return self.offset + self.size

    def sample(self, data: bytes, start: int) -> Sample | None:
        """Return the sample, from the bytes of a tar from ``start`` on; None when these do not hold it."""
        content = data[self.offset - start : self.end - start]
        if self.checksum is not None and zlib.crc32(content) != self.checksum:
            return None
        return Sample(self.key, content, b"" if self.label is None else str(self.label).encode())


class TextPlace(NamedTuple):
    """The place of a sample in the index of text of a shard; it has no checksum, but the place of the label.

    A size of 0 means no label.
    """

    number: int
    key: str
    offset: int
    size: int
    label_offset: int
    label_size: int

    @property
    def start(self) -> int:
        """The first byte to read: that of a header."""
        return max(0, (min(self.offset, self.label_offset) if self.label_size else self.offset) - BLOCK)

    @property
    def end(self) -> int:
        """The byte after the last one to read."""
        return max(self.offset + self.size, self.label_offset + self.label_size)

    def sample(self, data: bytes, start: int) -> Sample | None:
        """Return the sample, from the bytes of a tar from ``start`` on; None when the headers there name another."""
        png, cls = self.offset - start, self.label_offset - start
        if not is_member(data, png, f"{self.key}.png".encode()):
            return None
        if self.label_size and not is_member(data, cls, f"{self.key}.cls".encode()):
            return None
        label = data[cls : cls + self.label_size] if self.label_size else b""
        return Sample(self.key, data[png : png + self.size], label)


def is_member(data: bytes, start: int, name: bytes) -> bool:
    """Return whether a file of this name begins at ``start`` of a part of a tar, by the header before it."""
    header = data[max(0, start - BLOCK) : start]
    found, prefix = header[:NAME_BYTES].rstrip(b"\0"), header[345:500].rstrip(b"\0")
    return name in (found, prefix + b"/" + found) or (len(found) == NAME_BYTES and name.startswith(found))
