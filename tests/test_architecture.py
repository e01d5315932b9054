"""Imports run downward only, outside libraries appear only where they belong, and modules are short."""

import ast
import sys
import typing
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from glow.config import FlowConfig, ModelConfig

# The rooms in the order in which a newcomer reads them. A room imports from those before it and from itself; the rooms
# of one line do not know each other.
LAYERS = [
    ["glow.files"],
    ["glow.config", "glow.randomness", "glow.locking", "glow.console"],
    ["glow.bijectors"],
    ["glow.networks"],
    ["glow.execution"],
    ["glow.models"],
    ["glow.cost", "glow.data.images"],
    ["glow.data.read"],
    ["glow.data.prepare", "glow.data.vectors"],
    ["glow.parallel", "glow.sampling", "glow.importing"],
    ["glow.evaluation"],
    ["glow.inference"],
    ["glow.training"],
    ["glow.trained", "glow.sharing"],
    ["glow.editing"],
    ["glow.explore"],
    ["glow.planning"],
    ["glow.policy", "glow.benchmarking"],
    ["glow.cli"],
    ["pipelines"],
]
MODEL_SIDE = ["glow.bijectors", "glow.networks", "glow.execution", "glow.models", "glow.cost"]
ONLY_IN = {
    "jsonargparse": {"glow.cli"},
    "accelerate": {
        "glow.parallel",
        "glow.training.trainer",
        "glow.training.starting",
        "glow.training.validation",
        "glow.training.progress",
        "glow.training.drift",
        "glow.training.skipped",
        "glow.training.trackers",
        "pipelines.train",
        "glow.benchmarking.contestants",
    },
    "torch.utils.tensorboard": {"glow.training.board"},
    "tensorboard": {"glow.training.board"},
    "sklearn": {"glow.data.prepare.digits", "glow.inference.logistic"},
    "normflows": {"glow.benchmarking.peers"},
    "pyarrow": {"glow.data.prepare.parquet"},
    "fsspec": {"glow.data.read.remote"},
    "huggingface_hub": {"glow.files.hub"},
    "gradio": {"glow.explore.page", "glow.explore.tabs"},
    "triton": {"glow.networks.kernels"},
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


def room_of(name):
    return next((room for layer in LAYERS for room in layer if is_within(name, room)), None)


def layer_of(room):
    return next(number for number, layer in enumerate(LAYERS) if room in layer)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_run_downward(path):
    name = name_of(path)
    if name in ("glow", "glow.data"):
        return
    own = room_of(name)
    assert own is not None, f"{name} belongs to no room"
    for imported in imports_of(path):
        other = room_of(imported)
        assert other in (None, own) or layer_of(other) < layer_of(own), f"{name} imports {imported}"
        if own in MODEL_SIDE:
            assert not is_within(imported, "glow.data"), "model and data do not know each other"
        for library, places in ONLY_IN.items():
            allowed = any(is_within(name, place) for place in places)
            assert not is_within(imported, library) or allowed, f"{name} imports {imported}"


def test_no_modules_import_each_other_in_a_circle():
    names = {name_of(path) for path in FILES}
    graph = {name_of(path): {other for other in imports_of(path) if other in names} for path in FILES}
    graph.pop("glow")  # imports what it offers when it is asked for it
    TopologicalSorter(graph).prepare()


def test_rooms_are_what_the_listing_of_the_library_shows():
    loose = {path.name for path in Path("glow").glob("*.py")}
    assert loose == {"__init__.py", "console.py", "locking.py", "randomness.py"}
    rooms = {path.name for path in Path("glow").iterdir() if (path / "__init__.py").exists()}
    assert rooms == {room.split(".")[1] for layer in LAYERS for room in layer if room.startswith("glow.")} - {
        name.removesuffix(".py") for name in loose
    }


def test_modules_are_short_enough_to_be_read_in_one_go():
    lines = {str(path): path.read_text().count("\n") for path in FILES}
    assert {
        path: count for path, count in lines.items() if count > (110 if path.startswith("pipelines") else 300)
    } == {}


def test_model_side_imports_torch_alone():
    allowed = {"torch", "triton", "glow", *sys.stdlib_module_names}
    for path in FILES:
        if room_of(name_of(path)) in MODEL_SIDE:
            assert {imported.split(".")[0] for imported in imports_of(path)} <= allowed, path


def test_nothing_is_pickled():
    for path in FILES:
        source = path.read_text()
        if is_within(name_of(path), "glow.importing") and "torch.load(" in source:
            assert source.count("torch.load(") == source.count("weights_only=True")
            continue
        assert "pickle" not in source.replace("can be pickled", "")
        assert "torch.load(" not in source
        assert "torch.save(" not in source


def test_every_part_of_a_model_is_documented():
    text = Path("docs/reference/maps.md").read_text()
    options = [*typing.get_type_hints(ModelConfig).items(), *typing.get_type_hints(FlowConfig).items()]
    for name, hint in options:
        values = [value for part in (hint, *typing.get_args(hint)) for value in typing.get_args(part)]
        for value in (value for value in values if isinstance(value, str)):
            documented = f": {value}`" in text or f"`{value}`" in text
            assert documented, f"{name}: {value}"
