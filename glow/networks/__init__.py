"""The networks of couplings, for images and vectors; and the matrix products that make them fast."""

from glow.networks.base import Network
from glow.networks.convolutional import CouplingNet
from glow.networks.gated import GatedNet
from glow.networks.mlp import MLP

__all__ = ["MLP", "CouplingNet", "GatedNet", "Network"]
