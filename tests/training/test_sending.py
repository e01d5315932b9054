"""Trackers: what is not installed, and one that fails on the way."""

import json

import pytest
from accelerate import tracking
from training_runs import comparable, options, train_and

from glow.training.trackers import TRACKERS_FILE
from pipelines import train


class Service(tracking.TrackioTracker):
    """In the place of a program that is not installed: keeps what it gets, and fails at a step."""

    lines, config, ends, fails_at = [], None, 0, None

    def start(self):
        """Begin."""

    def store_init_configuration(self, values):
        """Keep the configuration."""
        type(self).config = values

    def log(self, values, step=None, **options):
        """Keep a line."""
        if step == self.fails_at:
            raise ConnectionError("no route\nto host")
        self.lines.append((step, values))

    def finish(self):
        """End."""
        type(self).ends += 1


@pytest.fixture
def service(monkeypatch):
    """The tracker trackio, as if it was installed."""
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "trackio", Service)
    monkeypatch.setattr(tracking, "_available_trackers", [*tracking._available_trackers, tracking.LoggerType.TRACKIO])
    for name, value in (("lines", []), ("config", None), ("ends", 0), ("fails_at", None)):
        monkeypatch.setattr(Service, name, value)
    return Service


class Killed(Exception):
    """Stands for the end of a process."""


def kill():
    raise Killed


def test_each_step_is_sent_once_also_after_two_resumes(dataset, tmp_path, service):
    arguments = options(dataset, tmp_path, "--trackers", "[tensorboard, trackio]")
    for at_step in (8, 6):  # both times after the checkpoint of step 4
        with pytest.raises(Killed):
            train_and(arguments, at_step=at_step, action=kill)
    train.main(arguments)
    assert [step for step, _ in service.lines] == [*range(1, 9)]
    assert service.ends == 3
    assert json.loads((tmp_path / TRACKERS_FILE).read_text())["trackio"]["sent"] == 7
    for (step, values), line in zip(service.lines, comparable(tmp_path), strict=True):
        assert {"step": step} | {key: values[key] for key in line if key != "step"} == line
    assert service.config["train.batch_size"] == 12
    assert service.config["environment.num_processes"] == 1


def test_a_tracker_that_is_added_later_gets_the_later_steps(dataset, tmp_path, service):
    train.main(options(dataset, tmp_path, "--train.num_steps", "4"))
    train.main(options(dataset, tmp_path, "--trackers", "[trackio]"))
    assert [step for step, _ in service.lines] == [5, 6, 7, 8]


def test_a_tracker_that_fails_does_not_end_the_training(dataset, tmp_path, service, monkeypatch):
    monkeypatch.setattr(Service, "fails_at", 3)
    with pytest.warns(UserWarning, match="trackers: trackio gets nothing from step 3 on: no route to host"):
        train.main(options(dataset, tmp_path, "--trackers", "[trackio]"))
    assert [step for step, _ in service.lines] == [1, 2]
    assert len(comparable(tmp_path)) == 8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[comet]", "trackers"),
        ("[tensorboard, tensorboard]", "trackers: .* is not allowed; give each one once"),
        ("[aim]", "trackers: aim is not installed; type pip install aim, or leave it out"),
    ],
)
def test_what_cannot_be_used_is_one_line(dataset, tmp_path, given, message):
    with pytest.raises(ValueError, match=message) as error:
        train.main(options(dataset, tmp_path / "run", "--trackers", given))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
