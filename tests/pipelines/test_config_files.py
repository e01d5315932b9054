"""Files of --config: values are taken as they are meant, slips are named with their line, hostile files are refused."""

import os
import time

import pytest

from glow.cli import parse_config
from glow.config import PrepareRun, SampleRun, TrainRun


def parse(text, folder, cls=TrainRun, arguments=()):
    file = folder / "a.yaml"
    file.write_text(text)
    return parse_config(cls, ["--config", str(file), *arguments], "plan")


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("train: {mixed_precision: no}", "train.mixed_precision", "no"),
        ("train: {mixed_precision: }", "train.mixed_precision", None),
        ("train: {mixed_precision: null}", "train.mixed_precision", None),
        ("time_limit: 3600", "time_limit", "3600"),
        ("time_limit: 12:30:00", "time_limit", "12:30:00"),
        ("time_limit: 2025-01-01", "time_limit", "2025-01-01"),
        ("output: 20261125", "output", "20261125"),
        ("output: 1e3", "output", "1e3"),
        ("output: no", "output", "no"),
        ("output: 'null'", "output", "null"),
        ("data: {flip: yes}", "data.flip", True),
        ("data: {flip: off}", "data.flip", False),
        ("optimizer: {lr: 1e-3}", "optimizer.lr", 1e-3),
        ("optimizer: {lr: 1}", "optimizer.lr", 1.0),
        ("optimizer.lr: 0.5", "optimizer.lr", 0.5),
        ("optimizer:", "optimizer.lr", 1e-3),
        ("model: {image_shape: [3, 8, 8]}", "model.image_shape", (3, 8, 8)),
        ("model: {image_shape: [1, 8, 8]}\noptimizer: {lr: 0.5}", "optimizer.lr", 0.5),
    ],
)
def test_values_are_taken_as_they_are_meant(text, name, value, tmp_path):
    text = text if "output" in text else f"output: x\n{text}"
    run = parse(text, tmp_path)
    for part in name.split("."):
        run = getattr(run, part)
    assert run == value
    assert type(run) is type(value)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("validation: 4", "validation", "4"),
        ("validation: 0.25", "validation", "0.25"),
        ("size: 64", "size", 64),
        ("size: [4, 6]", "size", (4, 6)),
        ("shard_size: 7", "shard_size", 7),
        ("source: 123", "source", ["123"]),
        ("source: [1, no, a b]", "source", ["1", "no", "a b"]),
    ],
)
def test_values_of_prepare_are_taken_as_they_are_meant(text, name, value, tmp_path):
    text = text if "source" in text else f"source: [a]\n{text}"
    assert getattr(parse(f"output: x\n{text}", tmp_path, PrepareRun), name) == value


def test_written_configuration_works_again(tmp_path):
    text = "checkpoint: r\ntemperatures:\n- 0.0\n- 0.5\noutput: null\nlabel: null\nsave_images: false\n"
    assert parse(text, tmp_path, SampleRun) == SampleRun("r", temperatures=[0.0, 0.5])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output: a\noutput: b", r"a\.yaml, line 2: .*output. is given twice, first in line 1$"),
        (
            "model: {num_levels: 2}\noutput: a\nmodel: {num_bits: 5}",
            r"line 3: .*model. is given twice, first in line 1",
        ),
        ("output: a\nmodel:\n  num_bits: 5\n  num_bits: 4", r"line 4: .*num_bits. is given twice, first in line 3"),
        ("output: a\nmodel.num_bits: 5\nmodel: {num_bits: 4}", r"line 3: model\.num_bits is given twice, first in .*2"),
        ("output: a\nmodel: {widht: 3}", r"a\.yaml, line 2: model\.widht: no such option; "),
        ("output: a\nnum_bits: 3", r"a\.yaml, line 2: num_bits: no such option; is it --model\.num_bits\?"),
        ("config: b.yaml", r"a\.yaml, line 1: config: no such option"),
        ("help: true", r"a\.yaml, line 1: help: no such option"),
        ("output: a\nmodel: {num_bits: 9}", r"a\.yaml, line 2: model\.num_bits: 9 is not allowed; give 1 to 8"),
        ("output: a\nmodel: {num_bits: many}", r"line 2: model\.num_bits: 'many' is not allowed; give an integer"),
        ("output: a\nmodel: {num_bits: [3]}", r"line 2: model\.num_bits: a list is not allowed; give an integer"),
        ("output: a\nmodel: {num_bits: {a: 3}}", r"line 2: model\.num_bits: a mapping is not allowed; give an integer"),
        ("output: a\nmodel: {num_bits: }", r"line 2: model\.num_bits: null is not allowed; give an integer"),
        ("output: a\nmodel: [3]", r"line 2: model: 'a list' is not allowed; give its options one by one"),
        ("output:", r"a\.yaml, line 1: output: null is not allowed; give text"),
        ("- a", r"a\.yaml: not a mapping of options"),
        ("words", r"a\.yaml: not a mapping of options"),
        ("output: a\n\tmodel: 3", r"a\.yaml, line \d: not readable YAML: "),
        ("output: [a", r"a\.yaml, line \d: not readable YAML: "),
        ("output: a\n---\noutput: b", r"a\.yaml, line 2: not readable YAML: "),
        ("output: a\x1b[2J", r"a\.yaml: not readable YAML: "),
        ("", r"^output: not given; give it as an option or in the file of --config"),
        (
            "output: !!python/object/apply:os.system [id]",
            r"line 1: output: the tag .* is not allowed; give a plain value",
        ),
        ("? [a]\n: b", r"line 1: a list: no such option"),
        ("output: a\ndata: {path: 'pipe:id'}", r"pipe:id: a command is taken from the command line only"),
    ],
)
def test_slips_are_one_line_that_names_the_place(text, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        parse(text, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", r"line 2: not readable YAML: aliases \(\*NAME\) are not allowed"),
        ("output: &a [*a]", "aliases"),
        ("optimizer: &a {lr: 1}\nmodel: {<<: *a}", "aliases"),
        (f"output: {'[' * 50}", "nested too deeply"),
        (f"output: {'[' * 30_000}", "nested too deeply"),
        ("".join(f"{' ' * n}a:\n" for n in range(100)), "nested too deeply"),
        ("output: " + "a" * 70_000, r"70,008 bytes, but 65,536 are the limit; set GLOW_MAX_YAML_BYTES to allow more"),
    ],
    ids=["aliases", "recursive", "merged", "brackets", "thousands", "blocks", "long"],
)
def test_hostile_files_are_refused_before_they_take_memory(text, message, tmp_path):
    began = time.monotonic()
    with pytest.raises(ValueError, match=message):
        parse(text, tmp_path)
    assert time.monotonic() - began < 5


def test_pipe_is_no_configuration(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ValueError, match=r"pipe\.yaml: not a file$"):
        parse_config(TrainRun, ["--config", str(tmp_path / "pipe.yaml")], "train")


def test_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    run = parse("output: ~/x\ndata: {path: ~}", tmp_path)
    assert (run.output, run.data.path) == ("/home/me/x", "/home/me")
    run = parse("output: a", tmp_path, arguments=["--output=~/y", "--data.path", "~/z", "--time_limit", "~other"])
    assert (run.output, run.data.path, run.time_limit) == ("/home/me/y", "/home/me/z", "~other")
    run = parse_config(PrepareRun, ["--source=~/a", "~/b", "pipe:cat ~", "--output", "x"], "prepare")
    assert run.source == ["/home/me/a", "/home/me/b", "pipe:cat ~"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_config(TrainRun, ["--config=~/a.yaml"], "train").output == "a"


def test_own_configuration_of_a_run_is_the_default(tmp_path):
    own = tmp_path / "config.yaml"
    own.write_text("output: elsewhere\ndata: {path: data/mine}\nmodel: {num_bits: 5}\noptimizer: {lr: 0.5}\n")
    output = str(tmp_path)
    for arguments in (["--output", output], [f"--output={output}"]):
        run = parse_config(TrainRun, [*arguments, "--optimizer.lr", "0.1"], "train")
        assert (run.output, run.data.path, run.model.num_bits, run.optimizer.lr) == (output, "data/mine", 5, 0.1)
    given = tmp_path / "other.yaml"
    given.write_text("model: {num_bits: 4}")
    assert parse_config(TrainRun, ["--output", output, "--config", str(given)], "train").data == TrainRun("x").data
    assert parse_config(TrainRun, ["--output", output], "plan").model.num_bits == 8
    own.write_text("model: {num_bits: 9}")
    with pytest.raises(ValueError, match=r"config\.yaml, line 1: model\.num_bits: 9 is not allowed"):
        parse_config(TrainRun, ["--output", output], "train")


@pytest.mark.parametrize("name", ["cifar10", "imagenet64", "celebahq256"])
def test_networks_of_the_papers_models_compute_in_bf16_and_float32_is_one_option_away(name):
    assert parse_config(TrainRun, ["--config", name], "train").train.mixed_precision == "bf16"
    exact = parse_config(TrainRun, ["--config", name, "--train.mixed_precision", "no"], "train")
    assert exact.train.mixed_precision == "no"
