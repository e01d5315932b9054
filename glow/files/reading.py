"""Files of strangers: bytes within a limit, and the JSON and YAML in them."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import yaml

from glow.files.limits import Limit

MAX_DEPTH = 32


def read_file(path: str | Path, limit: Limit) -> bytes:
    """Return the contents of a regular file.

    Raises:
        ValueError: when it is missing, larger than the limit, or another kind of thing: a directory, a pipe, a device,
            a link to itself.
        OSError: when it cannot be read, perhaps only at the moment.
    """
    with open_file(path) as file:
        limit.check(str(path), os.fstat(file.fileno()).st_size)
        content = file.read(limit.value + 1)
    limit.check(str(path), len(content))  # it may have grown
    return content


def open_file(path: str | Path) -> Any:
    """Open a regular file for reading bytes; raise the errors of ``read_file``."""
    try:
        # Without O_NONBLOCK a pipe would keep us waiting for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise ValueError(f"{path}: no such file") from error
        if error.errno == errno.ELOOP:
            raise ValueError(f"{path}: not a file, but a link to itself") from error
        if error.errno == errno.ENXIO:
            raise ValueError(f"{path}: not a file") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path}: not a file")
    return os.fdopen(descriptor, "rb")


def parse_json(content: bytes | str, name: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: begins with ``name``: when it is not JSON, is nested too deeply, or has a key twice.
    """
    try:
        return json.loads(content, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError(f"{name}: not readable JSON: nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{name}: not readable JSON: {error}") from error


def parse_yaml(content: bytes | str, name: str) -> Any:
    """Return the value of a YAML text: plain values, lists and mappings.

    Raises:
        ValueError: begins with ``name``: when it is not YAML, is nested too deeply, has a key twice, or has aliases,
            with which a short text becomes a huge value.
    """
    try:
        return yaml.load(content, _PlainLoader)
    except yaml.YAMLError as error:
        raise _not_yaml(error, name) from error
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        # What its constructors of numbers, dates and binary data meet in wrong ones.
        raise ValueError(f"{name}: not readable YAML: {error}") from error


def compose_yaml(content: bytes | str, name: str) -> yaml.Node | None:
    """Return a YAML text as a tree that keeps values as they are written, and their lines; None if it is empty.

    Raises:
        ValueError: as ``parse_yaml``.
    """
    try:
        return yaml.compose(content, _PlainLoader)
    except yaml.YAMLError as error:
        raise _not_yaml(error, name) from error
    except ValueError as error:  # a byte order mark of another encoding, without text in it
        raise ValueError(f"{name}: not readable YAML: {error}") from error


def _not_yaml(error: yaml.YAMLError, name: str) -> ValueError:
    mark = getattr(error, "problem_mark", None)
    line = f", line {mark.line + 1}" if mark else ""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    return ValueError(f"{name}{line}: not readable YAML: {' '.join(str(problem).split())}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"key {_first_repeated([key for key, _ in pairs])!r} is given twice")
    return values


def _first_repeated(keys: list[Any]) -> Any:
    return next(key for key, count in Counter(keys).items() if count > 1)


class _PlainLoader(yaml.SafeLoader):
    """Reads what yaml.safe_dump writes of plain values, and little more."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self._refuse("aliases (*NAME) are not allowed", self.peek_event().start_mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self._refuse("nested too deeply", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                first = lines[key.value]
                self._refuse(f"key {key.value!r} is given twice, first in line {first}", key.start_mark)
            lines[str(key.value)] = key.start_mark.line + 1
        return node

    def _refuse(self, problem: str, mark: Any) -> NoReturn:
        raise yaml.constructor.ConstructorError(None, None, problem, mark)
