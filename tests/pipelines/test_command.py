"""The command ``glow``: its stages, its help, and the configurations that it knows by name."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from glow.cli import config_names, parse_config
from glow.config import TrainRun
from pipelines import STAGES, command

CONFIGS = Path("configs")


def test_every_stage_has_a_module_and_a_line_of_help(capsys):
    modules = {path.stem for path in Path("pipelines").glob("*.py")} - {"__init__", "command"}
    assert set(STAGES) == modules
    command.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for name, stage in STAGES.items():
        assert f"  {name:17}  {stage.summary}" in lines
        assert dataclasses.is_dataclass(stage.config)


def test_no_arguments_are_a_question_for_help(capsys):
    command.main([])
    assert capsys.readouterr().out.startswith("usage: glow STAGE")


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in STAGES)], ids=lambda words: words[0])
def test_help_imports_no_torch(arguments):
    """Wrong options are found as early: the stage is imported after them."""
    code = f"""
import sys
from pipelines import command
sys.argv[0] = "/somewhere/bin/glow"
try:
    command.main({arguments})
finally:
    assert not {{"torch", "numpy", "accelerate"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: glow {arguments[0] if len(arguments) == 2 else 'STAGE'} ")


def test_help_of_a_module_comes_before_its_imports(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('imported')\n")
    path = os.pathsep.join([str(tmp_path), str(Path.cwd())])
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.train", "--output", "x", "--help"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m pipelines.train ")
    assert "Train a Glow on a prepared data set, or a flow on vectors or a target. The" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "trian: no such stage; did you mean train?"),
        (["import-checkpoint"], "import-checkpoint: no such stage; did you mean import_checkpoint?"),
        (["x"], "x: no such stage; the stages are prepare, train, sample, "),
        (["sample", "--num_images", "0", "--checkpoint", "x"], "num_images: 0 is not allowed; "),
        (["train", "--config", "digit"], "--config: digit is neither a file nor one of celebahq256, "),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["glow", *arguments])
    with pytest.raises(SystemExit) as stop:
        command.run()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_stage_gets_its_options(monkeypatch):
    got = []
    monkeypatch.setattr("pipelines.prepare.main", got.append)
    command.main(["prepare", "--source", "digits", "--output", "x"])
    assert got == [["--source", "digits", "--output", "x"]]


@pytest.mark.parametrize("arguments", [["--config", "smoke"], ["--config=smoke"]], ids=str)
def test_configuration_is_found_by_name_in_any_folder(arguments, tmp_path, monkeypatch):
    expected = parse_config(TrainRun, ["--config", "configs/smoke.yaml"], "train")
    monkeypatch.chdir(tmp_path)
    assert parse_config(TrainRun, arguments, "train") == expected


def test_names_are_those_of_the_folder():
    assert config_names() == sorted(path.stem for path in CONFIGS.iterdir() if path.is_file())


def test_file_goes_before_a_packaged_configuration(tmp_path, monkeypatch):
    (tmp_path / "smoke").write_text("output: mine\n")
    monkeypatch.chdir(tmp_path)
    assert parse_config(TrainRun, ["--config", "smoke"], "train").output == "mine"
