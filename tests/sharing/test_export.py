"""Exported models compute what their checkpoints compute; what is damaged or hostile ends in one line."""

import hashlib
import json
import os
import tarfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

import glow
from glow.config import DataConfig, FlowConfig, TrainRun, VectorDataConfig
from glow.models.flow import build_flow
from glow.training.checkpoints.exported import without_places
from glow.training.checkpoints.manager import CheckpointManager, find_checkpoint
from glow.training.checkpoints.models import load_model
from glow.training.checkpoints.reading import read_config
from glow.training.checkpoints.state import State
from glow.training.checkpoints.writing import Snapshot
from pipelines import evaluate, export, sample

ARCHIVE = Path(__file__).parent.parent / "compatibility" / "0.1.0.tar.gz"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data set, runs on it ("mixture" has classes), their results, and the models exported from them."""
    root = tmp_path_factory.mktemp("sharing")
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(root, filter="data")
    sample.main(["--checkpoint", str(root / "affine"), "--num_images", "8"])
    evaluate.main(["--checkpoint", str(root / "affine"), "--data", str(root / "data"), "--baselines", "false"])
    for name in ("affine", "mixture"):
        options = ["--output", str(root / "hub" / name), "--license", "cc-by-4.0"]
        assert export.main(["--checkpoint", str(root / name), *options]) == str(root / "hub" / name)
    return root


@pytest.fixture
def model(root, tmp_path):
    """A copy of an exported model, to be changed."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in (root / "hub/affine").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def forge(folder, change):
    """Change config.json, and vouch for it and for the weights."""
    values = json.loads((folder / "config.json").read_text())
    del values["config_sha256"]
    values["state"]["sha256"] = {
        "model.safetensors": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    }
    change(values)
    values["config_sha256"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("name", ["affine", "mixture"])
def test_an_exported_model_is_the_model_of_the_run(root, name):
    ours, theirs = glow.load(root / name), glow.load(root / "hub" / name)
    images = ours.sample(5)
    assert torch.equal(images, theirs.sample(5))
    assert torch.equal(ours.bits_per_dim(images), theirs.bits_per_dim(images))
    assert ours.classes == theirs.classes


def test_stages_take_an_exported_model_and_write_beside_no_model(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = ["--checkpoint", str(root / "hub/affine")]
    report = evaluate.main([*checkpoint, "--data", str(root / "data"), "--baselines", "false"])
    assert report == Path("results/affine/report/step-00000004-test")
    before = json.loads((root / "affine" / report.relative_to("results/affine") / "bpd.json").read_text())
    assert json.loads((report / "bpd.json").read_text())["bits_per_dim"] == before["bits_per_dim"]
    assert sample.main([*checkpoint, "--num_images", "8"]) == Path("results/affine/samples/step-00000004")


def test_the_card_has_the_measured_bits_per_dim_and_the_license(root):
    report = json.loads((root / "affine/report/step-00000004-test/bpd.json").read_text())
    folder = root / "hub/affine"
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.eval_results[0].metric_value == report["bits_per_dim"]
    assert f"| {report['bits_per_dim']:.3f} ± {report['standard_error']:.3f} |" in card.text
    grid = root / "affine/samples/step-00000004/grid-t0.70.png"
    assert (folder / "samples.png").read_bytes() == grid.read_bytes()
    other = (root / "hub/mixture/README.md").read_text()
    assert "No bits/dim was measured for this card." in other
    assert "samples.png" not in other


def test_reports_on_other_weights_are_not_in_the_card(root, tmp_path):
    path = root / "affine/report/step-00000004-test-seed-9/bpd.json"
    path.parent.mkdir()
    values = json.loads((root / "affine/report/step-00000004-test/bpd.json").read_text())
    for number, change in enumerate(
        ({"seed": 9}, {"valid": False}, {"checkpoint": {"sha256": "x"}}, {"dtype": "bf16"}, {"num_images": "x"})
    ):
        path.write_text(json.dumps(values | change))
        options = ["--checkpoint", str(root / "affine"), "--output", str(tmp_path / str(number))]
        if number == 4:
            with pytest.raises(
                ValueError, match=r"bpd\.json: not a report of evaluate: num_images: 'x' is not allowed"
            ):
                export.main(options)
        else:
            export.main(options)
            measured = json.loads((tmp_path / str(number) / "config.json").read_text())["measured"]
            assert len(measured) == (2 if number == 0 else 1)
    path.unlink()


def test_no_place_of_this_machine_is_exported(root):
    for path in (root / "hub").rglob("*"):
        assert path.is_dir() or str(root).encode() not in path.read_bytes()
    run = read_config(find_checkpoint(root / "affine"))
    for place in ("pipe:curl -u secret:word", "https://secret/{0..9}.tar?key=secret", "/secret/x"):
        told = TrainRun("/secret/a", run.model, DataConfig(stream=place, validation="secret/v", root="/home/secret"))
        assert "secret" in str(told)
        assert "secret" not in str(without_places(told))


def test_a_flow_of_vectors_is_exported(tmp_path):
    config = FlowConfig(num_dims=2)
    tensors = build_flow(config).state_dict()
    run = TrainRun(str(tmp_path / "run"), flow=config, vectors=VectorDataConfig("moons"))
    CheckpointManager(tmp_path / "run").save(
        Snapshot({"model": tensors, "ema": tensors}, run, State(step=1, images_seen=1))
    )
    export.main(["--checkpoint", str(tmp_path / "run"), "--output", str(tmp_path / "hub")])
    assert torch.equal(glow.load(tmp_path / "hub").sample(9), glow.load(tmp_path / "run").sample(9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(model_type="bert"), "config.json: not the configuration of a model that glow exported"),
        (lambda v: v.update(format=2), r"written by a later version \(format 2; this version reads 1\)"),
        (lambda v: v.update(format="1"), "damaged or changed: its checksum is not that of its content"),
        (lambda v: v.update(state=3), "state: 3 is not allowed; give a mapping"),
        (lambda v: v.update(run=[1]), r"run: \[1\] is not allowed; give a mapping"),
        (lambda v: v["run"]["model"].update(num_steps_per_level=10**9), "tensors, but 2,000,000,000 layers"),
        (lambda v: v["run"]["model"].update(hidden_channels=10**9), "its weights do not fit its model"),
        (lambda v: v["run"]["model"].update(image_shape=[3, 10**6, 10**6]), "set GLOW_MAX_DIMS to allow more"),
        (lambda v: v["run"]["model"].update(coupling=["x"]), r"coupling: \['x'\] is not allowed"),
        (lambda v: v["state"].update(step="1"), "step: '1' is not allowed; give an integer"),
        (
            lambda v: v["state"].update(sha256={}),
            "model.safetensors: not a file of this .*: config.json has no checksum",
        ),
        (lambda v: v["state"].update(sha256={"model.safetensors": "0"}), "damaged or changed: .* in config.json"),
        (lambda v: v.update(measured=[{"bits_per_dim": 1}]), r"measured\[0\].standard_error is missing"),
        (lambda v: v.update(weights="raw"), "holds the weights raw alone; give weights raw"),
        (lambda v: v.update(code="x"), "Export has no field code"),
    ],
)
def test_a_hostile_configuration_ends_in_one_line(model, change, message):
    forge(model, change)
    with pytest.raises(ValueError, match=message):
        load_model(model)


def test_a_changed_configuration_is_refused(model):
    path = model / "config.json"
    path.write_text(path.read_text().replace('"num_bits": 4', '"num_bits": 5'))
    with pytest.raises(ValueError, match=r"config\.json: damaged or changed"):
        load_model(model)
    for content in ("{", "[]", "[" * 10**5, '{"model_type": "glow"}', '{"a": 1, "a": 2}'):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"config\.json: not"):
            load_model(model)


def test_weights_that_do_not_fit_end_in_one_line(model):
    path = model / "model.safetensors"
    whole, tensors = path.read_bytes(), load_file(path)
    name = next(iter(tensors))
    for changed, message in (
        ({key: value for key, value in tensors.items() if key != name}, f"{name}: no such tensor, not"),
        (tensors | {name: tensors[name].flatten()[:1].repeat(7)}, rf"{name}: \[7\], not"),
        (tensors | {"more": torch.zeros(1)}, "more: .1., not no such tensor"),
    ):
        save_file(changed, path)
        forge(model, lambda values: None)
        with pytest.raises(ValueError, match=f"its weights do not fit its model: {message}"):
            load_model(model)
    torch.save(tensors, path)  # a pickle
    forge(model, lambda values: None)
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged"):
        load_model(model)
    for content in (whole[:-4], b"", b"\xff" * 8 + whole[8:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors: damaged"):
            load_model(model)
    path.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors: no such file"):
        load_model(model)
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"model\.safetensors: not a file"):
        load_model(model)


def test_exporting_takes_no_folder_in_use_and_no_exported_model(root, model):
    with pytest.raises(ValueError, match=r"copy: exists and is not empty; choose another --output"):
        export.main(["--checkpoint", str(root / "affine"), "--output", str(model)])
    for options in ([], ["--push", "a/b", "--license", "mit"]):
        with pytest.raises(ValueError, match="copy: exported already; give --push alone"):
            export.main(["--checkpoint", str(model), *options])
    with pytest.raises(ValueError, match="push: 'b' is not allowed; give USER/NAME"):
        export.main(["--checkpoint", str(model), "--push", "b"])
