"""Files of ``--config``: found by path or name, and read as the options that they stand for."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple

import yaml

from glow.cli.messages import hint_of, no_such_option, not_a_group, wanted_of
from glow.files.limits import YAML_BYTES
from glow.files.reading import compose_yaml, read_file

CONFIGS = Path(__file__).parent.parent / "configs"  # in the repository a link to configs/

# The YAML of the parser takes no bytes of names that are not UTF-8: they pass as private characters.
PRIVATE = {0xDC00 + byte: 0x100000 + byte for byte in range(0x80, 0x100)}


class FileOption(NamedTuple):
    """An option that a file gives: its name, its value as one would type it, its file and line."""

    name: str
    text: str
    place: str


def config_names() -> list[str]:
    """Return the names that ``--config`` takes besides paths."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def find_config(name: str) -> Path:
    """Return the file of ``--config NAME``: a path, or the name of a packaged file.

    Raises:
        ValueError: when there is none.
    """
    path = Path(name).expanduser()
    if path.is_dir() and name not in config_names():
        raise ValueError(f"--config {name}: a folder; give the YAML file in it, as in {path / 'config.yaml'}")
    if path.exists() and not path.is_dir():
        return path
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"--config {name}: no such file; glow --help lists the packaged names")
    names = config_names()
    if name not in names:
        raise ValueError(f"--config: {name} is neither a file nor one of {', '.join(names)}")
    return CONFIGS / f"{name}.yaml"


def file_options(path: Path, cls: type[Any]) -> list[FileOption]:
    """Return the options of a configuration ``cls`` that a YAML file gives.

    Values are taken as they are written, so that ``no`` is text where an option takes text.

    Raises:
        ValueError: names the file and the line.
    """
    root = compose_yaml(read_file(path, YAML_BYTES), str(path))
    if root is None or _is_null(root):
        return []
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{path}: not a mapping of options, as in 'output: runs/mine'")
    options = list(_options(root, cls, "", lambda node: f"{path}, line {node.start_mark.line + 1}"))
    places: dict[str, str] = {}
    for option in options:  # as model.num_bits, and in model
        if option.name in places:
            raise ValueError(f"{option.place}: {option.name} is given twice, first in {places[option.name]}")
        places[option.name] = option.place
    return options


def group_options(name: str, text: str, cls: type[Any]) -> list[FileOption]:
    """Return the options that ``--parallel '{mode: pipeline, stages: 2}'`` gives.

    Raises:
        ValueError: when the text is no mapping of options of this group.
    """
    root = compose_yaml(text.encode(errors="surrogateescape"), f"--{name}")
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(not_a_group(name, text, hint_of(cls, name)))
    return list(_options(root, cls, f"{name}.", lambda node: f"--{name}"))


def _options(
    mapping: yaml.MappingNode, cls: type[Any], prefix: str, place_of: Callable[[yaml.Node], str]
) -> Iterator[FileOption]:
    for key, value in mapping.value:
        place, name = place_of(key), f"{prefix}{_shown(key)}"
        hint = hint_of(cls, name)
        if hint is None:
            raise ValueError(f"{place}: {no_such_option(name, cls)}")
        if not dataclasses.is_dataclass(hint):
            yield FileOption(name, _text(value, name, cls, place), place)
        elif isinstance(value, yaml.MappingNode):
            yield from _options(value, cls, f"{name}.", place_of)
        elif not _is_null(value):
            raise ValueError(f"{place}: {not_a_group(name, _shown(value), hint)}")


def _text(node: yaml.Node, name: str, cls: type[Any], place: str) -> str:
    """Return a value as one would type it on the command line."""
    if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
        raise ValueError(f"{place}: {name}: the tag {node.tag} is not allowed; give a plain value")
    hint = hint_of(cls, name)
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)
    listed = [kind for kind in kinds if typing.get_origin(kind) in (list, tuple)]
    if isinstance(node, yaml.ScalarNode) and (not _is_null(node) or type(None) in kinds):
        text = "null" if _is_null(node) else node.value
        return list_text([text], hint) if typing.get_origin(hint) is list else text
    if isinstance(node, yaml.ScalarNode) and node.value == "~" and str in kinds:
        return "~"  # the home folder
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not listed or not all(isinstance(item, yaml.ScalarNode) and not _is_null(item) for item in items):
        raise ValueError(f"{place}: {name}: {_shown(node)} is not allowed; give {wanted_of(cls, name)}")
    return list_text([item.value for item in items], listed[0])


def list_text(values: list[str], hint: Any) -> str:
    """Return the values of a list as one YAML list."""
    if hint != list[str]:
        return f"[{', '.join(values)}]"
    text = json.dumps([value.translate(PRIVATE) for value in values], ensure_ascii=False)
    return re.sub(r"[\x7f-\x9f\ufeff\ufffe\uffff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _is_null(node: yaml.Node) -> bool:
    return node.tag.endswith(":null")


def _shown(node: yaml.Node) -> str:
    """Return a value for a message."""
    if isinstance(node, yaml.ScalarNode):
        return "null" if _is_null(node) else str(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
