"""The names of shards that a user types: brace patterns, globs, folders of tars, URLs."""

from __future__ import annotations

import glob
import math
import re
from pathlib import Path

from glow.data.read.files import is_remote
from glow.data.read.pipe import PIPE
from glow.data.read.remote import list_remote

TAR = ".tar"
MAX_SHARDS = 1_000_000


def are_shards(spec: str) -> bool:
    """Return whether a source means shards: a pattern, a URL, a command, or a folder that holds tars alone."""
    path = Path(spec)
    if path.exists():
        return path.is_dir() and bool(tars_in(path))
    return is_remote(spec) or "::" in spec or any(sign in spec for sign in "{*?[")


def tars_in(folder: Path) -> list[str]:
    """Return the tars directly in a folder, sorted; none if there are other files than tars and notes on them."""
    entries = [path for path in folder.iterdir() if not path.name.startswith((".", "_"))]
    notes = (".parquet", ".json", ".idx", ".samples", ".txt", ".md", ".csv")
    tars = sorted(str(path) for path in entries if path.suffix == TAR and path.is_file())
    return tars if all(path.suffix in (TAR, *notes) and path.is_file() for path in entries) else []


def shard_names(spec: str) -> list[str]:
    """Return the locations of shards, in order.

    ``{000..099}`` and ``{a,b}`` stand for several names, ``::`` joins patterns, ``*``, ``?`` and ``[...]`` match files,
    and a folder stands for its tars.

    Raises:
        ValueError: when there are none, or one is named twice, or for a command.
    """
    if Path(spec).is_dir():
        return tars_in(Path(spec))
    if PIPE in spec:
        raise ValueError(f"{spec}: commands are no shards; give files, or URLs")
    if sum(map(_count, spec.split("::"))) > MAX_SHARDS:
        raise ValueError(f"{spec}: names more than {MAX_SHARDS:,} shards")
    from webdataset.shardlists import expand_urls  # slow to import

    names = [name for pattern in expand_urls(spec) for name in _match(pattern)]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{spec}: names {name} twice")
        seen.add(name)
    return names


def _count(pattern: str) -> int:
    """Return how many names the braces of a pattern stand for."""
    ranges = re.findall(r"\{(\d+)\.\.(\d+)[.\d]*\}", pattern)
    lists = re.findall(r"\{([^{}]*,[^{}]*)\}", pattern)
    counts = [abs(int(last) - int(first)) + 1 for first, last in ranges] + [text.count(",") + 1 for text in lists]
    return math.prod(counts)


def _match(pattern: str) -> list[str]:
    """Return the files that a glob matches, sorted; a name without signs as it is."""
    if is_remote(pattern) and pattern.endswith("/"):
        pattern += "*.tar"
    if not any(sign in pattern for sign in "*?["):
        return [pattern]
    found = list_remote(pattern) if is_remote(pattern) else sorted(glob.glob(pattern))  # noqa: PTH207
    if not found:
        raise ValueError(f"{pattern}: matches no file")
    return found
