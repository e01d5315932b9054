"""Pages that are made when the site is built: what the code and the files of the root already say."""

import dataclasses
import html
import inspect
import itertools
import re
import typing
from pathlib import Path
from types import UnionType
from typing import Any, Literal

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from pipelines import STAGES, Stage

CONFIG = griffe.load("glow.config")  # has the docstrings of fields, which Python does not keep
ROOT = Path(__file__).parents[2]
ROOT_PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
ROOMS = ["bijectors", "networks", "models", "execution", "data", "parallel", "training", "sampling", "evaluation"]
ROOMS += ["inference", "editing"]
PUBLIC = """# glow

::: glow
    options: {members: [], show_submodules: false}

`Glow`, `Flow`, `build_flow`, `DiagonalGaussian` and `bits_per_dim` are on the page [models](models.md), the fields of
`ModelConfig` and `FlowConfig` on the page of the [stage train](../stages/train.md#model).

::: glow.trained.loading.load
    options: {show_root_heading: true, heading_level: 2}
::: glow.trained.images.TrainedGlow
    options: {show_root_heading: true, heading_level: 2}
::: glow.trained.vectors.TrainedFlow
    options: {show_root_heading: true, heading_level: 2}
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here to those of ``docs/``."""
    pages = {uri: root_page(name) for uri, name in ROOT_PAGES.items()}
    pages |= {f"reference/stages/{name}.md": stage_page(name, stage) for name, stage in STAGES.items()}
    pages |= {f"reference/api/{room}.md": f"# glow.{room}\n\n::: glow.{room}\n" for room in ROOMS}
    pages["reference/api/glow.md"] = PUBLIC
    pages["reference/configs.md"] = configs_page(sorted((ROOT / "configs").glob("*.yaml")))
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave the list of pages out where a page is alone in its tab."""
    if "/" not in page.file.src_uri:
        page.meta["hide"] = ["navigation"]
    return markdown


def root_page(name: str) -> str:
    """Return a Markdown file of the root; its links become links within the site."""
    return (ROOT / name).read_text().replace("](docs/", "](").replace("](CONTRIBUTING.md)", "](contributing.md)")


def stage_page(name: str, stage: Stage) -> str:
    """Return what a stage is for, its command, and a table of its options for each group."""
    given = [(field.name, field.name.upper()) for field in dataclasses.fields(stage.config) if is_required(field)]
    usage = " ".join([name, *(value if stage.positional else f"--{option} {value}" for option, value in given)])
    return "\n".join(
        [
            f"# {name}",
            "",
            inspect.cleandoc(stage.config.__doc__ or ""),
            "",
            f"```sh\nglow {usage} [OPTIONS]\npython -m pipelines.{usage} [OPTIONS]     # the same\n```",
            "",
            "`--config FILE.yaml` reads the options below from a file; `--config NAME` takes a",
            "[configuration that comes with glow](../configs.md). Options after it override the file.",
            "",
            *option_tables(stage.config),
        ]
    )


def option_tables(cls: type) -> list[str]:
    """Return the lines of one table for the options of ``cls`` itself, and one for each group."""
    hints = typing.get_type_hints(cls)
    inherited = next((name for name, stage in STAGES.items() if stage.config in cls.__mro__[1:]), None)
    own = [field for field in dataclasses.fields(cls) if not inherited or field.name in cls.__annotations__]
    plain = [field for field in own if not dataclasses.is_dataclass(hints[field.name])]
    lines = ["## Options", "", *table(cls, plain, "")]
    for field in own:
        group = hints[field.name]
        if dataclasses.is_dataclass(group):
            lines += [f"## {field.name}", "", cleaned(group.__doc__), ""]
            lines += table(group, dataclasses.fields(group), f"{field.name}.")
    if inherited:
        lines += [
            f"## Options of {inherited}",
            "",
            f"This stage takes the options of [{inherited}]({inherited}.md) too.",
        ]
    return lines


def table(cls: type, fields: typing.Iterable[dataclasses.Field], prefix: str) -> list[str]:
    """Return the lines of a table of options: name, type, default, meaning."""
    hints = typing.get_type_hints(cls)
    documented = CONFIG[cls.__module__.removeprefix("glow.config.")][cls.__name__].all_members
    lines = ['<div class="options" markdown>', "", "| option | type | default | meaning |", "|---|---|---|---|"]
    for field in fields:
        meaning = cleaned(documented[field.name].docstring.value)
        cells = (f"`--{prefix}{field.name}`", type_text(hints[field.name]), default(field), meaning)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return [*lines, "", "</div>", ""]


def type_text(hint: Any) -> str:
    """Return a type as the user gives it; None is told by the default."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return " or ".join(type_text(part) for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"{len(typing.get_args(hint))} integers"
    if typing.get_origin(hint) is list:
        return f"list of {type_text(typing.get_args(hint)[0])}"
    return {str: "text", bool: "true or false", int: "integer", float: "number"}[hint]


def is_required(field: dataclasses.Field) -> bool:
    """Return whether an option has no default."""
    return field.default is field.default_factory is dataclasses.MISSING


def default(field: dataclasses.Field) -> str:
    """Return the default as YAML writes it; nothing for None, whose meaning the docstring gives."""
    if is_required(field):
        return "required"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()}`"
    if field.default is None:
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def configs_page(paths: list[Path]) -> str:
    """Return the head of each configuration: purpose, result and cost as a list, and the command."""
    lines = ["# Configurations", ""]
    for path in paths:
        comment = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
        text, _, command = re.sub(r"^# {0,3}", "", "\n".join(comment), flags=re.MULTILINE).partition("Command:")
        facts = re.sub(r"^(\w+):", r"- **\1**:", html.escape(text.strip(), quote=False), flags=re.MULTILINE)
        lines += [f"## {path.stem}", "", facts, "", "```sh", command.strip(), "```", ""]
    return "\n".join(lines)


def cleaned(text: str | None) -> str:
    """Return a docstring on one line, as Markdown shows it literally."""
    return html.escape(" ".join((text or "").split()), quote=False)
