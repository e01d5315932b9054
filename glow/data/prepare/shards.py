"""Write shards, in one process or several: tars of PNGs and labels, each with an index."""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import os
import signal
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO

from glow.data.images.decoding import HAS_PAGES, ImageError, ImageForm
from glow.data.prepare.selection import Sample, Selection
from glow.data.read.index import index_path, write_index
from glow.data.read.manifest import Shard
from glow.data.read.samples import SampleRow
from glow.data.read.workers import worker_count

# A Unix socket takes a path of 107 bytes, of which multiprocessing needs about 35 for the names in TMPDIR.
MAX_TMPDIR_BYTES = 70
Members = list[tuple[str, int, int, str]]  # of one sample, as the index has them


@dataclass
class WrittenShard:
    """The result of writing one shard; ``shard`` is None when every image was left out.

    ``with_pages`` are the names of the images of which further pages or frames were not read, ``sizes`` the heights and
    widths that occur, ``rows`` the samples.
    """

    split: str
    num_samples: int
    shard: Shard | None = None
    left_out: list[dict[str, str]] = field(default_factory=list)
    with_pages: list[str] = field(default_factory=list)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    rows: list[SampleRow] = field(default_factory=list)


@dataclass(frozen=True)
class ShardWriter:
    """Writes single shards of a data set; every process writes the same bytes."""

    selection: Selection
    form: ImageForm
    directory: Path
    shard_size: int
    skips: bool

    def shards(self) -> list[tuple[str, int]]:
        """Return split and number of all shards."""
        return [
            (split, number)
            for split, samples in self.selection.splits.items()
            for number in range(-(-len(samples) // self.shard_size))
        ]

    def write(self, split: str, number: int) -> WrittenShard:
        """Write one shard and its index.

        Raises:
            ImageError: when an image cannot be used, and ``skips`` is False.
        """
        start = number * self.shard_size
        samples = self.selection.splits[split][start : start + self.shard_size]
        path = self.directory / f"{split}-{number:05d}.tar"
        written = WrittenShard(split, len(samples))
        try:
            with path.open("wb") as stream:
                rows = self._write_samples(stream, samples, written)
                stream.flush()
                os.fsync(stream.fileno())
            if not rows:
                path.unlink()
                return written
            write_index(index_path(path), rows)
        except OSError as error:
            raise OSError(f"{path}: cannot be written: {error.strerror or error}") from error
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        written.shard = Shard(path.name, len(rows), path.stat().st_size, digest)
        return written

    def _write_samples(self, stream: BinaryIO, samples: Sequence[Sample], written: WrittenShard) -> list[Members]:
        """Write a tar; return its index, and note in ``written`` what was not read."""
        rows = []
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in samples:
                source = self.selection.sources[sample.source]
                name = source.location(sample.index)
                try:
                    image = source.load(sample.index)
                    png, size = self.form.encode(name, image)
                except ImageError as error:
                    if not self.skips:
                        raise
                    written.left_out.append({"name": error.name, "reason": error.reason})
                    continue
                written.sizes.add(size)
                if image.info.get(HAS_PAGES):
                    written.with_pages.append(name)
                members = [("png", png)] + [("cls", str(sample.label).encode())] * (sample.label is not None)
                rows.append([add_member(tar, stream, f"{sample.key}.{ext}", data) for ext, data in members])
                _, offset, num_bytes, _ = rows[-1][0]
                written.rows.append(SampleRow(sample.key, offset, num_bytes, zlib.crc32(png), sample.label))
        return rows


def add_member(tar: tarfile.TarFile, stream: BinaryIO, name: str, data: bytes) -> tuple[str, int, int, str]:
    """Append a file to a tar; return its entry of the index: extension, offset, size in bytes, name."""
    info = tarfile.TarInfo(name)  # with time, user and group 0 and mode 644: every run writes the same bytes
    info.size = len(data)
    offset = stream.tell() + tarfile.BLOCKSIZE  # keys are short enough for a header of one block
    tar.addfile(info, io.BytesIO(data))
    return name.rpartition(".")[2], offset, len(data), name


def write_shards(writer: ShardWriter, num_workers: int) -> Generator[WrittenShard, None, None]:
    """Write all shards, in this process or in several; yield the results in order."""
    shards = writer.shards()
    num_workers = worker_count(num_workers, most=len(shards))
    if num_workers <= 1:
        for split, number in shards:
            yield writer.write(split, number)
        return
    # Not fork, because torch or OpenMP may run threads here. forkserver starts faster than spawn, but listens at a
    # socket in TMPDIR. The pipe tells the workers when to end.
    is_short = len(os.fsencode(tempfile.gettempdir())) <= MAX_TMPDIR_BYTES
    context = multiprocessing.get_context("forkserver" if is_short else "spawn")
    receiver, sender = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(num_workers, context, _start_worker, (writer, receiver))
    with contextlib.ExitStack() as stack:
        stack.callback(receiver.close)
        stack.callback(executor.shutdown, cancel_futures=True)
        stack.callback(sender.close)  # first: after an error the workers end at once
        try:
            yield from executor.map(_write_in_worker, *zip(*shards, strict=True))
            executor.shutdown()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker process died, perhaps for lack of memory; try fewer --num_workers"
            ) from error


_writer: ShardWriter | None = None  # only in worker processes; its sources are too large to be sent with every shard


def _start_worker(writer: ShardWriter, receiver: Connection) -> None:
    global _writer
    _writer = writer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_exit_with_parent, args=(receiver,), daemon=True).start()


def _exit_with_parent(receiver: Connection) -> None:
    """End this process when the parent closes its end of the pipe or dies."""
    receiver.poll(None)
    os._exit(1)


def _write_in_worker(split: str, number: int) -> WrittenShard:
    assert _writer is not None
    return _writer.write(split, number)
