"""Open a source of images by the text that a user types: a path, ``torchvision:NAME`` or ``digits``."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from glow.data.prepare.base import Source
from glow.data.prepare.digits import DigitsSource
from glow.data.prepare.files import FolderSource, TarSource, ZipSource, tar_members
from glow.data.prepare.parquet import SUFFIX, ParquetSource
from glow.data.prepare.scanning import Linking
from glow.data.prepare.torchvision import TorchvisionSource
from glow.data.prepare.webshards import ShardsSource
from glow.data.read.labels import LabelRule
from glow.data.read.shard_names import are_shards, shard_names

NUM_FIRST = 1000  # members of a tar that show what it is
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def open_source(
    spec: str,
    torchvision_root: str = "data/torchvision",
    download: bool = False,
    label: str | None = None,
    linking: Linking | None = None,
) -> Source:
    """Open a folder, a zip, a tar, shards, ``torchvision:NAME[:SPLIT]`` or ``digits``.

    Raises:
        ValueError: when there is no such source, or it cannot be read.
    """
    if spec.endswith(SUFFIX) and not linking:
        return ParquetSource(spec, shard_names(spec), label)
    if shards := _shards_of(spec, is_one=label is not None or linking is not None):
        return ShardsSource(spec, shards, LabelRule.parse(label), linking)
    for name, value in (("link", linking and True), ("label", label)):
        if value is not None:
            raise ValueError(f"{name}: {value!r}, but {spec} is not made of shards (tars in the layout of WebDataset)")
    if spec == "digits":
        return DigitsSource()
    if spec.startswith("torchvision:"):
        return TorchvisionSource(spec, torchvision_root, download)
    return _open_path(spec)


def _open_path(spec: str) -> Source:
    path = Path(spec)
    if path.is_dir():
        return FolderSource(spec)
    if not path.is_file():
        raise ValueError(
            f"{spec}: no such folder, zip or tar (others: 'shard-{{00..99}}.tar', torchvision:NAME[:SPLIT], digits)"
        )
    with path.open("rb") as stream:
        head = stream.read(8)
    for magic, name in COMPRESSED.items():
        if head.startswith(magic):
            raise ValueError(
                f"{spec}: compressed with {name}, which allows no random access; decompress it to a plain tar"
            )
    return ZipSource(spec) if head.startswith(b"PK") else TarSource(spec)


def _shards_of(spec: str, is_one: bool) -> list[str]:
    """Return the shards that a source means; none if it means something else.

    Args:
        spec: The source.
        is_one: Whether one tar is a shard in any case. Else it is one if it has files with labels beside its images.
    """
    if are_shards(spec):
        return shard_names(spec)
    if Path(spec).suffix != ".tar" or not Path(spec).is_file():
        return []
    first = islice(tar_members(spec), NUM_FIRST)  # the source itself reads all of them
    is_one = is_one or any(member.name.lower().endswith(".cls") for member in first)
    return [spec] if is_one else []
