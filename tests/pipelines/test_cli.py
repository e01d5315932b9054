"""Command lines: configuration from files and options, and errors of one line."""

import dataclasses
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glow.cli import parse_config, run_stage
from glow.cli.stage import PATIENCE_S
from glow.config import (
    DataConfig,
    EvaluateRun,
    ModelConfig,
    ParallelConfig,
    PolicyRun,
    PrepareRun,
    SampleRun,
    TrainConfig,
    TrainRun,
    config_to_dict,
)
from glow.files.schema import from_plain
from pipelines import STAGES, command

POLICY_CONFIG = Path("configs/policy.yaml")
CONFIGS = sorted(path for path in Path("configs").glob("*.yaml") if path != POLICY_CONFIG)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_is_valid_and_survives_a_round_trip(path):
    run = parse_config(TrainRun, ["--config", str(path)], "train")
    assert run.output == f"runs/{path.stem}"
    assert from_plain(TrainRun, config_to_dict(run)) == run


def test_config_of_the_policies_is_valid_and_survives_a_round_trip():
    run = parse_config(PolicyRun, ["--config", str(POLICY_CONFIG)], "policy")
    assert run.output == "runs/policy"
    assert from_plain(PolicyRun, config_to_dict(run)) == run


def test_papers_configs_are_the_papers():
    by_name = {path.stem: parse_config(TrainRun, ["--config", str(path)], "train") for path in CONFIGS}
    shapes = {name: (run.model.num_levels, run.model.num_steps_per_level) for name, run in by_name.items()}
    assert shapes["cifar10"] == (3, 32)
    assert shapes["imagenet64"] == (4, 48)
    assert shapes["celebahq256"] == (6, 32)
    celeba = by_name["celebahq256"].model
    assert (celeba.coupling, celeba.num_bits, celeba.hidden_channels) == ("additive", 5, 512)


def test_options_override_files_and_earlier_options(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("output: runs/a\noptimizer: {lr: 0.5}\nmodel: {image_shape: [1, 8, 8], num_levels: 2}\n")
    run = parse_config(TrainRun, ["--config", str(file), "--optimizer.lr", "1e-3"], "train")
    assert run.optimizer.lr == 1e-3
    assert run.model.image_shape == (1, 8, 8)


def test_list_option_replaces_that_of_a_file(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("source: [digits]\noutput: x\n")
    run = parse_config(PrepareRun, ["--config", str(file), "--source", "a", "--source", "b"], "prepare")
    assert run.source == ["a", "b"]
    with pytest.raises(ValueError, match=r"source: \['a', 'a'\] is not allowed; give one or more different sources"):
        parse_config(PrepareRun, ["--source", "a", "--source", "a", "--output", "x"], "prepare")


def test_class_is_a_number_or_a_name():
    for text, label in (("7", 7), ("Bag", "Bag")):
        assert parse_config(SampleRun, ["--checkpoint", "r", "--label", text], "sample").label == label
    with pytest.raises(ValueError, match="label: -1 is not allowed; give 0 or more"):
        parse_config(SampleRun, ["--checkpoint", "r", "--label", "-1"], "sample")


def test_list_options_may_be_repeated():
    assert parse_config(PrepareRun, ["--source", "a", "--source=b", "--output", "c"], "prepare").source == ["a", "b"]
    assert parse_config(PrepareRun, ["--source", "[a, b]", "--output", "c"], "prepare").source == ["a", "b"]
    assert parse_config(PrepareRun, ["--source", "a", "--source+", "b", "--output", "c"], "prepare").source == [
        "a",
        "b",
    ]
    for words, values in (
        (["[0, 0.5]"], [0.0, 0.5]),
        (["0.5"], [0.5]),
        (["0,0.5"], [0.0, 0.5]),
        (["0.5", "0.7"], [0.5, 0.7]),
    ):
        run = parse_config(SampleRun, ["--temperatures", *words, "--checkpoint", "r"], "sample")
        assert (run.temperatures, run.checkpoint) == (values, "r")
    assert parse_config(PrepareRun, ["--source", "a", "--output", "c", "--size", "[4, 6]"], "prepare").size == (4, 6)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (
            TrainRun,
            ["--output", "x", "--optimizer.lr=-1"],
            r"^optimizer\.lr: -1\.0 is not allowed; give a number above 0$",
        ),
        (
            TrainRun,
            ["--output", "x", "--optimizer.lrr", "1"],
            r"^--optimizer\.lrr: no such option; is it --optimizer\.lr\?$",
        ),
        (TrainRun, ["--output", "x", "--optimizer.nam", "adam"], r"^--optimizer\.nam: no such option"),
        (TrainRun, ["--output", "x", "--lr", "1"], r"^--lr: no such option; is it --optimizer\.lr\?$"),
        (
            TrainRun,
            ["--output", "x", "--optimizer.name", "lion"],
            r"^optimizer\.name: 'lion' .*; give one of adam, adamw,",
        ),
        (TrainRun, ["--output", "x", "--train.num_steps", "many"], r"^train\.num_steps: 'many' .*; give an integer$"),
        (
            TrainRun,
            ["--output", "x", "--model.image_shape", "8"],
            r"^model\.image_shape: '8' .*; give 3 integers, as in",
        ),
        (
            TrainRun,
            ["--output", "x", "--train.batch_size", "0"],
            r"train\.batch_size: 0 is not allowed; give 1 or more",
        ),
        (TrainRun, ["--output", "x", "--model.num_bits", "9"], r"model\.num_bits: 9 is not allowed; give 1 to 8"),
        (TrainRun, ["--output", "x", "--data.shift", "-1"], r"data\.shift"),
        (TrainRun, [], r"^output: not given; give it as an option"),
        (
            TrainRun,
            ["--config", "none.yaml"],
            r"^--config none\.yaml: no such file; glow --help lists the packaged names$",
        ),
        (
            TrainRun,
            ["--config", "docs"],
            r"^--config docs: a folder; give the YAML file in it, as in docs/config\.yaml$",
        ),
        (
            TrainRun,
            ["--output", "x", "--model", "3"],
            r"^model: '3' is not allowed; give its options one by one, as in --model\.",
        ),
        (TrainRun, ["--output", "x", "--model=3"], r"^model: '3' is not allowed"),
        (TrainRun, ["--output", "x", "--parallel", "{modes: ddp}"], r"^--parallel: parallel\.modes: no such option"),
        (TrainRun, ["--output", "x", "--parallel", "{mode: ddp"], r"^--parallel, line 1: not readable YAML"),
        (TrainRun, ["--output", "x", "--parallel", "{mode: ddp, mode: fsdp}"], r"key 'mode' is given twice"),
        (TrainRun, ["--output", "x", "--num-steps", "5"], r"^--num-steps: no such option; is it --train\.num_steps\?$"),
        (
            TrainRun,
            ["--output", "x", "--train.num-steps=5"],
            r"^--train\.num-steps: no such .* is it --train\.num_steps\?$",
        ),
        (TrainRun, ["--output"], r"^--output: not given a value; give text$"),
        (TrainRun, ["--output", "x", "y"], r"^y: belongs to no option; give each value as --NAME VALUE"),
        (PrepareRun, ["--source", "a", "--output", "x", "--size", "64x96"], r"^size: '64x96' .*'\[64, 96\]'$"),
        (SampleRun, ["--checkpoint", "r", "--num_images", "0"], r"num_images: 0 is not allowed; give 1 or more"),
        (EvaluateRun, ["--checkpoint", "r"], r"^data: not given; give it"),
        (PrepareRun, ["--source", "a", "--output", "b", "--shard_size", "0"], r"shard_size: 0 is not allowed"),
    ],
)
def test_wrong_options_are_errors_of_one_line_that_name_the_field(cls, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_config(cls, arguments, "train")
    assert "\n" not in str(error.value)


def test_options_of_a_group_are_given_together_as_yaml():
    together = parse_config(TrainRun, ["--output", "x", "--parallel", "{mode: pipeline, stages: 2}"], "train")
    assert together.parallel == ParallelConfig(mode="pipeline", stages=2)
    later = ["--output", "x", "--parallel={mode: pipeline, stages: 2}", "--parallel.stages", "3"]
    assert parse_config(TrainRun, later, "train").parallel.stages == 3


def test_unknown_key_of_a_file_is_an_error_that_names_it(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("output: runs/a\nmodel: {widht: 3}\n")
    with pytest.raises(ValueError, match=r"model\.widht: no such option"):
        parse_config(TrainRun, ["--config", str(file)], "train")


def test_section_that_is_no_mapping_is_an_error_of_one_line(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("output: runs/a\nmodel: 3\n")
    with pytest.raises(
        ValueError, match=r"a\.yaml, line 2: model: '3' is not allowed; give its options one by one, as in"
    ):
        parse_config(TrainRun, ["--config", str(file)], "train")


def test_plain_values_of_a_configuration_are_among_the_choices():
    with pytest.raises(ValueError, match="coupling: 'foo' is not allowed; give one of affine, additive, mixture"):
        from_plain(ModelConfig, {"coupling": "foo"})
    assert from_plain(TrainConfig, {"mixed_precision": None}).mixed_precision is None
    with pytest.raises(ValueError, match="mixed_precision: 'fp8' is not allowed; give one of no, fp16, bf16"):
        from_plain(TrainConfig, {"mixed_precision": "fp8"})


def test_plain_values_of_a_configuration_are_its_fields():
    with pytest.raises(ValueError, match="DataConfig has no field colour; its fields are path, stream"):
        from_plain(DataConfig, {"colour": 1})


@pytest.mark.parametrize("name", STAGES)
def test_help_explains_every_option(name, capsys):
    stage = STAGES[name]
    with pytest.raises(SystemExit) as stop:
        parse_config(stage.config, ["--help"], name)
    assert stop.value.code == 0
    options = re.findall(r"^  --([\w.]+) (.*?)(?=^  --|^\w|\Z)", capsys.readouterr().out, re.MULTILINE | re.DOTALL)
    assert {name.split(".")[0] for name, _ in options} >= {field.name for field in dataclasses.fields(stage.config)}
    for name, text in options:
        words = re.split(r"\((?:required|default|an? )", text)[0].split()
        assert len(words) > 3, f"--{name} is not explained"


@pytest.mark.parametrize("error", [ValueError("one\n two"), FileNotFoundError(2, "No such file", "x.zip")])
def test_users_mistake_is_one_line_and_exit_status_1(error, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_stage(main)
    assert stop.value.code == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(("rank", "local_rank", "waits"), [("0", "0", 0), ("8", "0", 1), ("1", "1", 2)])
def test_mistake_of_one_process_is_printed_after_the_main_process_had_time_to(
    rank, local_rank, waits, capsys, monkeypatch
):
    def main():
        raise ValueError("the disk of this node is full")

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(SystemExit):
        run_stage(main)
    assert waited == [waits * PATIENCE_S]
    assert capsys.readouterr().err == "error: the disk of this node is full\n"


def test_our_own_mistake_keeps_its_traceback():
    def main():
        raise AssertionError

    with pytest.raises(AssertionError):
        run_stage(main)


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        ("prepare", ["--source", "nowhere", "--output", "x"], "error: nowhere: no such folder, zip or tar"),
        (
            "train",
            ["--output", "x", "--data.path", "nowhere"],
            "error: nowhere: no such folder; give that of a data set",
        ),
        ("sample", ["--checkpoint", "nowhere"], "error: nowhere: no such checkpoint or run directory"),
        ("evaluate", ["--checkpoint", "nowhere", "--data", "x"], "error: nowhere: no such checkpoint or run directory"),
        ("score", ["--checkpoint", "nowhere", "--data", "x"], "error: nowhere: no such checkpoint or run directory"),
    ],
)
def test_no_traceback_for_a_users_mistake(stage, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["glow", stage, *arguments])
    with pytest.raises(SystemExit) as stop:
        command.run()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", ["pipelines.train", "pipelines.command train"])
def test_ctrl_c_during_imports_ends_with_one_line(words, tmp_path):
    interrupt = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    (tmp_path / "torch.py").write_text(interrupt)
    path = os.pathsep.join([str(tmp_path), str(Path.cwd())])
    done = subprocess.run(
        [sys.executable, "-m", *words.split(), "--output", "x"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
