"""Races: the same CPU time for all, and what becomes of it."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from conftest import tiny_config

from glow.benchmarking import race as module
from glow.benchmarking.race import Budget, Finish, race, seconds_to
from glow.benchmarking.standings import plot, standings
from glow.config import DataConfig, OptimizerConfig, RaceRun, TrainConfig, TrainRun
from glow.evaluation.figures import png
from glow.training.trainer import Trainer
from pipelines import race as stage


def contestant(dataset, **model):
    train = TrainConfig(batch_size=12, ema_decay=0.5)
    optimizer = OptimizerConfig("adam", lr=0.003, schedule="cosine")
    model = dataclasses.replace(tiny_config(), image_shape=None, **model)
    return TrainRun("x", model=model, data=DataConfig(str(dataset)), optimizer=optimizer, train=train)


class Clock:
    """CPU time that passes with the steps of a training: a tenth of a second each."""

    def __init__(self, monkeypatch):
        self.steps, original = 0, Trainer.train_step
        self.rates = []

        def step(trainer, *arguments):
            self.steps += 1
            result = original(trainer, *arguments)
            self.rates.append(trainer.optimizer.param_groups[0]["lr"])
            return result

        monkeypatch.setattr(Trainer, "train_step", step)

    def __call__(self):
        return 0.1 * self.steps


@pytest.mark.parametrize("is_peer", [False, True])
def test_a_contestant_uses_its_budget_and_its_learning_rate_ends_with_it(dataset, monkeypatch, is_peer):
    if is_peer:
        pytest.importorskip("normflows")
    clock, lines = Clock(monkeypatch), []
    finish = race(contestant(dataset), is_peer, Budget(6, 3, "validation", 9), lines.append, clock)
    assert finish.num_steps == 60
    assert len(finish.bits_per_dim) == 9
    assert [point[1] for point in finish.curve] == [0, 22, 42, 60]
    assert len(lines) == 2
    assert clock.rates[0] > 0.0029
    assert max(clock.rates[-3:]) < 0.0002
    assert np.mean(finish.bits_per_dim) < finish.curve[0][2] - 1
    assert finish.num_parameters > 0
    assert finish.num_macs > 0


def test_measured_is_what_evaluate_measures(dataset, monkeypatch):
    """The last measurement is that of the averaged weights, with the noise of an evaluation."""
    kept = []
    monkeypatch.setattr(module, "Trainer", lambda *arguments: kept.append(Trainer(*arguments)) or kept[0])
    finish = race(contestant(dataset), False, Budget(1, 2, "validation", 9), kept.append, Clock(monkeypatch))
    from glow.data.read.reader import SplitReader
    from glow.evaluation.likelihood import Bound, score_split

    trainer = kept[0]
    with trainer.ema.applied(trainer.model):
        scores = list(
            score_split(trainer.model.eval(), SplitReader(dataset, "validation"), 4, Bound("elbo", 1, 0), None, 9)
        )
    assert finish.bits_per_dim == pytest.approx([score.bits_per_dim for score in scores], abs=1e-5)


def test_a_budget_without_steps_is_refused(dataset):
    clock = itertools.count(step=5).__next__
    with pytest.raises(ValueError, match=r"cpu_seconds: 6 is not allowed; .* s have gone before step 4"):
        race(contestant(dataset), False, Budget(6, 2, "validation", 9), print, clock)


CURVE = [(1.0, 0, 8.0), (2.0, 10, 6.0), (4.0, 30, 5.0)]


def test_time_at_which_a_curve_reaches_a_level():
    assert [seconds_to(CURVE, level) for level in (8.5, 7, 5.5, 5, 4.9)] == [1, 1.5, 3, 4, None]


def test_standings_compare_on_the_same_images():
    one = Finish(1_000, 2_000_000, 30, 4.0, CURVE, [5.0, 6.0, 7.0])
    two = Finish(900, 2_500_000, 20, 4.1, [(1.0, 0, 7.0), (3.0, 20, 4.0)], [4.5, 5.5, 6.4])
    rows = [row.split(" | ") for row in standings({"a": one, "b": two}).splitlines()]
    assert rows[2][:6] == ["| a", "1,000", "2.0 M", "30", "4", "6.0000 ± 0.5774"]
    assert rows[3][6:] == ["-0.5333 ± 0.0333", "2 s |"]
    assert png(plot({"a": one, "b": two})).startswith(b"\x89PNG")


def test_the_stage_races_all_and_goes_on(dataset, tmp_path, monkeypatch, capsys):
    """In this process, because a process for each contestant takes the time of an import."""

    class Here:
        def __init__(self, *arguments, **options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def submit(self, function, *arguments):
            result = function(*arguments)
            return type("Done", (), {"result": lambda self: result})()

    raced = []
    finish = Finish(1_000, 2_000_000, 30, 4.0, CURVE, [5.0, 6.0, 7.0])
    monkeypatch.setattr(stage, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(stage, "race", lambda run, is_peer, *_: raced.append((run.train.seed, is_peer)) or finish)
    contestants = ["--contestants", "smoke", "--contestants", "normflows:smoke", "--data", str(dataset)]
    options = [*contestants, "--output", str(tmp_path / "race"), "--seeds", "[0, 3]"]
    output = stage.main(options)
    assert raced == [(0, False), (3, False), (0, True), (3, True)]
    assert {path.name for path in output.iterdir()} >= {"race.md", "race.png", "race.json"}
    assert len(json.loads((output / "race.json").read_text())["finishes"]) == 4
    assert "normflows:smoke (seed 3)" in capsys.readouterr().out
    stage.main(options)
    assert len(raced) == 4
    stage.main([*options, "--cpu_seconds", "60"])
    assert len(raced) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contestants": ["a", "a"]}, "contestants: .* give one or more different ones"),
        ({"cpu_seconds": 0.0}, "cpu_seconds: 0.0 is not allowed; give a number above 0"),
        ({"seeds": (1, 1)}, r"seeds: \[1, 1\] is not allowed"),
        ({"num_checks": 0}, "num_checks: 0 is not allowed; give 1 or more"),
    ],
)
def test_options_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RaceRun(**({"contestants": ["a"], "data": "x"} | change))


def test_other_tasks_are_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match="contestants: moons is not a model of images without classes"):
        stage.main(["--contestants", "moons", "--data", str(dataset), "--output", str(tmp_path)])
