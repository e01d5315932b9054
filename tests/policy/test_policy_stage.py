"""The policy stage: figures and pictures, and trainings that go on after an interruption."""

import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image

from glow.config import LearnerConfig, PolicyRun
from glow.policy.report import settled_on
from glow.policy.soft_actor_critic import SoftActorCritic
from glow.training.metrics import read_metrics
from pipelines import policy as policy_stage


def run_stage(output, *extra):
    """Run the stage with trainings of a few steps; return the run directory."""
    return policy_stage.main([
        "--config", "configs/policy.yaml", "--output", str(output), "--num_episodes", "20", "--learner.num_steps", "5",
        "--learner.hidden_features", "8", "--learner.batch_size", "16", *extra,
    ])  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """Spare the time of exact policies and fine pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glow.policy.exact.NUM_POSITIONS", 21)
        patch.setattr("glow.policy.report.RESOLUTION", 30)
        yield


@pytest.fixture(scope="module")
def complete_run(tmp_path_factory, coarse):
    return run_stage(tmp_path_factory.mktemp("runs") / "policy", "--seeds", "[0, 1]")


def test_stage_writes_figures_pictures_and_policies(complete_run):
    content = json.loads((complete_run / "policy.json").read_text())
    names = {f"{one['task']}-{one['policy']}-{one['seed']}" for one in content["trainings"]}
    assert names == {f"{t}-{p}-{s}" for t in ("goals", "bandit") for p in ("gaussian", "flow") for s in (0, 1)}
    for one in content["trainings"]:
        for shares in (one["reached"], one["first_action"]):
            assert sum(shares.values()) == pytest.approx(1)
        assert one["first_kl_nats"]["mean"] > 0
    assert [(row["task"], row["num_seeds"]) for row in content["summary"]] == [("goals", 2)] * 2 + [("bandit", 2)] * 2
    for name in ("trajectories", "density-goals", "density-bandit"):
        assert np.asarray(Image.open(complete_run / f"{name}.png").convert("L")).std() > 10, name
    lines = read_metrics(complete_run / "goals-flow-1")
    assert [line["step"] for line in lines] == [5]
    assert {"return", "loss/critic", "loss/policy", "entropy_nats"} <= lines[0].keys()


def test_same_command_again_says_that_nothing_is_to_be_done(complete_run, capsys):
    before = (complete_run / "policy.json").stat().st_mtime_ns
    run_stage(complete_run, "--seeds", "[0, 1]")
    out = capsys.readouterr().out.splitlines()
    assert out == [f"{complete_run} is complete already: nothing to do", str(complete_run)]
    assert (complete_run / "policy.json").stat().st_mtime_ns == before


def test_same_command_goes_on_with_trainings_that_had_not_ended(complete_run, tmp_path):
    run = tmp_path / "policy"
    shutil.copytree(complete_run, run)
    figures = (run / "policy.json").read_bytes()
    (run / "policy.json").unlink()
    (run / "goals-flow-1" / "policy.safetensors").unlink()
    kept = (run / "goals-flow-0" / "policy.safetensors").stat().st_mtime_ns
    run_stage(run, "--seeds", "[0, 1]")
    assert (run / "policy.json").read_bytes() == figures
    assert (run / "goals-flow-0" / "policy.safetensors").stat().st_mtime_ns == kept
    (run / "policy.json").unlink()
    (run / "goals-flow-1" / "policy.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"goals-flow-1/policy\.safetensors: damaged; remove it"):
        run_stage(run, "--seeds", "[0, 1]")


def test_other_options_in_the_same_directory_are_refused(complete_run):
    with pytest.raises(ValueError, match=r"learner\.alpha: 0\.3, but the run in .* started with 0\.1; choose another"):
        run_stage(complete_run, "--seeds", "[0, 1]", "--learner.alpha", "0.3")
    with pytest.raises(ValueError, match=r"seeds: \[0\], but the run in .* started with \[0, 1\]"):
        run_stage(complete_run)


def test_interrupted_training_leaves_no_figures_and_no_weights(tmp_path, monkeypatch):
    def interrupt(agent):
        yield {"loss/critic": 1.0}
        raise KeyboardInterrupt

    monkeypatch.setattr(SoftActorCritic, "learn", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "policy")
    assert not list((tmp_path / "policy").rglob("*.safetensors"))
    assert not list((tmp_path / "policy").glob("*.png"))
    assert not (tmp_path / "policy" / "policy.json").exists()
    monkeypatch.undo()
    run_stage(tmp_path / "policy")
    assert (tmp_path / "policy" / "policy.json").exists()


def test_one_policy_may_be_trained_alone(tmp_path):
    content = json.loads((run_stage(tmp_path / "policy", "--policy", "gaussian") / "policy.json").read_text())
    assert {one["policy"] for one in content["trainings"]} == {"gaussian"}


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (LearnerConfig, {"alpha": 0.0}, r"learner\.alpha: 0\.0 is not allowed; give a finite number above 0"),
        (LearnerConfig, {"first_alpha": math.nan}, r"learner\.first_alpha: nan is not allowed"),
        (LearnerConfig, {"lr": math.inf}, r"learner\.lr: inf is not allowed"),
        (LearnerConfig, {"num_layers": 0}, r"learner\.num_layers: 0 is not allowed; give 1 or more"),
        (LearnerConfig, {"batch_size": 0}, r"learner\.batch_size: 0 is not allowed"),
        (
            LearnerConfig,
            {"target_rate": 1.5},
            r"learner\.target_rate: 1\.5 is not allowed; give a number above 0, at most 1",
        ),
        (PolicyRun, {"output": "x", "seeds": [1, 1]}, r"seeds: \[1, 1\] is not allowed"),
        (PolicyRun, {"output": "x", "seeds": []}, r"seeds: \[\] is not allowed"),
        (PolicyRun, {"output": "x", "num_episodes": 1}, r"num_episodes: 1 is not allowed; give 2 or more"),
    ],
)
def test_impossible_options_are_errors_that_name_the_field(cls, values, message):
    with pytest.raises(ValueError, match=message):
        cls(**values)


@pytest.mark.parametrize(
    ("shares", "what"),
    [((0.5, 0.45), "both"), ((0.04, 0.9), "one"), ((0.9, 0.0), "one"), ((0.0, 0.0), "mean"), ((0.3, 0.4), "mean")],
)
def test_what_a_policy_settled_on(shares, what):
    left, right = shares

    class Played:
        def first_shares(self):
            return {"left": left, "right": right, "between": 1 - left - right}

    assert settled_on(Played()) == what
