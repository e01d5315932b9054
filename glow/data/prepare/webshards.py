"""Shards that somebody else wrote: tars in the layout of WebDataset, of which the files of one sample share a key."""

from __future__ import annotations

import importlib
import mmap
import shutil
import tempfile
import warnings
import weakref
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from glow.console import Progress
from glow.data.images.decoding import decode, image_errors
from glow.data.prepare.base import NUM_KINDS, Source, check_image_size
from glow.data.prepare.scanning import Linking, Scan, ShardSample, keep_scan, read_scan, scan_shard
from glow.data.read.files import download, is_remote
from glow.data.read.labels import LabelRule, class_names

NUM_READERS = 4  # shards that are fetched at a time
MAX_OPEN = 64


class ShardsSource(Source):
    """The images of shards in the layout of WebDataset.

    Shards of servers and object stores are copied to a temporary directory, which lives as long as the source. If they
    are to be linked, the copies are removed one by one, and images cannot be loaded.

    Args:
        spec: The text that the user typed.
        locations: The shards, in order.
        rule: Where labels are.
        linking: How the shards are indexed, if they are to be linked.
    """

    def __init__(self, spec: str, locations: Sequence[str], rule: LabelRule, linking: Linking | None = None) -> None:
        self.locations = list(locations)
        self.copies = list(self.locations)
        self.linking = linking
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
            location, linking = self.locations[number], self.linking
            if linking is not None:
                kept = linking.kept(location, rule)
                if (found := read_scan(kept)) is not None:
                    return found
            if is_remote(location) and (linking is None or linking.checksum == "full"):
                path = folder / f"{number}.tar"
                download(location, path)
                self.copies[number] = str(path)
            scan = scan_shard(location, self.copies[number], rule, linking.checksum if linking else None)
            if linking is not None:
                keep_scan(kept, scan)
                if self.copies[number] != location:
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


def labels_of(spec: str, samples: Sequence[ShardSample], rule: LabelRule) -> list[str] | None:
    """Return the names of the classes of samples, or None without labels.

    Raises:
        ValueError: when some samples have a label and others have not, or none has one that was asked for.
    """
    if rule.kind == "none" or not samples:
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


def _warn_of_unused(spec: str, scans: Sequence[Scan], num_images: int, has_labels: bool) -> None:
    """Say once what is not read of the shards."""
    unused = sum((scan.unused for scan in scans), Counter[str]())
    keys = [key for scan in scans for key in scan.without_image]
    if unused:
        common = unused.most_common()
        words = ("hidden", "without an extension")
        shown = [f"{count} {'' if kind in words else '.'}{kind}"[:40] for kind, count in common[:NUM_KINDS]]
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
