"""Imports run downward only, and outside libraries appear only where they belong."""

import ast
import typing
from pathlib import Path

import pytest

from glow.config import FlowConfig, ModelConfig

# Each module may import what stands before it, and its own group.
LAYERS = [
    ["glow.config", "glow.randomness", "glow.groups", "glow.locking", "glow.reuse", "glow.operators"],
    ["glow.windows", "glow.pixelwise"],
    ["glow.images", "glow.nets", "glow.gated", "glow.mlp", "glow.bijectors"],
    [
        "glow.model",
        "glow.flow",
        "glow.targets",
        "glow.elbo",
        "glow.steps",
        "glow.memory",
        "glow.compiling",
        "glow.cost",
        "glow.tracing",
        "glow.dequantization",
        "glow.precision",
        "glow.data",
    ],
    ["glow.parallel"],
    [
        "glow.training",
        "glow.sampling",
        "glow.evaluation",
        "glow.inference",
        "glow.importing",
        "glow.planning",
        "glow.measuring",
        "glow.benchmarking",
    ],
    ["glow.policy"],
    ["glow.cli"],
    ["pipelines"],
]
ONLY_IN = {
    "jsonargparse": {"glow.cli"},
    "accelerate": {
        "glow.parallel",
        "glow.training.trainer",
        "pipelines.train",
        "pipelines.evaluate",
        "pipelines.score",
        "pipelines.benchmark",
    },
    "torch.utils.tensorboard": {"glow.training.metrics"},
    "sklearn": {"glow.data.sources", "glow.data.tables"},
    "normflows": {"glow.benchmarking.peers"},
}
FILES = sorted([*Path("glow").rglob("*.py"), *Path("pipelines").rglob("*.py")])


def name_of(path):
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name, package):
    return name == package or name.startswith(package + ".")


def layer_of(name):
    return next((number for number, group in enumerate(LAYERS) if any(is_within(name, g) for g in group)), None)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_run_downward(path):
    name = name_of(path)
    if name == "glow":
        return
    own = layer_of(name)
    assert own is not None, f"{name} belongs to no layer"
    for imported in imports_of(path):
        other = layer_of(imported)
        assert other is None or other <= own, f"{name} imports {imported}"
        if own == 2 and other == 2:
            assert is_within(name, "glow.data") == is_within(imported, "glow.data"), (
                "model and data do not know each other"
            )
        for library, places in ONLY_IN.items():
            allowed = any(is_within(name, place) for place in places)
            assert not is_within(imported, library) or allowed, f"{name} imports {imported}"


def test_model_side_imports_torch_alone():
    allowed = ("torch", "glow", "math", "collections", "functools", "warnings", "typing", "__future__")
    for path in [
        Path("glow/images.py"),
        Path("glow/nets.py"),
        Path("glow/windows.py"),
        Path("glow/pixelwise.py"),
        Path("glow/operators.py"),
        Path("glow/reuse.py"),
        Path("glow/flow.py"),
        Path("glow/model.py"),
        *Path("glow/bijectors").glob("*.py"),
    ]:
        assert all(imported.split(".")[0] in allowed for imported in imports_of(path)), path


def test_nothing_is_pickled():
    for path in FILES:
        source = path.read_text()
        if path.name == "importing.py":  # other programs' files, tensors alone
            assert source.count("torch.load(") == source.count("weights_only=True") == 1
            continue
        assert "pickle" not in source.replace("can be pickled", "") or path.name == "sources.py"
        assert "torch.load(" not in source
        assert "torch.save(" not in source


def test_every_part_of_a_model_is_documented():
    text = Path("docs/maps.md").read_text()
    options = [*typing.get_type_hints(ModelConfig).items(), *typing.get_type_hints(FlowConfig).items()]
    for name, hint in options:
        values = [value for part in (hint, *typing.get_args(hint)) for value in typing.get_args(part)]
        for value in (value for value in values if isinstance(value, str)):
            documented = f": {value}`" in text or f"`{value}`" in text
            assert documented, f"{name}: {value}"
