"""A checkpoint may be a stranger's, or changed by hand: it is read right, or one line says what is wrong with it."""

import dataclasses
import hashlib
import json
import os
import resource
import time

import pytest
import torch
import yaml
from conftest import tiny_config, tiny_glow
from safetensors.torch import load_file, save_file
from training_runs import options, snapshot

from glow.config import FlowConfig, TrainRun, VectorDataConfig
from glow.models.flow import build_flow
from glow.training.checkpoints.manager import CheckpointManager
from glow.training.checkpoints.models import load_flow, load_model
from glow.training.checkpoints.reading import read_config, read_state
from glow.training.checkpoints.state import State, state_text
from glow.training.checkpoints.writing import Snapshot
from pipelines import train as train_stage


@pytest.fixture
def checkpoint(tmp_path):
    return CheckpointManager(tmp_path).save(snapshot(1))


@pytest.fixture
def flow_checkpoint(tmp_path):
    config = FlowConfig(num_dims=2)
    tensors = build_flow(config).state_dict()
    run = TrainRun("x", flow=config, vectors=VectorDataConfig("moons"))
    return CheckpointManager(tmp_path).save(
        Snapshot({"model": tensors, "ema": tensors}, run, State(step=1, images_seen=1))
    )


def forge(checkpoint, content):
    """Replace config.yaml, and vouch for it."""
    (checkpoint / "config.yaml").write_bytes(content.encode())
    state = json.loads((checkpoint / "state.json").read_text())
    checksums = state["sha256"] | {"config.yaml": hashlib.sha256(content.encode()).hexdigest()}
    (checkpoint / "state.json").write_text(state_text(State(step=1, images_seen=1, sha256=checksums)))


def forge_option(checkpoint, group, **changes):
    values = yaml.safe_load((checkpoint / "config.yaml").read_text())
    (values[group] if group else values).update(changes)
    forge(checkpoint, yaml.safe_dump(values))


class Frugal:
    """Asserts that a block takes little time and memory."""

    def __enter__(self):
        self.start, self.peak = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def __exit__(self, *error):
        assert time.perf_counter() - self.start < 5
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.peak < 200_000  # kB


def test_changed_configuration_is_refused(checkpoint):
    path = checkpoint / "config.yaml"
    path.write_text(path.read_text().replace("num_bits: ", "num_bits: 0"))
    with pytest.raises(
        ValueError, match=r"config\.yaml: damaged or changed: its checksum is not the one in state\.json"
    ):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images_seen": 5}, "damaged or changed: its checksum is not that of its content"),
        ({"step": 2}, "damaged or changed"),
        ({"stepp": 2}, "damaged or changed"),
        ({"format": 1}, "damaged or changed"),
        ({"format": "2"}, "damaged or changed"),
        ({"format": None}, "damaged or changed"),
        ({"format": 3}, r"written by a later version \(format 3; this version reads 1 to 2\)"),
        ({"state_sha256": None}, "damaged or changed"),
        ({"state_sha256": ["x"]}, "damaged or changed"),
    ],
)
def test_state_vouches_for_itself(checkpoint, change, message):
    path = checkpoint / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"state\.json: {message}"):
        load_model(checkpoint)


def as_before(checkpoint, **changes):
    """Write state.json as it was written before it had a checksum."""
    path = checkpoint / "state.json"
    values = json.loads(path.read_text())
    del values["format"], values["state_sha256"]
    path.write_text(json.dumps(values | changes))


def test_state_without_a_checksum_of_its_own_is_read_as_before(checkpoint):
    state = read_state(checkpoint)
    as_before(checkpoint)
    assert read_state(checkpoint) == state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 2}, "of step 2, but the directory is named step-00000001"),
        ({"step": "1"}, "step: '1' is not allowed; give an integer"),
        ({"step": True}, "step: true is not allowed; give an integer"),
        ({"step": -1}, "step: -1 is not allowed; give 0 to 99999999"),
        ({"step": 10**30}, "step: 1000.* is not allowed"),
        ({"stepp": 2}, "State has no field stepp; its fields are step, images_seen"),
        ({"sha256": []}, r"sha256: \[\] is not allowed; give a mapping"),
        ({"sha256": {"config.yaml": 3}}, r"sha256\.config\.yaml: 3 is not allowed; give text"),
        ({"sha256": {"/dev/zero": "x"}}, "sha256: .* give names of files of the checkpoint"),
        ({"losses_since_log": [1, "a"]}, r"losses_since_log\[1\]: 'a' is not allowed; give a number"),
        ({"losses_since_log": [float("nan")]}, "losses_since_log: .* give finite numbers"),
        ({"validation_bits_per_dim": float("nan")}, "validation_bits_per_dim: nan is not allowed"),
        ({"loss_scale": {"scale": 1}}, "loss_scale: .* give scale and steps_since_change"),
        ({"num_processes": 0}, "num_processes: 0 is not allowed"),
        ({"classes": "ab"}, "classes: 'ab' is not allowed; give a list"),
    ],
)
def test_wrong_values_in_a_state_without_checksum_are_errors_of_one_line(checkpoint, change, message):
    as_before(checkpoint, **change)
    with pytest.raises(ValueError, match=rf"state\.json: {message}"):
        load_model(checkpoint)


def test_resuming_does_not_believe_a_changed_position(dataset, tmp_path):
    train_stage.main(options(dataset, tmp_path))
    as_before(tmp_path / "checkpoints/step-00000008", images_seen=5)
    with pytest.raises(ValueError, match=r"state\.json: images_seen is 5, not that of step 8"):
        train_stage.main(options(dataset, tmp_path, "--train.num_steps", "9"))


def test_nothing_is_read_without_a_checksum(checkpoint):
    as_before(checkpoint, sha256={})
    with pytest.raises(ValueError, match=r"config\.yaml: not a file of this checkpoint: state\.json has no checksum"):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        ("model", {"num_steps_per_level": 10**9}, "do not fit its model: .* tensors, but 2,000,000,000 layers"),
        ("model", {"network": "gated", "num_network_blocks": 10**9}, "layers"),
        ("model", {"dequantization": "variational", "dequantization_steps": 10**9}, "layers"),
        ("model", {"hidden_channels": 10**9}, "do not fit its model: .*: .*, not "),
        ("model", {"hidden_channels": 10**30}, "its model cannot be built"),
        ("model", {"coupling": "mixture", "num_mixtures": 10**9}, "do not fit its model"),
        ("model", {"class_conditional": True, "num_classes": 10**9}, "do not fit its model"),
        ("model", {"num_levels": 10**12}, r"model\.num_levels: 1000000000000 is not allowed; give at most 16"),
        (
            "model",
            {"image_shape": [3, 10**6, 10**6]},
            "3,000,000,000,000 dimensions, .* set GLOW_MAX_DIMS to allow more",
        ),
        ("model", {"image_shape": [10**6, 4, 4]}, "set GLOW_MAX_DIMS"),
        ("model", {"image_shape": None}, "its model cannot be built"),
        ("model", {"image_shape": [3, 8]}, r"model\.image_shape: \[3, 8\] is not allowed; give 3 values"),
        ("model", {"image_shape": 3}, r"model\.image_shape: 3 is not allowed"),
        ("model", {"num_bits": "4"}, r"model\.num_bits: '4' is not allowed; give an integer"),
        ("model", {"num_bits": None}, r"model\.num_bits: None is not allowed"),
        ("model", {"coupling": ["affine"]}, r"model\.coupling: .* give one of affine, additive, mixture"),
        ("model", {"widthh": 3}, "ModelConfig has no field widthh; its fields are image_shape"),
        (None, {"model": 3}, "model: 3 is not allowed; give a mapping"),
        (None, {"output": None}, "output: None is not allowed; give text"),
        ("optimizer", {"lr": "fast"}, r"optimizer\.lr: 'fast' is not allowed; give a number"),
        ("vectors", {"name": "moons"}, "leave it out: it is for a Glow of images"),
    ],
)
def test_configuration_decides_no_memory_and_wrong_values_are_errors_of_one_line(checkpoint, group, change, message):
    forge_option(checkpoint, group, **change)
    with Frugal(), pytest.raises(ValueError, match=rf"step-00000001.*: .*{message}"):
        load_model(checkpoint)


@pytest.mark.parametrize(
    "change",
    [
        {"num_layers": 10**9},
        {"num_hidden_layers": 10**9},
        {"hidden_channels": 10**9},
        {"num_dims": 10**12},
        {"kind": "mixture", "num_mixtures": 10**9},
    ],
)
def test_configuration_of_a_flow_decides_no_memory(flow_checkpoint, change):
    forge_option(flow_checkpoint, "flow", **change)
    with Frugal(), pytest.raises(ValueError, match="its weights do not fit its model"):
        load_flow(flow_checkpoint)


def test_number_of_points_to_draw_is_limited(flow_checkpoint):
    forge_option(flow_checkpoint, "vectors", num_points=10**12)
    with pytest.raises(ValueError, match=r"1,000,000,000,000 vectors, but .* set GLOW_MAX_POINTS to allow more"):
        read_config(flow_checkpoint)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\n", "aliases"),
        ("[" * 50_000, "nested too deeply"),
        ("model: {num_bits: 4, num_bits: 5}", "'num_bits' is given twice"),
        ("model: !!python/object/apply:os.mkdir [made]", "could not determine a constructor"),
        ("", "give a mapping"),
        ("a: " + "b" * 100_000, "GLOW_MAX_YAML_BYTES"),
    ],
)
def test_yaml_cannot_run_code_or_take_memory(checkpoint, content, message):
    forge(checkpoint, content)
    with Frugal(), pytest.raises(ValueError, match=rf"config\.yaml.*: .*{message}"):
        load_model(checkpoint)


@pytest.mark.parametrize("kind", ["pipe", "directory", "link", "large"])
@pytest.mark.parametrize("name", ["config.yaml", "state.json", "ema.safetensors"])
def test_what_stands_in_place_of_a_file_is_an_error(checkpoint, name, kind):
    path = checkpoint / name
    path.unlink()
    if kind == "large":
        with path.open("wb") as file:
            file.truncate(10**12)
    else:
        {"pipe": os.mkfifo, "directory": os.mkdir, "link": lambda path: path.symlink_to(path.name)}[kind](path)
    with Frugal(), pytest.raises(ValueError, match=rf"{name}: (not a file|.*GLOW_MAX|damaged)"):
        load_model(checkpoint)


def test_loaded_weights_are_those_of_the_file(checkpoint):
    loaded, original = load_model(checkpoint), tiny_glow(torch.float32)
    assert loaded.config == tiny_config()
    assert all(torch.equal(value, original.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("ema", lambda name, value: {name: value[:1]}, r"its weights do not fit its model: "),
        ("ema", lambda name, value: {}, r"its weights do not fit its model: .* no such tensor"),
        (
            "optimizer",
            lambda name, value: {name: torch.zeros(2, 2)},
            r"its optimiser .* has shape \[2, 2\]",
        ),
        ("optimizer", lambda name, value: {name: value, "x/exp_avg": value.clone()}, "its optimiser .* x/exp_avg"),
    ],
)
def test_tensors_of_another_model_are_refused_where_a_training_goes_on(dataset, tmp_path, file, change, message):
    run = tmp_path / "run"
    train_stage.main(options(dataset, run, "--train.num_steps", "1", "--train.checkpoint_every", "1"))
    checkpoint = run / "checkpoints/step-00000001"
    path = checkpoint / f"{file}.safetensors"
    tensors = load_file(path)
    name = next(name for name, value in tensors.items() if value.dim() > 1 and "weight" in name)
    save_file({**{key: value for key, value in tensors.items() if key != name}, **change(name, tensors[name])}, path)
    state = read_state(checkpoint)
    checksums = state.sha256 | {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    (checkpoint / "state.json").write_text(state_text(dataclasses.replace(state, sha256=checksums)))
    with pytest.raises(ValueError, match=message):
        train_stage.main(options(dataset, run, "--train.num_steps", "2"))
