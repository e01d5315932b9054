"""What is wrong with options, in one line, and what to give instead."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import pairwise
from types import UnionType
from typing import Any, Literal


def names_of(cls: type[Any]) -> list[str]:
    """Return the names of all options of a configuration, such as ``optimizer.lr``."""
    names: list[str] = []
    for name, hint in typing.get_type_hints(cls).items():
        is_group = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        names += [f"{name}.{inner}" for inner in names_of(hint)] if is_group else [name]
    return names


def hint_of(cls: type[Any], name: str) -> Any:
    """Return the type of an option or of a group of options; None where there is no such one."""
    hint: Any = cls
    for part in name.split("."):
        hint = typing.get_type_hints(hint).get(part) if dataclasses.is_dataclass(hint) else None
    return hint


def explain(error: Exception, cls: type[Any], arguments: Iterable[str]) -> str:
    """Return what the parser found wrong with the options in one line, and what to give instead."""
    text = " ".join(str(error).split()).replace("Parser key ", "")
    if unknown := re.match(r"unrecognized arguments: --([\w.-]+)", text):
        return f"--{no_such_option(unknown[1], cls)}"
    if stray := re.match(r"unrecognized arguments: (.*)", text):
        return f"{stray[1]}: belongs to no option; give each value as --NAME VALUE, a list as in '[64, 96]'"
    if missing := re.match(r"the following arguments are required: (.*)", text):
        return f"{missing[1]}: not given; give it as an option or in the file of --config"
    if bare := re.match(r"argument (--[\w.]+): expected one argument", text):
        return f"{bare[1]}: not given a value; give {wanted_of(cls, bare[1][2:])}"
    if wrong := re.match(r'"([\w.]+)": .*(?:Got|Given) value: (.*)$', text):
        return (
            f"{wrong[1]}: {_as_given(wrong[1], wrong[2], arguments)!r} is not allowed; give {wanted_of(cls, wrong[1])}"
        )
    return text


def no_such_option(name: str, cls: type[Any]) -> str:
    """Say that there is no option of this name, and which one is like it."""
    known = names_of(cls)
    meant = name.replace("-", "_")
    near = [other for other in known if other == meant or other.endswith(f".{meant}")]
    near = near or get_close_matches(meant, known, 1)
    return f"{name}: no such option; {f'is it {_either(near)}?' if near else '--help lists all'}"


def not_a_group(name: str, value: str, hint: Any) -> str:
    """Say that a value stands where a group of options belongs."""
    return f"{name}: {value!r} is not allowed; give its options one by one, as in --{name}.{names_of(hint)[0]}"


def wanted_of(cls: type[Any], name: str) -> str:
    """Return what an option takes, in words."""
    if name == "config":
        return "a YAML file, or the name of a packaged one"
    if name == "size":  # text such as 64x96 does not say which is the height
        return "SIZE for a square, or '[HEIGHT, WIDTH]' as in '[64, 96]'"
    return wanted(hint_of(cls, name))


def wanted(hint: Any) -> str:
    """Return a type in words."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return " or ".join(wanted(part) for part in parts if part is not type(None))
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if typing.get_origin(hint) is tuple and parts[-1] is Ellipsis:
        return "a list of them, as in '[8, 8]'"
    if typing.get_origin(hint) is tuple:
        return f"{len(parts)} integers, as in '[{', '.join('8' * len(parts))}]'"
    if typing.get_origin(hint) is list:
        return f"a list, each {wanted(parts[0])}"
    return {bool: "true or false", int: "an integer", float: "a number", str: "text"}.get(hint, "a value")


def locate(message: str, places: Mapping[str, str]) -> str:
    """Put the file and line before a message about an option that a file gave."""
    name = re.match(r"(?:--)?([\w.]+)", message)
    return f"{places[name[1]]}: {message.removeprefix('--')}" if name and name[1] in places else message


def _as_given(name: str, value: str, arguments: Iterable[str]) -> str:
    """Return a value as it was typed; the parser shows what it made of it."""
    given = [value]
    for argument, following in pairwise([*arguments, ""]):
        option, equals, text = argument.partition("=")
        given += [text if equals else following] * (option == f"--{name}")
    return given[-1]


def _either(names: list[str]) -> str:
    return " or ".join(f"--{name}" for name in names)
