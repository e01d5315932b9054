"""What couplings compute with: networks of images and vectors, and how they are made fast."""

from glow.networks.convolutional import CouplingNet
from glow.networks.gated import GatedNet
from glow.networks.mlp import MLP

__all__ = ["MLP", "CouplingNet", "GatedNet"]
