"""Soft actor-critic: it finds both actions or a goal, and depends on the seed alone."""

import math

import numpy as np
import pytest
import torch

from glow.config import LearnerConfig
from glow.policy.environment import TwoGoals, TwoPeaks
from glow.policy.exact import BestPolicy, divergence
from glow.policy.measuring import play
from glow.policy.report import settled_on
from glow.policy.soft_actor_critic import SoftActorCritic
from glow.training.diagnosis import TrainingDiverged

FAST = LearnerConfig(first_alpha=0.2, lr=5e-3)
LAYERS = {"flow": 2, "gaussian": 0}


def learner(environment, kind, num_steps, seed=0):
    return SoftActorCritic(environment, LearnerConfig(**(vars(FAST) | {"num_steps": num_steps})), LAYERS[kind], seed)


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
    losses = [metrics["loss/critic"] for metrics in agent.learn()]
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
    found = []
    for progress in (0.0, 0.25, 0.5, 0.875):
        agent._set_rates(progress)
        found.append((agent._alpha, agent._optimizers[0].param_groups[0]["lr"]))
    middle = math.sqrt(FAST.first_alpha * FAST.alpha)
    expected = [(FAST.first_alpha, FAST.lr), (middle, FAST.lr), (FAST.alpha, FAST.lr), (FAST.alpha, FAST.lr / 2)]
    assert np.allclose(found, expected)


def test_loss_that_is_not_finite_ends_learning():
    class Broken(TwoPeaks):
        def step(self, state, action):
            moved, reward = super().step(state, action)
            return moved, reward * math.nan

    with pytest.raises(TrainingDiverged, match=r"step 1 of bandit: the loss of the critic is nan"):
        list(learner(Broken(), "flow", 3).learn())
