"""Models on the Hugging Face Hub, by its real client: from its cache without a network, and from a server here."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import tiny_glow
from hub_server import hub_server
from safetensors.torch import save_file
from saved_runs import save_run

import glow
from pipelines import export

PROGRAM = """
import sys
import glow
from glow.cli.stage import one_line
for address in sys.argv[1:]:
    try:
        print(glow.load(address).sample(2).sum().item())
    except ValueError as error:
        print(one_line(error))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An exported model."""
    root = tmp_path_factory.mktemp("exported")
    save_run(root / "run", "data", tiny_glow(torch.float32))
    export.main(["--checkpoint", str(root / "run"), "--output", str(root / "model")])
    return root / "model"


def client(tmp_path, program, *arguments, **environment):
    """Lines that a program prints which has the Hub of these environment variables, and a cache in a folder."""
    keys = {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "x",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, **keys, **environment},
    )
    return done.stdout.splitlines() + [line for line in done.stderr.splitlines() if line.startswith(("error", "Trace"))]


def test_a_cached_model_loads_without_a_network(exported, tmp_path):
    commit = "0123456789" * 4
    repository = tmp_path / "hf/hub/models--ann--flowers"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    (repository / "snapshots" / commit).symlink_to(exported)
    number = str(glow.load(exported).sample(2).sum().item())
    addresses = ["hf://ann/flowers", f"hf://ann/flowers@{commit}", "hf://ann/trees", "hf://ann/flowers@old", "hf://ann"]
    lines = client(tmp_path, ["-c", PROGRAM], *addresses, HF_HUB_OFFLINE="1")
    assert lines[:2] == [number, number]
    absent = "not in the cache of the Hub, and the Hub cannot be reached"
    assert lines[2:4] == [f"hf://ann/trees: {absent}", f"hf://ann/flowers@old: {absent}"]
    assert lines[4].startswith("hf://ann: not an address of the Hub; give hf://USER/NAME")


def test_models_are_pushed_and_fetched_by_revision(exported, tmp_path):
    number = str(glow.load(exported).sample(2).sum().item())
    with hub_server() as server:
        push = ["-m", "pipelines.export", "--checkpoint", str(exported), "--push", "ann/flowers"]
        lines = client(tmp_path, push, HF_ENDPOINT=server.address)
        first, files = server.models["ann/flowers"][0]
        assert lines == [str(exported), f"hf://ann/flowers@{first}"]
        assert files == {path.name: path.read_bytes() for path in exported.iterdir()}
        save_file({"x": torch.zeros(1)}, tmp_path / "other")
        second = server.commit("ann/flowers", {"model.safetensors": (tmp_path / "other").read_bytes(), "x.pt": b"x"})
        server.commit("ann/other", {"README.md": b""})
        server.requests.clear()
        addresses = [
            f"hf://ann/flowers@{first}",
            "hf://ann/flowers",
            "hf://ann/flowers@old",
            "hf://ann/no",
            "hf://ann/other",
        ]
        lines = client(tmp_path, ["-c", PROGRAM], *addresses, HF_ENDPOINT=server.address)
    assert lines[0] == number
    assert "its weights do not fit its model" in lines[1]
    assert second in lines[1]
    assert lines[2] == "hf://ann/flowers@old: the model has no such revision"
    assert lines[3] == "hf://ann/no: no such model, or not one for you; `hf auth login` logs in"
    assert lines[4].startswith("hf://ann/other: not a model that glow exported: ")
    assert not any(request.endswith("/main/model.safetensors") for request in server.requests)  # of one commit
    assert {request.rpartition("/")[2] for request in server.requests} == {"config.json", "model.safetensors"}
