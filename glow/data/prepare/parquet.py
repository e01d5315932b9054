"""Tables of images in Parquet files, such as those of the data sets on the Hugging Face Hub."""

from __future__ import annotations

import json
import mmap
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from glow.console import Progress
from glow.data.images.decoding import decode, image_errors
from glow.data.prepare.base import Source, check_image_size
from glow.data.read.files import download, is_remote
from glow.data.read.labels import checked_label, class_names

SUFFIX = ".parquet"
IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp")
LABELS = ("label", "cls", "class")
ROWS = 64  # in memory at a time
COLUMN = "column:"


class ParquetSource(Source):
    """The images of Parquet files: a column of bytes, or of structs with ``bytes`` and ``path`` as ``datasets`` writes.

    The images are copied to a temporary file, which lives as long as the source.

    Args:
        spec: The text that the user typed.
        locations: The files, in order.
        label: ``column:NAME``, ``none``, or None for a column called label.
    """

    def __init__(self, spec: str, locations: Sequence[str], label: str | None) -> None:
        if label not in (None, "none") and not str(label).startswith(COLUMN):
            raise ValueError(f"label: {label!r}, but for {spec} choose column:NAME or none")
        folder = Path(tempfile.mkdtemp(prefix="glow-parquet-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.copy = str(folder / "images")
        self.spans: list[tuple[int, int]] = []
        names: list[str] = []
        labels: list[str] = []
        with Path(self.copy).open("wb") as stream, Progress(len(locations), "file") as progress:
            for number, location in enumerate(locations):
                path = location
                if is_remote(location):
                    path = str(folder / "table")
                    download(location, Path(path))
                for row, (content, text) in enumerate(rows_of(location, path, label)):
                    names.append(f"{Path(location).stem}/{row:06d}" if len(locations) > 1 else f"{row:06d}")
                    self.spans.append((stream.tell(), len(content)))
                    stream.write(content)
                    labels += [] if text is None else [text]
                progress.update(1)
                if labels and len(labels) != len(names):
                    raise ValueError(f"{location}: has no labels, but {locations[number - 1]} has")
        super().__init__(spec, names, names, class_names(labels) if labels else None)

    def load(self, index: int) -> Image.Image:
        """Read and decode one image."""
        name = self.location(index)
        offset, size = self.spans[index]
        check_image_size(name, size)
        with image_errors(name):
            return decode(name, self.handle[offset : offset + size])

    @cached_property
    def handle(self) -> mmap.mmap:
        """The memory-mapped images."""
        with Path(self.copy).open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def rows_of(location: str, path: str, label: str | None) -> Iterator[tuple[bytes, str | None]]:
    """Yield the bytes of each image of a file, and its label.

    Args:
        location: The file, for messages.
        path: Where it lies.
        label: As for ``ParquetSource``.

    Raises:
        ValueError: when it is damaged, or has no such columns; names the file and the row.
    """
    try:
        from pyarrow import parquet  # an optional dependency
    except ImportError as error:
        raise ValueError(f"{location}: Parquet needs pyarrow: pip install 'glow-flows[parquet]'") from error
    try:
        with Path(path).open("rb") as stream:
            yield from _rows(location, parquet.ParquetFile(stream), label, stream)
    except (ValueError, MemoryError) as error:
        if str(error).startswith(("label: ", location)):
            raise
        raise ValueError(f"{location}: not a readable Parquet file: {' '.join(str(error).split())}") from error
    except OSError as error:  # pyarrow's for damaged pages, too
        raise ValueError(f"{location}: cannot be read: {' '.join(str(error).split())}") from error


def _rows(location: str, table: Any, label: str | None, stream: BinaryIO) -> Iterator[tuple[bytes, str | None]]:
    schema = table.schema_arrow
    image = next((name for name in IMAGES if name in schema.names), None)
    if image is None:
        raise ValueError(
            f"{location}: has no column of images ({', '.join(IMAGES)}), but {', '.join(schema.names)[:200]}"
        )
    column = _label_column(location, schema.names, label)
    names = _names_of_classes(schema.metadata or {}, column)
    number = 0
    for batch in table.iter_batches(ROWS, columns=[image] + ([column] if column else [])):
        images = batch.column(image).to_pylist()
        labels = batch.column(column).to_pylist() if column else [None] * len(images)
        for value, text in zip(images, labels, strict=True):
            place = f"{location}: row {number}"
            content = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(content, bytes):
                raise ValueError(f"{place}: column {image} holds no bytes of an image")
            yield content, _text_of(place, text, names) if column else None
            number += 1


def _label_column(location: str, names: Sequence[str], label: str | None) -> str | None:
    if label == "none":
        return None
    if label is None:
        return next((name for name in LABELS if name in names), None)
    column = label.removeprefix(COLUMN)
    if column not in names:
        raise ValueError(f"label: {label!r}, but {location} has the columns {', '.join(names)[:200]}")
    return column


def _names_of_classes(metadata: dict[bytes, bytes], column: str | None) -> list[str]:
    """Return the names of the classes that the package ``datasets`` notes in a file; none if there are none."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _text_of(place: str, value: Any, names: Sequence[str]) -> str:
    if names and isinstance(value, int) and 0 <= value < len(names):
        value = names[value]
    return checked_label(place, value)
