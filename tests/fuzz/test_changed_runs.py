"""Changed files of runs and data sets: each stage gives the right result or one line.

GLOW_FUZZ=5000 sets the number of examples of each test; without it they are few, and always the same.
"""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from attempts import EXAMPLES, attempt, fuzzed
from foreign import as_first_version
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import changed_bytes, changed_json, changed_values
from saved_runs import save_moved_run

from glow.training.checkpoints.reading import read_state
from pipelines import evaluate, sample, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_moved_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def drawn(run, tmp_path_factory):
    """The image that the unharmed checkpoint draws."""
    return draw_one(run, tmp_path_factory.mktemp("drawn"))


def draw_one(run, output):
    shutil.rmtree(output, ignore_errors=True)
    folder = attempt(sample.main, "--checkpoint", run, "--output", output, "--num_images", 1, "--temperatures", 0.7)
    return None if folder is None else (folder / "grid-t0.70.png").read_bytes()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["state.json", "config.yaml"])
def test_checkpoint(run, drawn, tmp_path, name):
    copy = shutil.copytree(run, tmp_path / "run")
    path = copy / "checkpoints/step-00000007" / name
    content, values, state = path.read_bytes(), yaml.safe_load(path.read_text()), read_state(path.parent)
    as_yaml = changed_values(values).map(lambda value: json.dumps(value).encode(errors="replace"))  # JSON is YAML

    @fuzzed
    @given(changed_json(content) if name == "state.json" else changed_bytes(content) | as_yaml)
    def stays_right(changed):
        path.write_bytes(changed)
        image = draw_one(copy, tmp_path / "samples")
        assert image in (None, drawn)  # whatever is read is vouched for
        if image is not None:
            assert read_state(path.parent) == state
            assert changed == content or name == "state.json"  # its layout may change

    stays_right()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["state.json", "config.yaml", "metrics.jsonl"])
def test_run_that_is_resumed(dataset, tmp_path_factory, name):
    root = tmp_path_factory.mktemp("resumed")
    small = ["--data.path", dataset, "--model.num_levels", 1, "--model.num_steps_per_level", 1]
    small += ["--model.hidden_channels", 4, "--train.batch_size", 4, "--train.log_every", 1]
    attempt(train.main, *small, "--output", root / "run", "--train.num_steps", 1)
    attempt(train.main, *small, "--output", root / "run", "--train.num_steps", 2)
    expected = (root / "run/checkpoints/step-00000002/model.safetensors").read_bytes()
    shutil.rmtree(root / "run/checkpoints/step-00000002")
    folder = Path("." if name == "metrics.jsonl" else "checkpoints/step-00000001")
    content = (root / "run" / folder / name).read_bytes()
    change = changed_bytes(content) if name == "config.yaml" else changed_json(content)
    if name == "metrics.jsonl":  # one line
        change = changed_json(content.splitlines()[0]).map(lambda line: line + b"\n")

    @settings(fuzzed, max_examples=max(1, EXAMPLES // 3))
    @given(change)
    def stays_right(changed):
        copy = root / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(root / "run", copy)
        (copy / folder / name).write_bytes(changed)
        attempt(train.main, *small, "--output", copy, "--train.num_steps", 2)
        last = copy / "checkpoints/step-00000002/model.safetensors"
        assert not last.exists() or last.read_bytes() == expected

    stays_right()


def measured(run, data, output):
    """The bits/dim of the images, by key."""
    shutil.rmtree(output, ignore_errors=True)
    options = ("--checkpoint", run, "--data", data, "--output", output, "--baselines", "false")
    if attempt(evaluate.main, *options) is None:
        return None
    summary = json.loads((output / "bpd.json").read_text())
    assert summary["valid"]
    rows = (output / "per_image.csv").read_text().splitlines()[1:]
    return {row.split(",")[0]: row.split(",")[2] for row in rows}


@pytest.fixture(scope="module")
def expected(run, dataset, tmp_path_factory):
    return measured(run, dataset, tmp_path_factory.mktemp("expected"))


@pytest.fixture
def quick(monkeypatch):
    """Draw no figures: they take most of the time, and show no more than the numbers do."""
    for name in ("plot_histogram", "plot_levels", "plot_training_curve"):
        monkeypatch.setattr(f"glow.evaluation.report.{name}", lambda *arguments: None)
    monkeypatch.setattr("glow.evaluation.report.svg", lambda figure: b"")


@pytest.mark.parametrize("name", ["dataset.json", "test-00001.idx", "test.samples"])
def test_data_set(run, dataset, expected, quick, tmp_path, name):
    copy = shutil.copytree(dataset, tmp_path / "data")
    if name.endswith(".idx"):
        as_first_version(copy)
    path = copy / name
    content = path.read_bytes()
    changes = changed_json(content) if name == "dataset.json" else changed_bytes(content)
    if name.endswith(".idx"):
        changes |= changed_index(content)

    @fuzzed
    @given(changes)
    def stays_right(changed):
        path.write_bytes(changed)
        found = measured(run, copy, tmp_path / "report")
        assert found is None or found == expected, sorted({*found.items()} ^ {*expected.items()})

    stays_right()


@st.composite
def changed_index(draw, content):
    """An index with another number, or with two lines exchanged."""
    lines = [line.split() for line in content.decode().splitlines()]
    if draw(st.booleans()):
        line = draw(st.sampled_from(lines))
        place = draw(st.integers(0, len(line) - 1))
        line[place] = str(draw(st.sampled_from([0, 1, -1, 512, 10**15, 10**30, "png", "", "x" * 300])))
    else:
        one, other = draw(st.sampled_from(lines[1:])), draw(st.sampled_from(lines[1:]))
        place = draw(st.integers(0, min(len(one), len(other)) - 1))
        one[place], other[place] = other[place], one[place]
    return "\n".join(" ".join(line) for line in lines).encode() + b"\n"


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.json"])
def test_files_of_a_run_that_a_report_shows(run, dataset, expected, tmp_path, name):
    copy = shutil.copytree(run, tmp_path / "run")
    attempt(sample.main, "--checkpoint", copy, "--num_images", 1, "--temperatures", 0.7)
    path = copy / ("metrics.jsonl" if name == "metrics.jsonl" else "samples/step-00000007/samples.json")
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    one_line = changed_json(lines[2]).map(lambda line: b"".join([*lines[:2], line, b"\n", *lines[3:]]))

    @settings(fuzzed, max_examples=max(1, EXAMPLES // 2))  # with all figures
    @given(changed_json(content) if name == "samples.json" else changed_bytes(content) | one_line)
    def stays_right(changed):
        path.write_bytes(changed)
        assert measured(copy, dataset, tmp_path / "report") in (None, expected)

    stays_right()
