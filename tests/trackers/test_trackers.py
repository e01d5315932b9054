"""Trackers without a network: what they keep of a run that was killed and resumed (``make test-trackers``).

Each one has an environment of its own: their dependencies and those of glow need not agree.
"""

import importlib.util
import json
import sqlite3
import struct
from pathlib import Path

import pytest
from training_runs import options, train_and

from glow.training.metrics import read_metrics
from glow.training.trackers import TRACKERS_FILE
from pipelines import train

pytestmark = pytest.mark.trackers


class Killed(Exception):
    """Stands for the end of a process."""


def kill():
    raise Killed


def records(content):
    """Yield the records of a log of LevelDB: blocks of 32 KiB, of fragments with 7 bytes of head, after 7 bytes."""
    position, whole = 7, b""
    while position + 7 <= len(content):
        size, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        if kind:  # 1: a whole record; 2, 3, 4: its first, a middle, its last part
            whole += content[position + 7 : position + 7 + size]
            if kind in (1, 4):
                yield whole
                whole = b""
        position += 7 + size
        if 32768 - position % 32768 < 7 or not kind:
            position += 32768 - position % 32768


def wandb_lines(folder):
    """Return steps and values, and the configuration, of the offline runs of wandb."""
    from wandb.proto import wandb_internal_pb2

    lines, config, ids = [], {}, set()
    for path in sorted(Path(folder).rglob("*.wandb")):
        for data in records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
            for update in (*record.run.config.update, *record.config.update):
                config["/".join([update.key, *update.nested_key]).rstrip("/")] = json.loads(update.value_json)
            if record.HasField("history"):
                items = {
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
                }
                lines.append((items["_step"], items))
    return lines, config, ids


def trackio_lines(folder):
    """Return the same of trackio's data base."""
    (path,) = Path(folder).rglob("*.db")
    with sqlite3.connect(path) as base:
        rows = base.execute("SELECT step, metrics, run_name FROM metrics ORDER BY id").fetchall()
        config = json.loads(base.execute("SELECT config FROM configs").fetchone()[0])
    return [(step, json.loads(text)) for step, text, _ in rows], config, {name for _, _, name in rows}


READERS = {"wandb": wandb_lines, "trackio": trackio_lines}


@pytest.mark.parametrize("name", READERS)
def test_a_tracker_gets_each_step_once_with_configuration_and_environment(dataset, tmp_path, monkeypatch, name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not in this environment")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "base"))
    arguments = options(dataset, tmp_path / "run", "--trackers", f"[{name}]")
    with pytest.raises(Killed):
        train_and(arguments, at_step=7, action=kill)  # the last checkpoint is of step 4
    first = json.loads((tmp_path / "run" / TRACKERS_FILE).read_text())
    train.main(arguments)
    second = json.loads((tmp_path / "run" / TRACKERS_FILE).read_text())
    assert (first[name]["sent"], second[name]["sent"]) == (0, 6)
    assert first[name]["id"] == second[name]["id"]
    lines, config, ids = READERS[name](tmp_path)
    assert ids == {first[name]["id"]}
    ours = [(step, values) for step, values in lines if "train/bits_per_dim" in values]
    assert [step for step, _ in ours] == [*range(1, 9)]
    for (_, values), line in zip(ours, read_metrics(tmp_path / "run"), strict=True):
        keys = {key for key in line if not key.endswith(("_s", "_bytes", "step"))}
        assert {key: values[key] for key in keys} == pytest.approx({key: line[key] for key in keys})
    assert config["optimizer.lr"] == pytest.approx(0.002)
    assert config["environment.python"].startswith("3.")
    assert not (tmp_path / "run/tensorboard").exists()
