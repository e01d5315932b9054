"""Where the shards of a linked data set may lie: dataset.json may come from a stranger."""

from __future__ import annotations

import os
from pathlib import Path

from glow.data.read.files import is_remote, join

ROOTS = "GLOW_DATA_ROOT"


def resolve(location: str, directory: str, root: str | None = None) -> str:
    """Return the place of a linked shard.

    A URL is its place. A path starts at the folder of the data set, and must lead to a file below that folder, below
    ``root``, or below one of the folders in the environment variable GLOW_DATA_ROOT (separated by colons).

    Args:
        location: A path or a URL, as ``manifest.check_location`` allows it.
        directory: The folder or URL of the data set.
        root: A folder that the user gives.

    Raises:
        ValueError: for a path that leads elsewhere.
    """
    if is_remote(location):
        return location
    given = [folder for folder in (root, *os.environ.get(ROOTS, "").split(":")) if folder]
    if is_remote(directory):
        if not Path(location).is_absolute() and ".." not in Path(location).parts:
            return join(directory, location)
    else:
        given.append(directory)
    path = (Path(directory) / location).resolve()
    if not any(path.is_relative_to(Path(folder).resolve()) for folder in given):
        raise ValueError(
            f"{directory}: its shard {location} lies outside of its folder; if you trust the data set, give the folder "
            f"above its shards in the environment variable {ROOTS}, or to train as --data.root"
        )
    return str(path)
