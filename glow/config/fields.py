"""Checking and converting the dataclasses of a configuration."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

Config = TypeVar("Config")


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise the ValueError that names a config field, its value and what is allowed, unless ``condition`` holds."""
    if not condition:
        raise ValueError(f"{name}: {value!r} is not allowed; {allowed}")


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as nested plain dicts and lists, as YAML and JSON hold it."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return plain(dataclasses.asdict(config))


def config_from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """Rebuild a dataclass from what ``config_to_dict`` gave.

    Raises:
        ValueError: for a field that ``cls`` does not have or that has an impossible value.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(hints)}")
    arguments = {}
    for name, value in values.items():
        choices = [choice for hint in (hints[name], *typing.get_args(hints[name])) for choice in _choices(hint)]
        if choices and value is not None:
            require(value in choices, name, value, f"{', '.join(map(str, choices))} are")
        is_nested = dataclasses.is_dataclass(hints[name])
        arguments[name] = config_from_dict(hints[name], value) if is_nested else value
    return cls(**arguments)


def _choices(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
