"""A configuration dataclass from YAML files and options."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from glow.cli.files import PRIVATE, FileOption, file_options, find_config, group_options, list_text
from glow.cli.messages import explain, locate, wanted
from glow.data.read.pipe import PIPE

FUNCTION = "function"  # options that name code to run
RESUMING = ("train", "infer")  # stages whose --output holds the configuration of the run

Config = TypeVar("Config")

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def parse_config(cls: type[Config], argv: Sequence[str] | None, stage: str, positional: bool = False) -> Config:
    """Build the configuration ``cls`` from command-line arguments (None: those of the process).

    ``--config FILE.yaml``, or ``--config NAME`` of a packaged file, may come first; options after it override it. A
    stage that resumes takes the options of an earlier run in its ``--output`` where no ``--config`` is given. A field
    that is a list may be given several times, with several values, or once as a YAML list. With ``positional``, fields
    without a default are given without their names.

    Raises:
        ValueError: for an unknown key, a wrong type or an impossible value; names the field.
    """
    typed = list(sys.argv[1:] if argv is None else argv)
    given = _join_lists(typed, cls)
    if stage in RESUMING:
        given = _own_config(given) + given
    places: dict[str, str] = {}
    arguments = []
    for argument in _with_files(given, cls):
        if isinstance(argument, FileOption):
            places[argument.name] = argument.place
            arguments.append(f"--{argument.name}={argument.text}")
        else:
            places.pop(argument.partition("=")[0].removeprefix("--"), None)
            arguments.append(argument)
    try:
        return _parse(cls, arguments, typed, _parser(cls, stage, positional))
    except ValueError as error:
        raise ValueError(locate(str(error), places)) from error


class _HelpFormatter(DefaultHelpFormatter):
    """Says in words what an option takes, where its choices are not listed before."""

    def _get_help_string(self, action: argparse.Action) -> str:
        hint = getattr(action, "_typehint", None)
        if hint is None:
            return super()._get_help_string(action)
        notes = ["required"] if action.required else []
        if not str(action.metavar).startswith("{") and wanted(hint) != "text":
            notes.append(wanted(hint))
        if action.default is not None:
            notes.append("default: %(default)s")
        return f"{action.help} ({'; '.join(notes)})" if notes else str(action.help)


def _parser(cls: type[Any], stage: str, positional: bool) -> ArgumentParser:
    command = "glow " if Path(sys.argv[0]).name == "glow" else "python -m pipelines."
    parser = ArgumentParser(
        prog=f"{command}{stage}",
        description=cls.__doc__,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    explained = "YAML file of the options below, or the name of a packaged one (glow --help lists them)."
    parser.add_argument("--config", help=explained, default=argparse.SUPPRESS)
    parser.add_class_arguments(cls, as_positional=positional)
    groups = _groups(cls)
    for action in parser._actions:
        if action.dest in groups:
            action.help = argparse.SUPPRESS
    for group in parser._action_groups:
        if group.title and str(cls.__doc__).startswith(group.title):  # the description once more
            group.title = f"options of {stage}"
    return parser


def _parse(cls: type[Config], arguments: list[str], typed: list[str], parser: ArgumentParser) -> Config:
    try:
        namespace = parser.parse_args([argument.translate(PRIVATE) for argument in arguments])
        for key, value in namespace.items():
            namespace[key] = _as_meant(value)
        _refuse_code_of_files(namespace.as_dict(), typed)
        options = parser.instantiate(namespace)
    except ArgumentError as error:
        raise ValueError(explain(error, cls, arguments)) from error
    return cls(**{field.name: options[field.name] for field in dataclasses.fields(cls)})  # type: ignore[arg-type]


def _groups(cls: type[Any]) -> set[str]:
    return {name for name, hint in typing.get_type_hints(cls).items() if dataclasses.is_dataclass(hint)}


def _own_config(arguments: list[str]) -> list[str]:
    """Return ``--config`` with the configuration of the run in ``--output``, unless a file is given."""
    output = None
    for argument, following in pairwise([*arguments, ""]):
        name, equals, value = argument.partition("=")
        if name == "--config":
            return []
        if name == "--output":
            output = value if equals else following
    path = Path(output or "").expanduser() / "config.yaml"
    return [f"--config={path}"] if output and path.is_file() else []


def _with_files(arguments: list[str], cls: type[Any]) -> Iterator[str | FileOption]:
    """Yield the arguments, with the options that it stands for in place of each ``--config`` and of each group."""
    groups = {f"--{name}" for name in _groups(cls)}
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        if name == "--config" or name in groups:
            value = value if equals else next(remaining, "")
        if name in groups:
            for option in group_options(name.removeprefix("--"), value, cls):
                yield f"--{option.name}={option.text}"
        elif name == "--config" and value:
            yield from file_options(find_config(value), cls)
        else:
            yield argument


def _join_lists(arguments: list[str], cls: type[Any]) -> list[str]:
    """Turn ``--source A B`` and ``--source A --source B`` into ``--source=["A", "B"]``; a YAML list stays."""
    for name, hint in typing.get_type_hints(cls).items():
        if typing.get_origin(hint) is list:
            arguments = _join_list(arguments, f"--{name}", hint)
    return arguments


def _join_list(arguments: list[str], option: str, hint: Any) -> list[str]:
    values, others = [], []
    is_taken = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if re.match(r"--?[a-zA-Z]", argument):
            is_taken = name in (option, f"{option}+")
            if not is_taken:
                others.append(argument)
            elif equals:
                values.append(value)
        else:
            (values if is_taken else others).append(argument)
    if not values:
        return arguments
    text = values[0] if len(values) == 1 and values[0].startswith("[") else list_text(values, hint)
    return [*others, f"{option}={text}"]


def _as_meant(value: Any) -> Any:
    """Put the home folder for ``~`` at the beginning of text, and the bytes of names back; also in lists."""
    if isinstance(value, list):
        return [_as_meant(item) for item in value]
    if not isinstance(value, str):
        return value
    text = value.translate({private: byte for byte, private in PRIVATE.items()})
    return str(Path(text).expanduser()) if re.match(r"~(/|$)", text) else text


def _refuse_code_of_files(values: object, arguments: Sequence[str], name: str = "") -> None:
    """Raise a ValueError for a ``pipe:`` command or a function that is not on the command line: a file may be a
    stranger's.
    """
    if isinstance(values, dict):
        for key, value in values.items():
            _refuse_code_of_files(value, arguments, key)
    elif isinstance(values, list | tuple):
        for value in values:
            _refuse_code_of_files(value, arguments, name)
    elif (
        isinstance(values, str)
        and (values.startswith(PIPE) or name == FUNCTION)
        and not any(argument == values or argument.endswith(f"={values}") for argument in arguments)
    ):
        kind = "function" if name == FUNCTION else "command"
        raise ValueError(f"{values}: a {kind} is taken from the command line only, as an argument of its own")
