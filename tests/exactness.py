"""Every bijector there is, and the check that all of them pass."""

from functools import partial

import torch
from conftest import perturb

from glow.bijectors.actnorm import ActNorm
from glow.bijectors.base import Composition, Inverse
from glow.bijectors.batchnorm import BatchNorm
from glow.bijectors.conv1x1 import PERMUTATIONS, LUConv1x1, OrthogonalConv1x1
from glow.bijectors.coupling import AdditiveCoupling, AffineCoupling
from glow.bijectors.initialization import initialize_actnorms
from glow.bijectors.mask import ChannelMask, CheckerboardMask
from glow.bijectors.mixture import MixtureCoupling, parameters_per_number
from glow.bijectors.planar import Planar
from glow.bijectors.radial import Radial
from glow.bijectors.squeeze import Squeeze
from glow.bijectors.step import FlowStep
from glow.models.priors import BorderTopPrior, Identity, PixelPrior, SplitPrior, TopPrior
from glow.networks.convolutional import CouplingNet
from glow.networks.gated import GatedNet
from glow.networks.mlp import MLP


def composition():
    return Composition(ActNorm(4), LUConv1x1(4), AffineCoupling(CouplingNet(2, 8, 4)))


def coupling(kind, mask, network, **options):
    """A coupling of 4 channels with either mask and network."""
    masks = {"channels": ChannelMask(), "first channels": ChannelMask(1)}
    masks |= {"even": CheckerboardMask(0), "odd": CheckerboardMask(1)}
    half = 2 if "channels" in mask else 4
    per_number = {"affine": 2, "additive": 1, "mixture": parameters_per_number(3)}[kind]
    nets = {
        "conv": lambda: CouplingNet(half, 8, per_number * half),
        "bias": lambda: CouplingNet(half, 8, per_number * half, actnorm=False, padding="ones"),
        "indicator": lambda: CouplingNet(half, 8, per_number * half, padding="indicator"),
        "gated": lambda: GatedNet(half, 8, per_number * half, (4, 2), num_blocks=1),
    }
    classes = {"affine": AffineCoupling, "additive": AdditiveCoupling, "mixture": MixtureCoupling}
    return classes[kind](nets[network](), masks[mask], **options)


def vector_coupling(kind, num_dims, parity, context_features=0):
    """A coupling of vectors that changes either half."""
    mask = ChannelMask(parity)
    given, changed = mask.sizes(num_dims)
    per_number = {"affine": 2, "additive": 1, "mixture": parameters_per_number(3)}[kind]
    net = MLP(given, 8, per_number * changed, context_features=context_features)
    if kind == "mixture":
        return MixtureCoupling(net, mask, num_mixtures=3)
    return AffineCoupling(net, mask, scale="tanh") if kind == "affine" else AdditiveCoupling(net, mask)


COUPLINGS = {
    **{f"affine {scale}": ("affine", "channels", "conv", {"scale": scale}) for scale in ("sigmoid", "exp", "tanh")},
    # With a bounded scale: a small one and a shift after it leave few digits of x.
    "affine shifts last": ("affine", "first channels", "conv", {"shifts_last": True, "scale": "tanh"}),
    **{
        f"{kind} {mask} {network}": (kind, mask, network, {"num_mixtures": 3} if kind == "mixture" else {})
        for kind in ("affine", "additive", "mixture")
        for mask, network in (
            ("channels", "bias"),
            ("channels", "indicator"),
            ("channels", "gated"),
            ("even", "conv"),
            ("odd", "gated"),
        )
    },
}
BIJECTORS = {
    "actnorm": lambda: ActNorm(4),
    **{name: partial(make, 4) for name, make in PERMUTATIONS.items()},
    **{name: partial(coupling, *parts[:3], **parts[3]) for name, parts in COUPLINGS.items()},
    "split": lambda: SplitPrior(4),
    "split indicator": lambda: SplitPrior(4, "indicator"),
    "split ones": lambda: SplitPrior(4, "ones"),
    "top border indicator": lambda: BorderTopPrior(4, "indicator"),
    "identity": Identity,
    "top": lambda: TopPrior(4),
    "top border": lambda: BorderTopPrior(4, "ones"),
    "split pixel": lambda: PixelPrior((2, 4, 2)),
    "top pixel": lambda: PixelPrior((4, 4, 2)),
    "squeeze": Squeeze,
    "composition": composition,
    **{
        f"step {name}": lambda make=make: FlowStep(ActNorm(4), make(4), AffineCoupling(CouplingNet(2, 8, 4)))
        for name, make in PERMUTATIONS.items()
    },
    "batch norm": lambda: BatchNorm(4),
    "inverse": lambda: Inverse(Composition(LUConv1x1(4), AdditiveCoupling(CouplingNet(2, 8, 2, actnorm=False)))),
}
# Of vectors, with their number of dimensions.
VECTORS = {
    **{
        f"vectors: {kind} {num_dims} {parity}": (num_dims, partial(vector_coupling, kind, num_dims, parity))
        for kind in ("affine", "additive", "mixture")
        for num_dims in (2, 5)
        for parity in (0, 1)
    },
    **{f"vectors: {name}": (5, partial(make, 5)) for name, make in PERMUTATIONS.items()},
    **{
        f"vectors: {make.__name__} {num_dims}": (num_dims, partial(make, num_dims))
        for make in (ActNorm, BatchNorm, Planar, Radial)
        for num_dims in (1, 2, 5)
    },
    **{f"vectors: inverse {make.__name__}": (2, lambda make=make: Inverse(make(2))) for make in (Planar, Radial)},
    "vectors: composition": (
        3,
        lambda: Composition(ActNorm(3), LUConv1x1(3), vector_coupling("affine", 3, 1), Inverse(Planar(3)), Radial(3)),
    ),
}
BIJECTORS |= {name: make for name, (_, make) in VECTORS.items()}
# Conditional ones, with the channels of their context.
CONDITIONAL = {
    "affine": lambda: AffineCoupling(CouplingNet(2, 8, 4, context_channels=3)),
    "gated": lambda: AffineCoupling(GatedNet(2, 8, 4, (4, 2), num_blocks=1, context_channels=3)),
    "additive": lambda: AdditiveCoupling(CouplingNet(2, 8, 2, context_channels=3)),
    "mixture": lambda: MixtureCoupling(
        CouplingNet(2, 8, 2 * parameters_per_number(3), context_channels=3), num_mixtures=3
    ),
    "checkerboard": lambda: AffineCoupling(CouplingNet(4, 8, 8, context_channels=3), CheckerboardMask(1)),
    "split": lambda: SplitPrior(4, context_channels=3),
    "top": lambda: TopPrior(4, context_channels=3),
    "top border": lambda: BorderTopPrior(4, "indicator", context_channels=3),
    "split pixel": lambda: PixelPrior((2, 4, 2), context_channels=3),
}


def build(name, size):
    """A float64 bijector with its ActNorms initialised and its parameters moved by noise of a size, or trained.

    It is in eval mode: a batch norm is a fixed map then.
    """
    torch.manual_seed(0)
    bijector = BIJECTORS[name]().double()
    initialize_actnorms(bijector, examples(32, shape=shape_of(name)))
    if size == "trained":
        if isinstance(bijector, BatchNorm):
            perturb(bijector, 0.3)  # it starts at the optimum
        fit_to_normal(bijector, shape_of(name))
    else:
        # Less for a mixture: the slope between components far apart underflows.
        perturb(bijector, size / 3 if isinstance(bijector, MixtureCoupling) else size)
    return bijector.eval()


def fit_to_normal(bijector, shape, steps=30):
    """Train it to make something normal of squares: the network and all else move off their initial values."""
    parameters = list(bijector.parameters())
    if not parameters:
        return
    x = examples(64, shape=shape).square()
    optimizer = torch.optim.Adam(parameters, lr=0.005)
    losses = []
    for _ in range(steps):
        z, logdet = bijector(x)
        losses.append((0.5 * z.square().flatten(1).sum(1) - logdet).mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert isinstance(bijector, OrthogonalConv1x1) or losses[-1] < losses[0]


def examples(count, seed=1, shape=(4, 4, 2)):
    rng = torch.Generator().manual_seed(seed)
    return 0.7 * torch.randn(count, *shape, dtype=torch.float64, generator=rng) + 0.3


def shape_of(name):
    return (VECTORS[name][0],) if name in VECTORS else (4, 4, 2)


class Given(torch.nn.Module):
    """A conditional bijector, given the first rows of a context."""

    def __init__(self, bijector, context):
        super().__init__()
        self.bijector, self.context = bijector, context

    def forward(self, x):
        return self.bijector(x, self.context[: len(x)])

    def inverse(self, z):
        return self.bijector.inverse(z, self.context[: len(z)])


def is_steep(bijector, x):
    if not isinstance(bijector, MixtureCoupling):
        return torch.ones_like(x, dtype=torch.bool)
    x_a, x_b = bijector.mask.split(x)
    _, log_slope = bijector.transform(x_b, bijector._net_output(x_a, None))
    return bijector.mask.join(torch.ones_like(x_a), log_slope.exp()) > 0.01


def check_exact(bijector, rows=3, shape=(4, 4, 2), domain=lambda x: x):
    """Round trips in both directions, both log-determinants, and that of the forward map against autograd.

    ``domain`` brings numbers to where the bijector takes them.
    """
    x = domain(examples(3, shape=shape))
    z, logdet = bijector(x)
    back, inverse_logdet = bijector.inverse(z)
    assert z.dtype == logdet.dtype == inverse_logdet.dtype == torch.float64
    assert logdet.shape == inverse_logdet.shape == (3,)
    # Where a mixture's components lie far apart, the map is flat in between, and rounding decides about x.
    assert (back - x)[is_steep(bijector, x)].abs().max() < 1e-9
    assert (bijector(back)[1] + inverse_logdet).abs().max() < 1e-9
    other, _ = bijector(domain(examples(3, seed=2, shape=shape)))
    assert (bijector(bijector.inverse(other)[0])[0] - other).abs().max() < 1e-9
    for row in range(rows):
        jacobian = torch.autograd.functional.jacobian(lambda v: bijector(v[None])[0].flatten(), x[row]).flatten(1)
        assert abs(torch.linalg.slogdet(jacobian).logabsdet - logdet[row]) < 1e-8
