"""What is trained: a Glow of images, or a flow of vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glow.config.fields import require


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a multiscale Glow."""

    image_shape: tuple[int, int, int] | None = None
    """Channels, height and width of an image. Default: those of the training data."""
    num_bits: int = 8
    """Bits a channel that are modelled, 1 to 8; images are reduced to 2^num_bits levels."""
    num_levels: int = 3
    """The paper's L. Height and width must be divisible by 2^num_levels."""
    num_steps_per_level: int = 32
    """The paper's K: flow steps (ActNorm, 1x1 convolution, coupling) in each level."""
    hidden_channels: int = 512
    """Width of the coupling networks."""
    coupling: Literal["affine", "additive", "mixture"] = "affine"
    """Map of the coupling layers; mixture is the mixture-of-logistics CDF of Flow++."""
    mask: Literal["channels", "checkerboard"] = "channels"
    """What a coupling changes: the second half of the channels, or every other pixel, the others in the next step."""
    scale: Literal["sigmoid", "exp", "tanh"] | None = None
    """Scale of affine couplings: sigmoid(h + 2), exp(h), or exp(2 tanh(h / 2)). Default: sigmoid."""
    num_mixtures: int | None = None
    """Logistics in each mixture of mixture couplings. Default: 8."""
    permutation: Literal["lu", "plain", "orthogonal", "reverse", "shuffle"] = "lu"
    """What mixes the channels: an invertible 1x1 convolution (LU-decomposed, the plain matrix, or a rotation), or, for
    comparison, a fixed permutation."""
    network: Literal["conv", "gated"] = "conv"
    """Coupling network: the three convolutions of Glow, or the gated convolutions and attention of Flow++."""
    num_network_blocks: int | None = None
    """Blocks of gated networks. Default: 2."""
    network_actnorm: bool = True
    """ActNorm in the hidden layers of conv networks; without, they have biases."""
    network_padding: Literal["zeros", "indicator", "ones"] = "zeros"
    """Border that convolutions of conv networks and of priors see: zeros; zeros and a channel that tells them from the
    image (the paper's code); or ones in the last convolution of a network and in priors (rosinality's code)."""
    split_prior: Literal["learned", "standard"] = "learned"
    """Prior of what a split factors out: Gaussian, given what stays, or standard normal."""
    top_prior: Literal["learned", "border", "standard"] = "learned"
    """Prior of the last level: a mean and scale a channel; others at the border (the codes with another
    network_padding); or standard normal."""
    class_conditional: bool = False
    """Condition coupling networks and learned priors on the class of the image."""
    num_classes: int | None = None
    """Classes of a class_conditional model. Default: those of the training data."""
    dequantization: Literal["uniform", "variational"] = "uniform"
    """Noise that makes levels continuous: uniform, or, for a tighter bound, of a learned flow given the image."""
    dequantization_steps: int | None = None
    """Coupling layers of variational dequantisation. Default: 4."""
    dequantization_channels: int | None = None
    """Width of its networks. Default: hidden_channels."""

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        require(1 <= self.num_bits <= 8, "model.num_bits", self.num_bits, "1 to 8 are")
        for name in ("num_levels", "num_steps_per_level", "hidden_channels"):
            value = getattr(self, name)
            require(value >= 1, f"model.{name}", value, "1 or more is")
        if self.image_shape is not None:
            object.__setattr__(self, "image_shape", tuple(self.image_shape))
            require(
                len(self.image_shape) == 3 and min(self.image_shape) >= 1,
                "model.image_shape",
                self.image_shape,
                "three positive numbers (channels, height, width) are",
            )
            _, height, width = self.image_shape
            factor = 2**self.num_levels
            require(
                height % factor == 0 and width % factor == 0,
                "model.image_shape",
                self.image_shape,
                f"height and width must be divisible by 2^num_levels = {factor}: prepare the data with another "
                "--size or lower model.num_levels",
            )
        self._check_combination()

    def _check_combination(self) -> None:
        """Refuse parts that cannot go together."""
        for name, owner, wanted in (
            ("scale", "coupling", "affine"),
            ("num_mixtures", "coupling", "mixture"),
            ("num_network_blocks", "network", "gated"),
            ("num_classes", "class_conditional", True),
            ("dequantization_steps", "dequantization", "variational"),
            ("dequantization_channels", "dequantization", "variational"),
        ):
            value = getattr(self, name)
            allowed = f"it belongs to model.{owner} {str(wanted).lower()}: leave it out"
            require(value is None or getattr(self, owner) == wanted, f"model.{name}", value, allowed)
            if value is not None and name != "scale":
                require(value >= 1, f"model.{name}", value, "1 or more is")
        if self.network == "gated":
            allowed = "gated networks have none: only true is"
            require(self.network_actnorm, "model.network_actnorm", self.network_actnorm, allowed)
            allowed = "gated networks see zeros: only zeros is"
            require(self.network_padding == "zeros", "model.network_padding", self.network_padding, allowed)
            allowed = "gated networks need a multiple of 4, the number of attention heads"
            widths = {"hidden_channels": self.hidden_channels, "dequantization_channels": self.dequantization_channels}
            for name, width in widths.items():
                require(width is None or width % 4 == 0, f"model.{name}", width, allowed)
        if self.top_prior == "border":
            allowed = "with network_padding zeros it is the same as learned"
            require(self.network_padding != "zeros", "model.top_prior", self.top_prior, allowed)
        if self.image_shape is not None and self.mask == "checkerboard":
            width = self.image_shape[2]
            allowed = f"the last level would have an odd width, {width >> self.num_levels}: lower model.num_levels"
            require(width % 2 ** (self.num_levels + 1) == 0, "model.mask", self.mask, allowed)


@dataclass(frozen=True)
class FlowConfig:
    """Architecture of a flow of vectors."""

    num_dims: int | None = None
    """Numbers in a vector. Default: as in the training data."""
    kind: Literal["affine", "additive", "mixture", "planar", "radial"] = "affine"
    """Map of the layers: couplings that change the first and second half in turn, or the flows of Rezende & Mohamed."""
    num_layers: int = 4
    """Layers, one after the other."""
    hidden_channels: int | None = None
    """Width of the coupling networks. Default: 32."""
    num_hidden_layers: int | None = None
    """Hidden layers of the coupling networks. Default: 2."""
    scale: Literal["sigmoid", "exp", "tanh"] | None = None
    """Scale of affine couplings: sigmoid(h + 2), exp(h), or exp(2 tanh(h / 2)). Default: tanh."""
    num_mixtures: int | None = None
    """Logistics in each mixture of mixture couplings. Default: 8."""
    normalization: Literal["none", "actnorm", "batchnorm"] = "none"
    """What comes first in each layer: nothing, ActNorm, or a batch normalisation, whose log-densities are those of a
    batch while it trains."""
    linear: bool = False
    """An invertible linear map (LU-decomposed) in each layer."""
    base: Literal["standard", "learned"] = "standard"
    """Base density: standard normal, or a Gaussian with a learned mean and scale in each dimension."""
    inverse: bool | None = None
    """Turn planar, radial or mixture layers around: what is closed form for log-densities of data becomes so for
    samples. Default: for a target, and not for data."""

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        require(self.num_layers >= 1, "flow.num_layers", self.num_layers, "1 or more is")
        couplings = ("affine", "additive", "mixture")
        allowed = "affine and additive couplings cost the same either way: leave it out"
        require(self.inverse is None or self.kind not in ("affine", "additive"), "flow.inverse", self.inverse, allowed)
        for name, kinds in (
            ("hidden_channels", couplings),
            ("num_hidden_layers", couplings),
            ("scale", ("affine",)),
            ("num_mixtures", ("mixture",)),
        ):
            value = getattr(self, name)
            allowed = f"it belongs to flow.kind {' or '.join(kinds)}: leave it out"
            require(value is None or self.kind in kinds, f"flow.{name}", value, allowed)
            require(value is None or name == "scale" or value >= 1, f"flow.{name}", value, "1 or more is")
        if self.num_dims is not None:
            require(self.num_dims >= 1, "flow.num_dims", self.num_dims, "1 or more is")
            allowed = "a vector of one number has no halves; planar or radial is"
            require(self.num_dims > 1 or self.kind not in couplings, "flow.kind", self.kind, allowed)
