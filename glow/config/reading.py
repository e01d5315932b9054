"""YAML files: each key once, and of a size that is bounded before memory is taken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 262_144
MAX_DEPTH = 20
MAX_VALUES = 20_000  # with what aliases repeat
LIMIT_FACTOR = "GLOW_LIMIT_FACTOR"
TAGS = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")}

# The one in C is ten times as fast.
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def limit(number: int) -> int:
    """Return a limit on what a file may ask for, times GLOW_LIMIT_FACTOR of the environment."""
    factor = os.environ.get(LIMIT_FACTOR, "1")
    if not factor.isdecimal() or int(factor) < 1:
        raise ValueError(f"{LIMIT_FACTOR}: {factor!r} is not allowed; give an integer, 1 or more")
    return number * int(factor)


def read_yaml(path: Path) -> Any:
    """Return the mapping of a YAML file as dicts, lists and plain values.

    Raises:
        ValueError: names the file and the line: it is not YAML, a key is given twice, or a limit is exceeded.
    """
    node = read_node(path)
    loader = Loader("")
    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    finally:
        loader.dispose()


def read_node(path: Path) -> yaml.MappingNode:
    """Return the mapping of a YAML file as a tree, which keeps the text and the line of each value.

    Raises:
        ValueError: as ``read_yaml``.
    """
    with path.open("rb") as file:
        content = file.read(limit(MAX_BYTES) + 1)
    _bound(len(content), MAX_BYTES, path, "bytes")
    try:
        text = content.decode("utf-8-sig")
        _check_depth(text, path)
        node = yaml.compose(text, Loader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not YAML: its text is not UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ValueError(f"{path}{line}: not YAML: {problem}") from error
    if node is None or node.tag.endswith(":null"):
        return yaml.MappingNode("tag:yaml.org,2002:map", [])
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{path}: not a mapping of options, as in 'output: runs/mine'")
    _check(node, path)
    return node


def _check_depth(text: str, path: Path) -> None:
    """Check how deep values are nested, before anything recurses into them."""
    depth = 0
    for event in yaml.parse(text, Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            _bound(depth, MAX_DEPTH, path, "levels of nesting")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check(root: yaml.MappingNode, path: Path) -> None:
    """Check that no mapping has a key twice, and count values as often as aliases repeat them."""
    waiting: list[tuple[yaml.Node, str]] = [(root, "")]
    count = 0
    while waiting:
        node, name = waiting.pop()
        count += 1
        _bound(count, MAX_VALUES, path, "values, counting what aliases repeat")
        place = f"{path}, line {node.start_mark.line + 1}"
        if node.tag not in TAGS:
            raise ValueError(f"{place}: {name}: the tag {node.tag} is not allowed; give a plain value")
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    raise ValueError(f"{path}, line {line}: a key is a list or mapping; give a name")
                inner = f"{name}.{key.value}".removeprefix(".")
                if key.value in lines:
                    raise ValueError(f"{path}, line {line}: {inner} is given twice, first in line {lines[key.value]}")
                lines[key.value] = line
                waiting.append((value, inner))
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(value, name) for value in node.value]


def _bound(number: int, most: int, place: object, what: str) -> None:
    if number > limit(most):
        raise ValueError(
            f"{place}: too large for a configuration: more than {limit(most)} {what} ({LIMIT_FACTOR}=10 allows ten "
            "times as many)"
        )
