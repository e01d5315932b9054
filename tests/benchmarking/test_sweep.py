"""Variations of a configuration: trained, measured, compared; stopped and gone on with."""

import csv
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from glow.benchmarking.sweep import Result, as_csv, as_markdown, name_of, read_variations, table_rows
from glow.training.checkpoints.manager import CheckpointManager
from pipelines import sweep

FILE = """
base: smoke
options:
  train: {num_steps: 2, batch_size: 12}
  model.hidden_channels: 8
grid:
  optimizer.lr: [0.001, 0.01]
  model.coupling: [affine, additive]
"""


def arguments(folder, dataset, *extra):
    return ["--variations", str(folder / "sweep.yaml"), "--data", str(dataset), "--output", str(folder / "out"), *extra]


def test_all_combinations_are_trained_once_measured_and_compared(dataset, tmp_path, monkeypatch, reset_accelerate):
    def call(stage, options):  # in this process, which has imported torch already
        reset_accelerate()
        importlib.import_module(f"pipelines.{stage}").main(options)

    monkeypatch.setattr(sweep, "call", call)
    (tmp_path / "sweep.yaml").write_text(FILE.replace("affine, additive", "affine"))
    sweep.main(arguments(tmp_path, dataset, "--index", "1"))
    out = tmp_path / "out"
    rows = list(csv.DictReader((out / "sweep.csv").read_text().splitlines()))
    assert [row["bits/dim"] == "not finished" for row in rows] == [False, True]
    second = out / "optimizer.lr-0.01-model.coupling-affine"
    times = {path: path.stat().st_mtime_ns for path in second.rglob("*.safetensors")}
    sweep.main(arguments(tmp_path, dataset))
    assert times
    assert {path: path.stat().st_mtime_ns for path in second.rglob("*.safetensors")} == times
    rows = list(csv.DictReader((out / "sweep.csv").read_text().splitlines()))
    assert {row["optimizer.lr"] for row in rows} == {"0.001", "0.01"}
    for row in rows:
        measured = json.loads((out / row["run"] / "report/sweep-validation/bpd.json").read_text())
        assert row["bits/dim"] == f"{measured['bits_per_dim']:.4f}"
        assert row["standard error"] == f"{measured['standard_error']:.4f}"
        assert row["steps"] == "2"
    assert float(rows[0]["bits/dim"]) <= float(rows[1]["bits/dim"])
    assert (out / "sweep.md").read_text().count("\n") == 4


def test_a_stopped_sweep_saves_and_goes_on(dataset, tmp_path):
    (tmp_path / "sweep.yaml").write_text(FILE.replace("num_steps: 2", "num_steps: 4000").partition("grid:")[0])
    command = [sys.executable, "-m", "pipelines.sweep", *arguments(tmp_path, dataset)]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE)
    metrics = tmp_path / "out/base/metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode == 130
    saved = CheckpointManager(tmp_path / "out/base").latest()
    assert saved is not None
    assert json.loads((tmp_path / "out/base/stopped.json").read_text())["reason"] == "SIGTERM"


def test_the_difference_is_that_of_the_same_images():
    noise, keys = np.linspace(0, 1, 5), "abcde"
    worse, best = (Result(dict(zip(keys, noise + shift, strict=True)), 7, 3.6, 10) for shift in (2.5, 2))
    variations = {"x": {"a": 1, "b": True}, "y": {"a": 2}, "z": {"c": "=f"}}
    head, *rows = table_rows(variations, {"x": worse, "y": best})
    assert head[:4] == ["run", "a", "b", "c"]
    assert rows[0] == ["y", "2", "", "", "2.5000", "0.1768", "", "", "7", "4", "10"]
    assert rows[1] == ["x", "1", "true", "", "3.0000", "0.1768", "+0.5000", "0.0000", "7", "4", "10"]
    assert rows[2] == ["z", "", "", "=f", "not finished", *[""] * 6]
    assert as_markdown([head, *rows]).splitlines()[1].count("---") == len(head)
    assert list(csv.reader(as_csv([head, *rows]).splitlines()))[2][6] == "+0.5000"


def test_runs_are_named_by_what_differs_and_are_combined(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("grid: {a.b: [1, 2]}\nruns: [{c: x}, {c: y, d: {e: true}}]\n")
    names = list(read_variations(str(path))[1])
    assert names == ["a.b-1-c-x", "a.b-2-c-x", "a.b-1-c-y-d.e-true", "a.b-2-c-y-d.e-true"]
    path.write_text("grid: {a: [1, -1]}\n")
    first, second = read_variations(str(path))[1]
    assert first == "a-1"
    assert second.startswith("a-1-")
    long = [name_of({"model.network": "x" * 90 + end}) for end in "ab"]
    assert len(set(long)) == 2
    assert len(long[0]) == 80


@pytest.mark.parametrize(
    ("text", "extra", "message"),
    [
        ("grid: {optimizer.lr: [1, 1]}", [], "two of its 2 runs are the same; give each one once"),
        ("grid: {optimizer.lr: []}", [], "0 runs are not allowed; give 1 to 1000"),
        ("grid: {optimizer.lr: 1}", [], r"grid.optimizer.lr: 1 is not allowed; give a list"),
        ("grids: {}", [], "Variations has no field grids; its fields are base, options, grid, runs"),
        ("options: {output: x}", [], "output is not allowed; the sweep has its own --output"),
        ("grid: {optimizer.lr: [1, -1]}", [], "run optimizer.lr-1-[0-9a-f]{8}: .*lr: -1.0 is not allowed; give a"),
        ("grid: {optimizer.lr: [1, 2]}", ["--index", "2"], "index: 2 is not allowed; .* has runs 0 to 1"),
        ("base: nothing", [], "run base: --config: nothing is neither a file nor one of"),
    ],
)
def test_mistakes_are_one_line_before_any_work(dataset, tmp_path, text, extra, message):
    (tmp_path / "sweep.yaml").write_text(text + "\n")
    with pytest.raises(ValueError, match=message) as error:
        sweep.main(arguments(tmp_path, dataset, *extra))
    assert "\n" not in str(error.value)
    assert not Path(tmp_path / "out").exists()
