"""Checking the dataclasses of a configuration, and turning them into plain values."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any


def require(condition: bool, name: str, value: object, advice: str) -> None:
    """Raise a ValueError that names a config field, its value and what to give instead, unless ``condition`` holds."""
    if condition:
        return
    if value is None:
        raise ValueError(f"{name} is not set; {advice}")
    # As YAML has it.
    shown = str(value).lower() if isinstance(value, bool) else list(value) if isinstance(value, tuple) else repr(value)
    raise ValueError(f"{name}: {shown} is not allowed; {advice}")


def require_utf8(name: str, path: str) -> None:
    """Raise a ValueError for a path that is not UTF-8, which the files of checkpoints cannot have."""
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: {path} is not allowed; give a name in UTF-8") from error


def require_default(name: str, config: Any, advice: str) -> None:
    """Raise the ValueError of ``require`` for the first field of the group ``name`` that differs from its default."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        require(value == getattr(type(config)(), field.name), f"{name}.{field.name}", value, advice)


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as nested plain dicts and lists, the form of YAML and JSON. ``from_plain`` reads it."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return plain(dataclasses.asdict(config))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one, with names such as ``optimizer.lr``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
