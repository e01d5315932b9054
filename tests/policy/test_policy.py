"""Flows as policies: exact densities of actions, and tasks with their best policies."""

import math

import pytest
import torch
from conftest import perturb
from exactness import Given, check_exact, fit_to_normal

from glow.bijectors.coupling import AffineCoupling
from glow.bijectors.mask import EmptyMask
from glow.bijectors.squash import Squash
from glow.networks.mlp import MLP
from glow.policy.environment import TwoGoals, TwoPeaks
from glow.policy.exact import BestPolicy, action_grid, divergence
from glow.policy.policy import Policy

LAYERS = {"flow": 2, "gaussian": 0}


def build(kind, size=0.15):
    """A float64 policy with its parameters moved."""
    torch.manual_seed(0)
    policy = Policy(LAYERS[kind], 8).double()
    perturb(policy, size)
    return policy


def states(count, value=0.4):
    return torch.full((count, 2), value, dtype=torch.float64)


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
