"""Which model is trained: a Glow of images, or a flow of vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from glow.config.fields import require
from glow.files.limits import DIMS

MAX_LEVELS = 16


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a multiscale Glow."""

    image_shape: tuple[int, int, int] | None = None
    """Channels, height and width of an image, as in '[3, 64, 64]'. Default: the shape of the training images. Set it
    for plan and benchmark when there is no data set yet."""
    num_bits: int = 8
    """Bits in each channel of an image, 1 to 8: channels are reduced to 2^num_bits levels. With fewer bits the model is
    easier to fit, but bits/dim of different num_bits cannot be compared."""
    num_levels: int = 3
    """The paper's L: number of levels. Each one is a squeeze, num_steps_per_level flow steps and a split; the last has
    no split. Height and width must be divisible by 2^num_levels."""
    num_steps_per_level: int | tuple[int, ...] = 32
    """The paper's K: number of flow steps (ActNorm, 1x1 convolution, coupling) in each level. One number, or one for
    each level, as in '[10, 6, 4]', shallowest level first. Time and memory grow with it; for many steps see
    --memory."""
    hidden_channels: int = 512
    """Width of the coupling networks: channels in their hidden layers. The paper uses 512."""
    coupling: Literal["affine", "additive", "mixture"] = "affine"
    """Map of the coupling layers. affine: scale and shift. additive: shift alone. mixture: the mixture-of-logistics CDF
    of Flow++, more flexible and slower."""
    mask: Literal["channels", "first_channels", "checkerboard"] = "channels"
    """What a coupling changes. channels: the second half of the channels. first_channels: the first half.
    checkerboard: every other pixel, and in the next step the remaining ones; the width must then be even in every
    level."""
    scale: Literal["sigmoid", "exp", "tanh"] | None = None
    """With coupling affine: how the scale is computed from the network's output h. sigmoid: sigmoid(h + 2), below 1.
    exp: exp(h), unbounded. tanh: exp(2 tanh(h / 2)), bounded. Default: sigmoid."""
    shift: Literal["first", "last"] | None = None
    """With coupling affine: whether it shifts before it scales (first: the paper's code) or after that (last: the
    paper's table 1). Default: first."""
    num_mixtures: int | None = None
    """With coupling mixture: number of logistics in each mixture. Default: 8."""
    permutation: Literal["lu", "plain", "orthogonal", "reverse", "shuffle"] = "lu"
    """What mixes the channels before each coupling. lu, plain, orthogonal: an invertible 1x1 convolution
    (LU-decomposed, a plain matrix, or a rotation). reverse, shuffle: a fixed permutation, for comparison."""
    network: Literal["conv", "gated"] = "conv"
    """Network in each coupling. conv: the three convolutions of Glow. gated: the gated convolutions and self-attention
    of Flow++; the cost of attention grows with the square of the number of pixels."""
    num_network_blocks: int | None = None
    """With network gated: number of blocks. Default: 2."""
    network_actnorm: bool = True
    """With network conv: use ActNorm in the hidden layers. false: use biases instead."""
    network_padding: Literal["zeros", "indicator", "ones"] = "zeros"
    """Padding of the 3x3 convolutions in conv networks and in priors. zeros: zeros. indicator: zeros, and a further
    channel that is 1 in the border (the paper's code). ones: ones in the last convolution of a network and in priors
    (rosinality's code)."""
    split_prior: Literal["learned", "pixel", "standard"] = "learned"
    """Prior of the latents that a split factors out. learned: a Gaussian whose mean and scale are computed from the
    other half of the channels. pixel: a Gaussian with an own mean and scale for each number (normflows). standard: a
    standard normal."""
    top_prior: Literal["learned", "border", "pixel", "standard"] = "learned"
    """Prior of the latents of the last level. learned: a Gaussian with one mean and scale in each channel. border: the
    same, with other values at the border of the image; it needs network_padding indicator or ones. pixel: a Gaussian
    with an own mean and scale for each number (normflows). standard: a standard normal."""
    class_conditional: bool = False
    """Condition the coupling networks and the learned priors on the class of the image. The data set must have
    labels."""
    num_classes: int | None = None
    """With class_conditional: number of classes. Default: the number of classes in the training data."""
    dequantization: Literal["uniform", "variational"] = "uniform"
    """Noise that makes the levels of the pixels continuous. uniform: uniform noise. variational: noise from a learned
    flow that sees the image; the bound on the likelihood is tighter and a step takes longer."""
    dequantization_steps: int | None = None
    """With dequantization variational: number of coupling layers in its flow. Default: 4."""
    dequantization_channels: int | None = None
    """With dequantization variational: width of its networks. Default: hidden_channels."""

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        require(1 <= self.num_bits <= 8, "model.num_bits", self.num_bits, "give 1 to 8")
        for name in ("num_levels", "hidden_channels"):
            value = getattr(self, name)
            require(value >= 1, f"model.{name}", value, "give 1 or more")
        require(self.num_levels <= MAX_LEVELS, "model.num_levels", self.num_levels, f"give at most {MAX_LEVELS}")
        steps = self.num_steps_per_level
        if not isinstance(steps, int):
            object.__setattr__(self, "num_steps_per_level", steps := tuple(steps))
        advice = f"give one number, or {self.num_levels}, one for each level (model.num_levels)"
        require(len(self.steps) == self.num_levels, "model.num_steps_per_level", steps, advice)
        require(min(self.steps) >= 1, "model.num_steps_per_level", steps, "give 1 or more")
        if self.image_shape is not None:
            object.__setattr__(self, "image_shape", tuple(self.image_shape))
            require(
                len(self.image_shape) == 3 and min(self.image_shape) >= 1,
                "model.image_shape",
                self.image_shape,
                "give three positive numbers: [CHANNELS, HEIGHT, WIDTH]",
            )
            DIMS.check("model.image_shape", math.prod(self.image_shape))
            _, height, width = self.image_shape
            factor = 2**self.num_levels
            require(
                height % factor == 0 and width % factor == 0,
                "model.image_shape",
                self.image_shape,
                f"height and width must be divisible by 2^num_levels = {factor}: lower model.num_levels, or prepare "
                "the data with another --size",
            )
        self._check_combination()

    @property
    def steps(self) -> tuple[int, ...]:
        """Number of flow steps of each level, shallowest level first."""
        steps = self.num_steps_per_level
        return (steps,) * self.num_levels if isinstance(steps, int) else steps

    @property
    def steps_text(self) -> str:
        """The paper's K in a line of text: one number, or as in 10/6/4."""
        steps = self.num_steps_per_level
        return str(steps) if isinstance(steps, int) else "/".join(map(str, steps))

    def _check_combination(self) -> None:
        """Check that the parts go together."""
        for name, owner, wanted in (
            ("scale", "coupling", "affine"),
            ("shift", "coupling", "affine"),
            ("num_mixtures", "coupling", "mixture"),
            ("num_network_blocks", "network", "gated"),
            ("num_classes", "class_conditional", True),
            ("dequantization_steps", "dequantization", "variational"),
            ("dequantization_channels", "dequantization", "variational"),
        ):
            value = getattr(self, name)
            advice = f"leave it out, or set model.{owner} to {str(wanted).lower()}"
            require(value is None or getattr(self, owner) == wanted, f"model.{name}", value, advice)
            if isinstance(value, int):
                require(value >= 1, f"model.{name}", value, "give 1 or more")
        if self.network == "gated":
            advice = "leave it out: gated networks have no ActNorm"
            require(self.network_actnorm, "model.network_actnorm", self.network_actnorm, advice)
            advice = "leave it out: gated networks are padded with zeros"
            require(self.network_padding == "zeros", "model.network_padding", self.network_padding, advice)
            advice = "give a multiple of 4: gated networks have 4 attention heads"
            widths = {"hidden_channels": self.hidden_channels, "dequantization_channels": self.dequantization_channels}
            for name, width in widths.items():
                require(width is None or width % 4 == 0, f"model.{name}", width, advice)
        if self.top_prior == "border":
            advice = "give learned: with model.network_padding zeros both are the same"
            require(self.network_padding != "zeros", "model.top_prior", self.top_prior, advice)
        if self.image_shape is not None and self.mask == "checkerboard":
            width = self.image_shape[2]
            advice = f"lower model.num_levels: the last level has an odd width, {width >> self.num_levels}"
            require(width % 2 ** (self.num_levels + 1) == 0, "model.mask", self.mask, advice)


@dataclass(frozen=True)
class FlowConfig:
    """Architecture of a flow of vectors."""

    num_dims: int | None = None
    """Dimension D of a vector. Default: that of the training data or target. Needed with target.function."""
    kind: Literal["affine", "additive", "mixture", "planar", "radial"] = "affine"
    """Map of each layer. affine, additive, mixture: couplings that change the first and the second half of the vector
    in turn. planar, radial: the flows of Rezende & Mohamed (2015)."""
    num_layers: int = 4
    """Number of layers. More layers are more flexible and take longer."""
    hidden_channels: int | None = None
    """With couplings: width of their networks. Default: 32."""
    num_hidden_layers: int | None = None
    """With couplings: number of hidden layers in their networks. Default: 2."""
    scale: Literal["sigmoid", "exp", "tanh"] | None = None
    """With kind affine: how the scale is computed from the network's output h. sigmoid: sigmoid(h + 2), below 1. exp:
    exp(h), unbounded. tanh: exp(2 tanh(h / 2)), bounded. Default: tanh."""
    num_mixtures: int | None = None
    """With kind mixture: number of logistics in each mixture. Default: 8."""
    normalization: Literal["none", "actnorm", "batchnorm"] = "none"
    """First map of each layer. none: no normalisation. actnorm: ActNorm. batchnorm: batch normalisation; in training
    the log-density of a vector then depends on its batch."""
    linear: bool = False
    """Add an invertible linear map (LU-decomposed) to each layer, before the map of flow.kind."""
    base: Literal["standard", "learned"] = "standard"
    """Base density. standard: a standard normal. learned: a Gaussian with a learned mean and scale in each
    dimension."""
    inverse: bool | None = None
    """With kind planar, radial or mixture: use the layers in the opposite direction. true: sampling is fast,
    log-densities of given vectors are slower. false: the other way round. Default: true for a target, false for
    data."""

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        require(self.num_layers >= 1, "flow.num_layers", self.num_layers, "give 1 or more")
        couplings = ("affine", "additive", "mixture")
        advice = "leave it out: affine and additive couplings are as fast in both directions"
        require(self.inverse is None or self.kind not in ("affine", "additive"), "flow.inverse", self.inverse, advice)
        for name, kinds in (
            ("hidden_channels", couplings),
            ("num_hidden_layers", couplings),
            ("scale", ("affine",)),
            ("num_mixtures", ("mixture",)),
        ):
            value = getattr(self, name)
            advice = f"leave it out, or set flow.kind to {' or '.join(kinds)}"
            require(value is None or self.kind in kinds, f"flow.{name}", value, advice)
            require(value is None or name == "scale" or value >= 1, f"flow.{name}", value, "give 1 or more")
        if self.num_dims is not None:
            require(self.num_dims >= 1, "flow.num_dims", self.num_dims, "give 1 or more")
            advice = "give planar or radial: a coupling needs vectors of 2 or more dimensions"
            require(self.num_dims > 1 or self.kind not in couplings, "flow.kind", self.kind, advice)
