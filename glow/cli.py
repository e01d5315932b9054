"""Command lines: a configuration dataclass from YAML files and options, and one-line errors."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from glow.data.read.files import PIPE

CONFIGS = Path(__file__).parent / "configs"  # in the repository a link to configs/
FUNCTION = "function"  # options that name code to run
PATIENCE_S = 10.0  # for the main process to fail too

Config = TypeVar("Config")

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def parse_config(cls: type[Config], argv: Sequence[str] | None, stage: str, positional: bool = False) -> Config:
    """Build the configuration ``cls`` from command-line arguments (None: those of the process).

    ``--config FILE.yaml``, or ``--config NAME`` of a packaged file, may come first; options after it override it. A
    field that is a list may be given several times, or once as a YAML list. With ``positional``, fields without a
    default are given without their names.

    Raises:
        ValueError: for an unknown key, a wrong type or an impossible value; names the field.
    """
    command = "glow " if Path(sys.argv[0]).name == "glow" else "python -m pipelines."
    parser = ArgumentParser(prog=f"{command}{stage}", description=cls.__doc__, exit_on_error=False, allow_abbrev=False)
    explained = "YAML file of the options below, or the name of a packaged one (glow --help lists them)."
    parser.add_argument("--config", action="config", help=explained)
    parser.add_class_arguments(cls, as_positional=positional)
    arguments = _find_configs(sys.argv[1:] if argv is None else argv)
    hints = typing.get_type_hints(cls)
    for name, annotation in hints.items():
        if typing.get_origin(annotation) is list:
            arguments = _join_repeated(arguments, f"--{name}", quote=annotation == list[str])
    try:
        namespace = parser.parse_args(arguments)
        # The files that --config named are no field of the configuration.
        del namespace["config"]
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if dataclasses.is_dataclass(hints[field.name]) and not isinstance(namespace[field.name], Namespace):
                raise ValueError(f"{field.name}: {namespace[field.name]!r} is not a group of options")
        options = parser.instantiate(namespace)
        _refuse_code_of_files(namespace.as_dict(), arguments)
    except ArgumentError as error:
        raise ValueError(_explain(error, parser, hints)) from error
    return cls(**{field.name: options[field.name] for field in dataclasses.fields(cls)})  # type: ignore[arg-type]


def config_names() -> list[str]:
    """Return the names that ``--config`` takes besides paths."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def run_stage(main: Callable[[], Any]) -> None:
    """Run a stage from the command line: a user's mistake becomes one line on stderr and exit status 1."""
    rank, local_rank = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))
    try:
        main()
    except (ValueError, OSError) as error:
        # Most mistakes meet all processes, and the main one prints them: its launcher then ends the others as they
        # wait here. What meets one process alone is printed a little later.
        time.sleep(PATIENCE_S * ((rank > 0) + (local_rank > 0)))
        print(f"error: {_one_line(error)}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except KeyboardInterrupt:
        if rank == 0:
            print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)


def _find_configs(arguments: Sequence[str]) -> list[str]:
    """Put the path of a packaged file for each ``--config NAME``, where NAME has no suffix and is no file."""
    found: list[str] = []
    for argument in arguments:
        option, _, name = argument.rpartition("=")
        if "--config" in (option, *found[-1:]) and re.fullmatch(r"[\w-]+", name) and not Path(name).is_file():
            names = config_names()
            if name not in names:
                raise ValueError(f"--config: {name} is neither a file nor one of {', '.join(names)}")
            argument = f"{argument.removesuffix(name)}{CONFIGS / name}.yaml"
        found.append(argument)
    return found


def _explain(error: ArgumentError, parser: ArgumentParser, hints: Mapping[str, Any]) -> str:
    """Return what is wrong with the options in one line, and what to give instead."""
    text = _one_line(error).replace("Parser key ", "")
    if unknown := re.match(r"unrecognized arguments: --([\w.]+)", text):
        known = [option[2:] for action in parser._actions for option in action.option_strings if option[:2] == "--"]
        near = [name for name in known if name.endswith(f".{unknown[1]}")] or get_close_matches(unknown[1], known, 1)
        advice = f"is it {' or '.join(f'--{name}' for name in near)}?" if near else "--help lists all"
        return f"--{unknown[1]}: no such option; {advice}"
    if missing := re.match(r"the following arguments are required: (.*)", text):
        return f"{missing[1]}: not given; give it as an option or in the file of --config"
    if key := re.match(r"Group '(.+)' does not accept option '(.+)'", text):
        return f"{key[1]}.{key[2]}: no such option; --help lists all"
    if wrong := re.match(r'"([\w.]+)": .*(?:Got|Given) value: (.*)$', text):
        hint: Any = hints
        for part in wrong[1].split("."):
            hint = (hint if isinstance(hint, Mapping) else typing.get_type_hints(hint)).get(part)
        return f"{wrong[1]}: {wrong[2]!r} is not allowed; give {_wanted(hint)}"
    return text


def _wanted(hint: Any) -> str:
    """Return a type in words."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return " or ".join(_wanted(part) for part in parts if part is not type(None))
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if typing.get_origin(hint) is tuple:
        return f"{len(parts)} integers, as in '[{', '.join('8' * len(parts))}]'"
    if typing.get_origin(hint) is list:
        return f"a list, each {_wanted(parts[0])}"
    return {bool: "true or false", int: "an integer", float: "a number", str: "text"}.get(hint, str(hint))


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


def _join_repeated(arguments: list[str], option: str, quote: bool) -> list[str]:
    """Turn ``--source A --source B`` into ``--source ["A", "B"]``; a list that is given as such stays."""
    values, others = [], []
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        if name in (option, f"{option}+"):
            values.append(value if equals else next(remaining, ""))
        else:
            others.append(argument)
    if not values:
        return others
    if len(values) == 1 and values[0].startswith("["):
        return [*others, option, values[0]]
    return [*others, option, json.dumps(values) if quote else f"[{', '.join(values)}]"]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
