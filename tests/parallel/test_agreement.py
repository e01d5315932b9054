"""Processes that differ in options or data are named before the model is built."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import run_ranks
from training_runs import assert_same_checkpoint, comparable, options, train_main

from glow.training.tasks import find
from pipelines import train as train_stage


def train_differently(arguments, others):
    try:
        train_stage.main(arguments if os.environ["RANK"] == "0" else others)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--model.num_levels", "1"], "process 1 has another model.num_levels than process 0: 1, not 2"),
        (["--train.seed", "3"], "process 1 has another train.seed than process 0: 3, not 0"),
        (["--model.scale", "exp"], "process 1 has another model.scale than process 0: exp, not None"),
    ],
)
def test_process_with_other_options_is_named_before_the_model_is_built(dataset, tmp_path, extra, message):
    arguments = options(dataset, tmp_path / "run")
    assert run_ranks(train_differently, 2, arguments, [*arguments, *extra]) == [message] * 2
    assert not (tmp_path / "run").exists()


def train_in(folders, arguments):
    """Train in a folder of the process's own, so that each sees another run directory."""
    os.chdir(folders[int(os.environ["RANK"])])
    train_stage.main(arguments)


def test_a_process_that_sees_another_directory_follows_the_main_one(dataset, tmp_path):
    folders = [tmp_path / "shared", tmp_path / "stale"]
    for folder in folders:
        folder.mkdir()
    arguments = options(dataset, "run", "--parallel.mode", "fsdp", "--train.validate_every", "2")
    arguments[1] = str(Path(arguments[1]).resolve())
    run_ranks(train_in, 2, folders, [*arguments, "--train.num_steps", "4"])
    run_ranks(train_in, 2, folders, arguments)
    assert [*folders[1].iterdir()] == []
    run, undisturbed = folders[0] / "run", tmp_path / "undisturbed"
    run_ranks(train_main, 2, [*arguments, "--output", str(undisturbed)])
    assert_same_checkpoint(*(each / "checkpoints/step-00000008" for each in (run, undisturbed)))
    assert comparable(run) == comparable(undisturbed)


def test_process_with_other_data_is_named(dataset, tmp_path):
    link = tmp_path / "data"  # as on nodes that each have a copy of their own at the same place
    arguments = [*options(link, tmp_path / "run")]
    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    manifest = json.loads((other / "dataset.json").read_text())
    validation = manifest["splits"]["validation"]
    for shard in validation["shards"]:
        shard["sha256"] = "0" * 64
    validation["sha256"] = hashlib.sha256(b"0" * 64 * len(validation["shards"])).hexdigest()
    (other / "dataset.json").write_text(json.dumps(manifest))
    errors = run_ranks(train_on_own_copy, 2, arguments, [str(dataset), str(other)], str(link))
    assert len(set(errors)) == 1
    assert errors[0].startswith(f"process 1 has another validation split than process 0: {validation['sha256']}, not ")


def train_on_own_copy(arguments, copies, link):
    load = find.load_dataset
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(find, "load_dataset", lambda path: load(copies[int(os.environ["RANK"])]))
        return train_differently(arguments, arguments)
