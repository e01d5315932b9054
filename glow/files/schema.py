"""Values that were read from a file, checked against types: those of dataclasses above all."""

from __future__ import annotations

import dataclasses
import reprlib
import sys
import typing
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar

Value = TypeVar("Value")


def from_plain(hint: type[Value], value: Any, name: str = "") -> Value:
    """Build a value of the type ``hint`` from what JSON or YAML gives: numbers, texts, lists, mappings.

    Types are dataclasses, int, float, str, bool, None, Any, Literal, ``list[T]``, ``tuple[T, ...]``, ``tuple[T, S]``,
    ``dict[str, T]`` and unions of them. Whole numbers are accepted for float.

    Args:
        hint: The type.
        value: The plain value.
        name: Name of the value in messages.

    Raises:
        ValueError: names the value and what is allowed. A dataclass may raise its own.
    """
    return _convert(hint, value, name)


def describe_type(hint: Any) -> str:
    """Return a type in words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return " or ".join(describe_type(part) for part in parts if part is not NoneType)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple and parts[-1] is not Ellipsis:
        return f"{len(parts)} values, each {describe_type(parts[0])}"
    if origin in (list, tuple):
        return f"a list, each {describe_type(parts[0])}"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "a mapping of keys to values"
    words = {bool: "true or false", int: "an integer", float: "a number", str: "text", NoneType: "nothing"}
    return words.get(hint, str(hint))


def _convert(hint: Any, value: Any, name: str) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return _build(hint, value, name)
    if origin in (typing.Union, UnionType):
        return _convert_to_one(parts, value, name)
    if origin in (list, tuple) and isinstance(value, list | tuple):
        hints = parts if origin is tuple and parts[-1] is not Ellipsis else parts[:1] * len(value)
        if len(hints) == len(value):
            pairs = enumerate(zip(hints, value, strict=True))
            return origin(_convert(part, item, f"{name}[{number}]") for number, (part, item) in pairs)
    if origin is dict and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _convert(parts[1], item, _join(name, key)) for key, item in value.items()}
    if _is_plain(hint, value):
        return float(value) if hint is float else value
    raise _error(name, value, f"give {describe_type(hint)}")


def _is_plain(hint: Any, value: Any) -> bool:
    """Whether a value that holds no others is of a type. True and False are no integers here."""
    if typing.get_origin(hint) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in typing.get_args(hint))
    if hint is float and type(value) is int:
        return abs(value) <= sys.float_info.max
    return hint is Any or (hint in (bool, int, float, str, NoneType) and type(value) is hint)


def _convert_to_one(hints: tuple[Any, ...], value: Any, name: str) -> Any:
    """Return the value as the first of the types that it fits."""
    if value is None and NoneType in hints:
        return None
    hints = tuple(hint for hint in hints if hint is not NoneType)
    for hint in hints[:-1]:
        try:
            return _convert(hint, value, name)
        except ValueError:
            continue
    if len(hints) == 1:
        return _convert(hints[0], value, name)
    try:
        return _convert(hints[-1], value, name)
    except ValueError as error:
        raise _error(name, value, f"give {' or '.join(map(describe_type, hints))}") from error


def _build(cls: Any, values: Mapping[str, Any], name: str) -> Any:
    """Build a dataclass; its ``__post_init__`` checks ranges."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = [key for key in values if key not in fields]
    if unknown:
        named = ", ".join(str(key)[:40] for key in unknown[:5])
        raise ValueError(f"{cls.__name__} has no field {named}; its fields are {', '.join(fields)}")
    missing = [
        key
        for key, field in fields.items()
        if key not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{_join(name, missing[0])} is missing")
    return cls(**{key: _convert(hints[key], value, _join(name, key)) for key, value in values.items()})


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _error(name: str, value: Any, advice: str) -> ValueError:
    shown = str(value).lower() if isinstance(value, bool) else reprlib.repr(value)
    return ValueError(f"{name}: {shown} is not allowed; {advice}" if name else f"{shown} is not allowed; {advice}")
