"""Flows as policies: exact densities of actions, tasks and their best policies, soft actor-critic, and its stage."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import perturb
from exactness import Given, check_exact, fit_to_normal
from PIL import Image

from glow.bijectors.coupling import AffineCoupling
from glow.bijectors.mask import EmptyMask
from glow.bijectors.squash import Squash
from glow.config import LearnerConfig, PolicyRun
from glow.networks.mlp import MLP
from glow.policy.environment import TwoGoals, TwoPeaks
from glow.policy.exact import BestPolicy, action_grid, divergence
from glow.policy.measuring import play
from glow.policy.policy import Policy
from glow.policy.report import settled_on
from glow.policy.soft_actor_critic import SoftActorCritic
from glow.training.metrics import read_metrics
from glow.training.trainer import TrainingDiverged
from pipelines import policy as policy_stage

FAST = LearnerConfig(first_alpha=0.2, lr=5e-3)
LAYERS = {"flow": 2, "gaussian": 0}


def build(kind, size=0.15):
    """A float64 policy with its parameters moved."""
    torch.manual_seed(0)
    policy = Policy(LAYERS[kind], 8).double()
    perturb(policy, size)
    return policy


def states(count, value=0.4):
    return torch.full((count, 2), value, dtype=torch.float64)


def learner(environment, kind, num_steps, seed=0):
    return SoftActorCritic(environment, LearnerConfig(**(vars(FAST) | {"num_steps": num_steps})), LAYERS[kind], seed)


# Policies


def test_squash_is_exact_and_stays_so_where_it_is_flat():
    check_exact(Squash(), shape=(3,), domain=torch.tanh)
    far = torch.tensor([[30.0, -30.0]])
    x, logdet = Squash().inverse(far)
    assert x.abs().max() < 1
    assert logdet.item() == pytest.approx(4 * (math.log(2) - 30))


@pytest.mark.parametrize("is_trained", [False, True])
def test_map_given_the_context_alone_is_exact(is_trained):
    torch.manual_seed(0)
    bijector = AffineCoupling(MLP(0, 8, 6, context_features=2), EmptyMask(), scale="exp").double()
    given = Given(bijector, torch.randn(64, 2, dtype=torch.float64))
    if is_trained:
        fit_to_normal(given, (3,))
    else:
        perturb(bijector, 0.3)
    check_exact(given, rows=1, shape=(3,))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("state", [-0.7, 0.4])
def test_density_of_actions_integrates_to_one(kind, state):
    actions = action_grid(120)
    with torch.no_grad():
        density = build(kind).log_prob(actions, states(len(actions), state)).exp()
    assert density.mean().item() * 4 == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("kind", LAYERS)
def test_log_probability_of_a_drawn_action_is_that_of_the_inverse(kind):
    policy = build(kind)
    action, log_prob = policy.sample_and_log_prob(200, states(200), generator=torch.Generator().manual_seed(0))
    assert action.abs().max() < 1
    assert (policy.log_prob(action, states(200)) - log_prob).abs().max() < 1e-8
    assert not torch.allclose(policy.log_prob(action, states(200, -1.0)), log_prob)


def test_gaussian_policy_is_a_squashed_gaussian():
    policy = build("gaussian")
    noise, context = torch.randn(50, 2, dtype=torch.float64), states(50)
    action, log_prob = policy.sample_and_log_prob(noise, context)
    shift, log_scale = policy.bijector.bijectors[1].net(noise[:, :0], context).chunk(2, 1)
    gaussian = torch.distributions.Normal(-shift, (-log_scale).exp())
    expected = torch.distributions.TransformedDistribution(gaussian, torch.distributions.TanhTransform())
    assert torch.allclose(action, expected.transforms[0](-shift + noise * (-log_scale).exp()))
    assert torch.allclose(log_prob, expected.log_prob(action).sum(1))


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_of_actions_reach_all_parameters(kind):
    policy = build(kind)
    action, log_prob = policy.sample_and_log_prob(50, states(50), generator=torch.Generator().manual_seed(0))
    (action.square().sum() + log_prob.sum()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in policy.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda policy: policy.log_prob(torch.zeros(4, 3), torch.zeros(4, 2)), r"actions \[4, 3\] must be \[N, 2\]"),
        (lambda policy: policy.sample(4, torch.zeros(4, 3)), r"context \[4, 3\] must be \[N, 2\]"),
        (lambda policy: policy.sample(4, torch.zeros(3, 2)), r"context \[3, 2\] must be \[N, K\] with N = 4"),
        (lambda policy: policy.sample(4), r"a policy needs the states, \[N, 2\], as context"),
        (
            lambda policy: policy.sample(2, torch.tensor([[0.0, math.nan], [0.0, 0.0]])),
            r"1 of 2 states have NaN or infinite numbers",
        ),
        (
            lambda policy: policy.log_prob(torch.full((3, 2), math.nan), torch.zeros(3, 2)),
            r"3 of 3 actions have NaN or infinite numbers",
        ),
        (
            lambda policy: policy.log_prob(torch.tensor([[0.0, 1.0], [0.0, 0.5]]), torch.zeros(2, 2)),
            r"1 of 2 actions are not inside the square from -1 to 1",
        ),
    ],
)
def test_wrong_input_is_an_error_of_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(Policy(2, 8))
    assert "\n" not in str(error.value)


# Tasks, and their best policies


@pytest.mark.parametrize("environment", [TwoGoals(), TwoPeaks()], ids=lambda environment: environment.name)
def test_task_is_symmetric(environment):
    rng = torch.Generator().manual_seed(0)
    state, action = (2 * torch.rand(100, 2, generator=rng) - 1 for _ in range(2))
    moved, reward = environment.step(state, action)
    for mirror in (torch.tensor([-1.0, 1.0]), torch.tensor([1.0, -1.0])):
        moved_there, reward_there = environment.step(mirror * state, mirror * action)
        assert torch.allclose(moved_there, mirror * moved)
        assert torch.allclose(reward_there, reward)
    assert reward.std() > 0.1
    assert moved.abs().max() <= environment.limit


def test_best_policy_of_the_bandit_is_that_of_the_closed_form():
    alpha = 0.1
    best = BestPolicy.of(TwoPeaks(), alpha)
    # A half of the square has exp(-4 |a - target|^2 / alpha): a product of two error functions.
    scale = math.sqrt(4 / alpha)
    half = math.pi / scale**2 * math.erf(0.5 * scale) * math.erf(scale)
    assert best.value(torch.zeros(1, 1, 2, dtype=torch.float64)).item() == pytest.approx(
        alpha * math.log(2 * half), abs=1e-4
    )
    action = torch.tensor([[0.5, 0.1], [-0.4, 0.3]])
    expected = torch.tensor([-4 * 0.01, -4 * 0.1], dtype=torch.float64) / alpha - math.log(2 * half)
    assert torch.allclose(best.first_log_prob(action), expected, atol=1e-4)


def test_values_of_the_best_policy_solve_the_soft_bellman_equation():
    alpha, environment = 0.1, TwoGoals()
    best = BestPolicy.of(environment, alpha)
    state, actions = torch.tensor([[0.3, -0.6]], dtype=torch.float64), action_grid(60)
    moved, reward = environment.step(state[:, None], actions[None])
    q = reward + environment.discount * best.value(moved)
    value = alpha * (torch.logsumexp(q / alpha, 1) + math.log(4 / 3600))
    assert best.value(state[None]).item() == pytest.approx(value.item(), abs=0.02)
    # As good to the left as to the right, and better than to stay.
    left, stay, right = best.first_log_prob(torch.tensor([[-0.6, 0.0], [0.0, 0.0], [0.6, 0.0]])).tolist()
    assert left == pytest.approx(right, abs=1e-6)
    assert left - stay > 3


def test_divergence_is_that_of_quadrature():
    policy, best = build("flow").float(), BestPolicy.of(TwoPeaks(), 0.1)
    actions = action_grid(150)
    with torch.no_grad():
        log_prob = policy.double().log_prob(actions, states(len(actions), 0.0))
    expected = (log_prob.exp() * (log_prob - best.first_log_prob(actions))).mean().item() * 4
    estimate = divergence(policy.float(), best)
    assert abs(estimate.mean - expected) < 4 * estimate.standard_error + 0.01 * expected
    assert estimate.standard_error < 0.05 * expected


# Learning: what runs of minutes reach, within looser bounds


def test_flow_keeps_both_actions_of_the_bandit_and_a_gaussian_cannot():
    best = BestPolicy.of(TwoPeaks(), FAST.alpha)
    kl = {}
    for kind in LAYERS:
        agent = learner(TwoPeaks(), kind, 400)
        assert len(list(agent.learn())) == 400
        kl[kind] = divergence(agent.policy, best).mean
        if kind == "flow":
            assert settled_on(play(TwoPeaks(), agent.policy, 1000, 0)) == "both"
    assert kl["flow"] < 0.25
    assert kl["gaussian"] > 0.5


def test_policy_learns_to_reach_a_goal():
    agent = learner(TwoGoals(), "gaussian", 400)
    before = play(TwoGoals(), agent.policy, 200, 0)
    losses = [told["loss/critic"] for told in agent.learn()]
    after = play(TwoGoals(), agent.policy, 200, 0)
    assert before.total_reward().mean < -15
    assert after.total_reward().mean > -9
    assert after.reached_shares()["neither"] < 0.25
    assert math.isfinite(sum(losses))


@pytest.mark.parametrize("kind", LAYERS)
def test_learning_depends_on_the_seed_alone(kind):
    def weights(seed):
        agent = learner(TwoGoals(), kind, 3, seed)
        list(agent.learn())
        return torch.cat(
            [parameter.flatten() for parameter in (*agent.policy.parameters(), *agent.critics.parameters())]
        )

    state = torch.get_rng_state()
    first = weights(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    assert torch.equal(weights(0), first)
    assert not torch.equal(weights(1), first)


def test_both_policies_begin_with_the_same_critics_and_transitions():
    flow, gaussian = (learner(TwoGoals(), kind, 1) for kind in LAYERS)
    for one, other in zip(flow.critics.parameters(), gaussian.critics.parameters(), strict=True):
        assert torch.equal(one, other)
    for agent in (flow, gaussian):
        next(agent.learn())
    random = FAST.num_random_steps * FAST.num_environments
    for one, other in zip(flow._buffer.columns, gaussian._buffer.columns, strict=True):
        assert torch.equal(one[:random], other[:random])


def test_temperature_and_learning_rate_fall_as_they_are_said_to():
    agent = learner(TwoPeaks(), "gaussian", 10)
    told = []
    for progress in (0.0, 0.25, 0.5, 0.875):
        agent._set_rates(progress)
        told.append((agent._alpha, agent._optimizers[0].param_groups[0]["lr"]))
    middle = math.sqrt(FAST.first_alpha * FAST.alpha)
    expected = [(FAST.first_alpha, FAST.lr), (middle, FAST.lr), (FAST.alpha, FAST.lr), (FAST.alpha, FAST.lr / 2)]
    assert np.allclose(told, expected)


def test_loss_that_is_not_finite_ends_learning():
    class Broken(TwoPeaks):
        def step(self, state, action):
            moved, reward = super().step(state, action)
            return moved, reward * math.nan

    with pytest.raises(TrainingDiverged, match=r"step 1 of bandit: the loss of the critic is nan"):
        list(learner(Broken(), "flow", 3).learn())


# The stage


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
    told = json.loads((complete_run / "policy.json").read_text())
    names = {f"{one['task']}-{one['policy']}-{one['seed']}" for one in told["trainings"]}
    assert names == {f"{t}-{p}-{s}" for t in ("goals", "bandit") for p in ("gaussian", "flow") for s in (0, 1)}
    for one in told["trainings"]:
        for shares in (one["reached"], one["first_action"]):
            assert sum(shares.values()) == pytest.approx(1)
        assert one["first_kl_nats"]["mean"] > 0
    assert [(row["task"], row["num_seeds"]) for row in told["summary"]] == [("goals", 2)] * 2 + [("bandit", 2)] * 2
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
    with pytest.raises(
        ValueError, match=r"learner\.alpha: 0\.3, but the run in .* was begun with 0\.1; choose another"
    ):
        run_stage(complete_run, "--seeds", "[0, 1]", "--learner.alpha", "0.3")
    with pytest.raises(ValueError, match=r"seeds: \[0\], but the run in .* was begun with \[0, 1\]"):
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
    told = json.loads((run_stage(tmp_path / "policy", "--policy", "gaussian") / "policy.json").read_text())
    assert {one["policy"] for one in told["trainings"]} == {"gaussian"}


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
