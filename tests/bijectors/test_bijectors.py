"""Every bijector passes one check, at initialisation and after its parameters moved."""

import pytest
import torch
from conftest import perturb
from exactness import BIJECTORS, CONDITIONAL, Given, build, check_exact, examples, shape_of, vector_coupling

from glow.bijectors.base import Inverse
from glow.bijectors.initialization import initialize_actnorms
from glow.bijectors.planar import Planar


@pytest.mark.parametrize("size", [0.0, 0.3, "trained"])
@pytest.mark.parametrize("name", BIJECTORS)
def test_bijector_is_exact(name, size):
    check_exact(build(name, size), shape=shape_of(name))


@pytest.mark.parametrize("name", CONDITIONAL)
def test_conditional_bijector_is_exact_given_its_context(name):
    torch.manual_seed(0)
    bijector = CONDITIONAL[name]().double()
    context = torch.eye(3, dtype=torch.float64)[:, :, None, None]
    initialize_actnorms(bijector, examples(3), context)
    perturb(bijector, 0.05)
    with pytest.raises(ValueError, match="it needs labels"):
        bijector(examples(3))
    outputs = [bijector(examples(1), context[row : row + 1])[0] for row in range(3)]
    assert not torch.allclose(outputs[0], outputs[1])

    check_exact(Given(bijector, context), rows=1)


@pytest.mark.parametrize("kind", ["affine", "additive", "mixture"])
def test_conditional_bijector_of_vectors_is_exact_given_its_context(kind):
    bijector = vector_coupling(kind, 5, 1, context_features=3).double()
    perturb(bijector, 0.1)
    context = torch.eye(3, dtype=torch.float64)
    outputs = [bijector(examples(1, shape=(5,)), context[row : row + 1])[0] for row in range(3)]
    assert not torch.allclose(outputs[0], outputs[1])
    check_exact(Given(bijector, context), rows=1, shape=(5,))
    with pytest.raises(ValueError, match="it needs a context"):
        bijector(examples(3, shape=(5,)))
    with pytest.raises(ValueError, match=r"context \[3, 2\] must be \[N, 3\]"):
        bijector(examples(3, shape=(5,)), context[:, :2])


@pytest.mark.parametrize("name", BIJECTORS)
def test_examples_do_not_depend_on_each_other(name):
    bijector, x = build(name, 0.3), examples(4, shape=shape_of(name))
    z, logdet = bijector(x)
    changed = x.clone()
    changed[0] += 1
    z_changed, logdet_changed = bijector(changed)
    assert torch.allclose(z[1:], z_changed[1:], atol=1e-12)
    assert torch.allclose(logdet[1:], logdet_changed[1:], atol=1e-12)
    assert not torch.equal(z[0], z_changed[0])


@pytest.mark.parametrize("name", BIJECTORS)
def test_logdet_of_float32_input_is_float32(name):
    bijector = build(name, 0.1).float()
    assert bijector(examples(2, shape=shape_of(name)).float())[1].dtype == torch.float32


def test_inverse_turns_a_map_around():
    planar, x = Planar(3).double(), examples(4, shape=(3,))
    perturb(planar, 0.5)
    turned = Inverse(planar)
    assert all(torch.equal(a, b) for a, b in zip(turned.inverse(x), planar(x), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(turned(x), planar.inverse(x), strict=True))
