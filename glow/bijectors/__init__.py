"""Invertible maps between data and latents, one file each."""

from glow.bijectors.actnorm import ActNorm
from glow.bijectors.base import Bijector, Composition, Inverse
from glow.bijectors.batchnorm import BatchNorm
from glow.bijectors.conv1x1 import LUConv1x1, OrthogonalConv1x1, Permutation, PlainConv1x1
from glow.bijectors.coupling import AdditiveCoupling, AffineCoupling, Coupling
from glow.bijectors.mask import ChannelMask, CheckerboardMask, EmptyMask
from glow.bijectors.mixture import MixtureCoupling
from glow.bijectors.planar import Planar
from glow.bijectors.radial import Radial
from glow.bijectors.squash import Squash
from glow.bijectors.squeeze import Squeeze
from glow.bijectors.step import FlowStep

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "BatchNorm",
    "Bijector",
    "ChannelMask",
    "CheckerboardMask",
    "Composition",
    "Coupling",
    "EmptyMask",
    "FlowStep",
    "Inverse",
    "LUConv1x1",
    "MixtureCoupling",
    "OrthogonalConv1x1",
    "Permutation",
    "PlainConv1x1",
    "Planar",
    "Radial",
    "Squash",
    "Squeeze",
]
