"""Pages that are made when the site is built: what the code and the files of the root already say."""

import dataclasses
import html
import inspect
import typing
from pathlib import Path
from types import UnionType
from typing import Any, Literal

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from glow import config as configs

CONFIG = griffe.load("glow.config")  # has the docstrings of fields, which Python does not keep
ROOT = Path(__file__).parents[2]
ROOT_PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
API = (
    "bijectors",
    "networks",
    "models",
    "data",
    "sampling",
    "evaluation",
    "training",
    "parallel",
    "execution",
    "inference",
)
STAGES = {
    "prepare": configs.PrepareRun,
    "train": configs.TrainRun,
    "sample": configs.SampleRun,
    "evaluate": configs.EvaluateRun,
    "score": configs.ScoreRun,
    "infer": configs.InferRun,
    "policy": configs.PolicyRun,
    "plan": configs.PlanRun,
    "benchmark": configs.BenchmarkRun,
    "import_checkpoint": configs.ImportRun,
    "demo": configs.DemoRun,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here to those of ``docs/``."""
    pages = {uri: root_page(name) for uri, name in ROOT_PAGES.items()}
    pages |= {f"reference/stages/{stage}.md": stage_page(stage, cls) for stage, cls in STAGES.items()}
    pages |= {f"reference/api/{room}.md": f"# glow.{room}\n\n::: glow.{room}\n" for room in API}
    pages["reference/configs.md"] = configs_page(sorted((ROOT / "configs").glob("*.yaml")))
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def root_page(name: str) -> str:
    """Return a Markdown file of the root; its links to ``docs/`` become links within the site."""
    return (ROOT / name).read_text().replace("](docs/", "](")


def stage_page(stage: str, cls: type) -> str:
    """Return what a stage is for, its command, and a table of its options for each group."""
    return "\n".join(
        [
            f"# {stage}",
            "",
            inspect.cleandoc(cls.__doc__ or ""),
            "",
            f"```sh\nglow {stage} --help\npython -m pipelines.{stage} --help     # the same\n```",
            "",
            "`--config FILE.yaml` reads the options below from a file. Options after it override the file.",
            "",
            *option_tables(cls),
        ]
    )


def option_tables(cls: type) -> list[str]:
    """Return the lines of one table for the options of ``cls`` itself, and one for each group."""
    hints = typing.get_type_hints(cls)
    inherited = next((stage for stage, other in STAGES.items() if other in cls.__mro__[1:]), None)
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
    lines = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for field in fields:
        meaning = cleaned(documented[field.name].docstring.value)
        cells = (f"`--{prefix}{field.name}`", type_text(hints[field.name]), default(field), meaning)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return [*lines, ""]


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


def default(field: dataclasses.Field) -> str:
    """Return the default as YAML writes it; nothing for None, whose meaning the docstring gives."""
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()}`"
    if field.default is dataclasses.MISSING:
        return "required"
    if field.default is None:
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def configs_page(paths: list[Path]) -> str:
    """Return the comment at the head of each configuration."""
    lines = ["# Configurations", ""]
    for path in paths:
        head = [
            line.removeprefix("#").strip()
            for line in path.read_text().split("\n\n")[0].splitlines()
            if line.startswith("#")
        ]
        lines += [f"## {path.name}", "", html.escape("\n".join(head), quote=False), ""]
    return "\n".join(lines)


def cleaned(text: str | None) -> str:
    """Return a docstring on one line, as Markdown shows it literally."""
    return html.escape(" ".join((text or "").split()), quote=False)
