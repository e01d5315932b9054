"""Checking and converting the dataclasses of a configuration."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

Config = TypeVar("Config")


def require(condition: bool, name: str, value: object, advice: str) -> None:
    """Raise a ValueError that names a config field, its value and what to give instead, unless ``condition`` holds."""
    if condition:
        return
    if value is None:
        raise ValueError(f"{name} is not set; {advice}")
    # As YAML has it.
    shown = str(value).lower() if isinstance(value, bool) else list(value) if isinstance(value, tuple) else repr(value)
    raise ValueError(f"{name}: {shown} is not allowed; {advice}")


def require_default(name: str, config: Any, advice: str) -> None:
    """Raise the ValueError of ``require`` for the first field of the group ``name`` that differs from its default."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        require(value == getattr(type(config)(), field.name), f"{name}.{field.name}", value, advice)


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as nested plain dicts and lists, the form of YAML and JSON."""

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


def config_from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """Build a dataclass from the result of ``config_to_dict``.

    Raises:
        ValueError: for a field that ``cls`` does not have or that has an impossible value.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}; its fields are {', '.join(hints)}")
    arguments = {}
    for name, value in values.items():
        choices = [choice for hint in (hints[name], *typing.get_args(hints[name])) for choice in _choices(hint)]
        if choices and value is not None:
            require(value in choices, name, value, f"choose one of {', '.join(map(str, choices))}")
        is_nested = dataclasses.is_dataclass(hints[name])
        arguments[name] = config_from_dict(hints[name], value) if is_nested else value
    return cls(**arguments)


def _choices(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
