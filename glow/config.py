"""Configuration of every stage: frozen dataclasses, validated once; the field docstrings are the --help text."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

Config = TypeVar("Config")

PARALLEL_MODES = ("ddp", "fsdp", "hsdp", "pipeline")
MAX_PIXELS = 89_478_485  # Pillow's limit for an image that is not suspect


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise the ValueError that names a config field, its value and what is allowed, unless ``condition`` holds."""
    if not condition:
        raise ValueError(f"{name}: {value!r} is not allowed; {allowed}")


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
class DataConfig:
    """Where the training data lies and how it is read."""

    path: str = "data/digits"
    """Directory of a prepared data set (holds dataset.json), its http(s) URL, or pipe:COMMAND, a shell command that
    writes the file whose name stands for {} (on the command line only; shards are fetched to TMPDIR, each once)."""
    flip: bool = False
    """Mirror training images left to right with probability 1/2."""
    shift: int = 0
    """Shift training images by up to this many pixels in each direction; the border is repeated."""
    num_workers: int = 0
    """Processes that read and decode, for each training process; 0 reads in the training process itself."""
    on_error: Literal["stop", "skip"] = "stop"
    """What training does about a sample that is damaged or in a shard that cannot be read: stop, or put another in its
    place, count it (data/num_skipped) and list it in metrics.jsonl. Validation and evaluation always stop."""
    max_skipped: float = 0.01
    """Training stops when more than this fraction was skipped: of an epoch, later of all images seen so far."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.shift >= 0, "data.shift", self.shift, "0 or more is")
        require(0 <= self.max_skipped < 1, "data.max_skipped", self.max_skipped, "0 up to but not including 1 is")
        require(self.num_workers >= 0, "data.num_workers", self.num_workers, "0 or more is")


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

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        require(self.num_layers >= 1, "flow.num_layers", self.num_layers, "1 or more is")
        couplings = ("affine", "additive", "mixture")
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


@dataclass(frozen=True)
class VectorDataConfig:
    """Vectors to train a flow on, in place of images."""

    name: Literal["mixture", "moons", "rings", "checkerboard", "file"] | None = None
    """A density in two dimensions, whose vectors are drawn here: a random mixture of 4 Gaussians, two half moons,
    rings, or a checkerboard; or a file. Default: train on images."""
    path: str | None = None
    """File of vectors, NumPy's .npy, [N, D]; a tenth of them is held out for validation."""
    num_points: int | None = None
    """Vectors drawn of a density. Default: 10,000."""
    seed: int = 0
    """Seed of the vectors, and of the mixture itself."""
    fresh: bool = False
    """Draw new vectors of the density at every step, instead of going through the same ones."""

    def __post_init__(self) -> None:
        """Check the combination."""
        allowed = "it belongs to vectors.name file: leave it out"
        require(self.path is None or self.name == "file", "vectors.path", self.path, allowed)
        require(self.path is not None or self.name != "file", "vectors.path", self.path, "a .npy file is")
        allowed = "a file has the vectors that it has: leave it out"
        require(self.num_points is None or self.name != "file", "vectors.num_points", self.num_points, allowed)
        require(not self.fresh or self.name != "file", "vectors.fresh", self.fresh, allowed)
        allowed = "with vectors.fresh there is no number of them: leave it out"
        require(self.num_points is None or not self.fresh, "vectors.num_points", self.num_points, allowed)
        require(self.num_points is None or self.num_points >= 1, "vectors.num_points", self.num_points, "1 or more is")
        require(self.seed >= 0, "vectors.seed", self.seed, "0 or more is")


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser, learning-rate schedule and gradient clipping."""

    name: Literal["adam", "adamw", "adamax", "sgd"] = "adamax"
    """Optimiser; sgd has Nesterov momentum beta1."""
    lr: float = 1e-3
    """Peak learning rate."""
    beta1: float = 0.9
    """Decay of the first moment, or the momentum of sgd."""
    beta2: float = 0.999
    """Decay of the second moment."""
    weight_decay: float = 0.0
    """Decoupled for adamw, an L2 penalty otherwise."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or a half cosine down to 0 at the last step."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    max_grad_norm: float | None = None
    """Gradients are scaled down to this norm (of the loss in bits/dim). Default: no clipping."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.lr > 0, "optimizer.lr", self.lr, "a number above 0 is")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name}", value, "0 up to but not including 1 is")
        require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "0 or more is")
        require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "0 or more is")
        if self.max_grad_norm is not None:
            require(self.max_grad_norm > 0, "optimizer.max_grad_norm", self.max_grad_norm, "a number above 0 is")


@dataclass(frozen=True)
class TrainConfig:
    """Length of a training run, its batches, and what is written when."""

    num_steps: int = 1000
    """Optimiser steps of the whole run."""
    batch_size: int = 64
    """Images in one optimiser step, over all processes."""
    microbatch_size: int | None = None
    """Images that one process holds at once in a training step; gradients are accumulated. Default: all of its share,
    which the initialisation before the first step takes in any case, without gradients."""
    seed: int = 0
    """Seed of the initial weights, the order of the data, the augmentation and the dequantisation noise."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights, reached gradually; 0 turns averaging off."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Precision of the coupling networks; state and likelihood stay float32. Default: as `accelerate launch` says."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    validate_every: int = 500
    """Steps between two validations (always one after the last step)."""
    num_validation_images: int | None = None
    """Images of the validation split that are measured during training. Default: all."""
    checkpoint_every: int = 500
    """Steps between two checkpoints (always one after the last step)."""
    keep_last: int = 2
    """Number of newest checkpoints to keep; the best by validation bits/dim is kept besides."""
    keep_every: int | None = None
    """Keep the checkpoints of all multiples of this many steps for good. Default: none."""
    preview_temperature: float = 0.7
    """Temperature of the sample grid shown in TensorBoard at each validation."""

    def __post_init__(self) -> None:
        """Check ranges."""
        names = ("num_steps", "batch_size", "log_every", "validate_every", "checkpoint_every", "keep_last")
        for name in names:
            value = getattr(self, name)
            require(value >= 1, f"train.{name}", value, "1 or more is")
        for name in ("microbatch_size", "num_validation_images", "keep_every"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"train.{name}", value, "1 or more is")
        require(self.seed >= 0, "train.seed", self.seed, "0 or more is")
        require(0 <= self.ema_decay < 1, "train.ema_decay", self.ema_decay, "0 up to but not including 1 is")
        require(self.preview_temperature >= 0, "train.preview_temperature", self.preview_temperature, "0 or more is")


@dataclass(frozen=True)
class ParallelConfig:
    """How the processes of a training share its work."""

    mode: str = "ddp"
    """ddp: each has the whole model. fsdp: each has a share of all parameters, gradients and optimiser state, and
    gathers a flow step when it is used. hsdp: fsdp within groups of processes, ddp between them. pipeline: each has a
    run of flow steps, one stage of the chain, and hands on the state."""
    stages: int | None = None
    """Stages of a pipeline. The number of processes is a multiple of it; several pipelines share the batch."""
    shards: int | None = None
    """Processes in a group of hsdp. The number of processes is a multiple of it."""
    reduce_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision in which processes add up gradients; float16 loses small ones unless train.mixed_precision is fp16."""

    def __post_init__(self) -> None:
        """Check the combination."""
        allowed = f"{', '.join(PARALLEL_MODES)} are"
        if self.mode == "tp" or self.mode.startswith("tensor"):
            # It would have to move the hidden layers of every coupling network between processes.
            allowed = "tensor parallelism is not offered; pipeline splits the chain of steps, fsdp the parameters"
        require(self.mode in PARALLEL_MODES, "parallel.mode", self.mode, allowed)
        for name, owner in (("stages", "pipeline"), ("shards", "hsdp")):
            value = getattr(self, name)
            if self.mode == owner:
                require(value is not None and value >= 2, f"parallel.{name}", value, f"{owner} needs 2 or more")
            else:
                require(value is None, f"parallel.{name}", value, f"it belongs to parallel.mode {owner}: leave it out")


@dataclass(frozen=True)
class TrainRun:
    """Train a Glow on a prepared data set, or a flow on vectors. The same command again resumes from the last
    checkpoint.
    """

    output: str
    """Run directory; by custom runs/NAME."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Architecture."""
    data: DataConfig = field(default_factory=DataConfig)
    """Training data."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Training run."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Several processes."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """Architecture of a flow of vectors, in place of model."""
    vectors: VectorDataConfig = field(default_factory=VectorDataConfig)
    """Vectors to train on, in place of data."""
    memory: Literal["stored", "checkpoint", "reversible"] = "stored"
    """What is kept for the backward pass: all; not what is inside coupling networks, which are computed again; or
    nothing of a flow step, whose input is rebuilt from its output."""
    anchor_every: int = 8
    """Flow steps after which reversible keeps a state nevertheless, so that rounding does not add up; 0: only where a
    level ends."""
    max_drift: float | None = None
    """Training stops when a state that reversible rebuilt is further from the real one (as memory/drift shows).
    Default: 0.001, and 0.1 with networks in half precision."""
    time_limit: str | None = None
    """Stop early, with a checkpoint, when 95% of this time have passed: SECONDS, HH:MM:SS or D-HH:MM:SS."""
    num_processes: int | None = None
    """Refuse to train unless this many processes take part. Default: as many as were launched."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.anchor_every >= 0, "anchor_every", self.anchor_every, "0 or more is")
        require(self.max_drift is None or self.max_drift > 0, "max_drift", self.max_drift, "a number above 0 is")
        require(
            self.num_processes is None or self.num_processes >= 1, "num_processes", self.num_processes, "1 or more is"
        )
        if self.is_of_vectors:
            for name, default in (("model", ModelConfig()), ("data", DataConfig())):
                require(getattr(self, name) == default, name, "its options", f"{name} is of images, not of vectors")
            require(self.parallel.mode == "ddp", "parallel.mode", self.parallel.mode, "for vectors ddp alone is")
            require(self.memory == "stored", "memory", self.memory, "for vectors stored alone is")
        else:
            for name, plain in (("flow", FlowConfig()), ("vectors", VectorDataConfig())):
                require(getattr(self, name) == plain, name, "its options", "they belong to vectors.name: give that")

    @property
    def is_of_vectors(self) -> bool:
        """Whether vectors are trained on, not images."""
        return self.vectors.name is not None

    @property
    def source(self) -> str:
        """What messages call the training data."""
        return self.vectors.path or self.vectors.name or self.data.path


@dataclass(frozen=True)
class PlanRun(TrainRun):
    """Tell what a training costs before it starts: parameters, arithmetic, memory of a process in each memory and
    parallel mode, the largest microbatch that fits, and the mode to choose. Takes the options of train too.
    """

    output: str = "runs/plan"
    """As of train; nothing is written there."""
    gpu_memory_gib: float = 80.0
    """Memory of the device of each process, in GiB."""
    measure: bool = False
    """Make a forward and backward pass on this machine in each memory mode, and compare what it takes with what was
    predicted."""
    plot: str | None = None
    """PNG to draw: what each memory mode keeps with 4, 8, 16 and 32 steps in a level, measured on this machine."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        require(self.gpu_memory_gib > 0, "gpu_memory_gib", self.gpu_memory_gib, "a number above 0 is")


@dataclass(frozen=True)
class PrepareRun:
    """Turn images into a sharded data set: shuffled tar shards of lossless PNGs with an index, and dataset.json."""

    source: list[str]
    """A folder of images, a zip or uncompressed tar of one, torchvision:NAME[:SPLIT] or digits; several are joined
    (--source A --source B)."""
    output: str
    """Directory of the data set to write; by custom data/NAME."""
    validation: str | None = None
    """Images held out for validation: a fraction (0.1), a count (5000), or a source of their own."""
    test: str | None = None
    """Images held out as test split: a fraction, a count, or a source of their own."""
    size: int | tuple[int, int] | None = None
    """Resize (antialiased) and crop the centre to SIZE x SIZE, or to [HEIGHT, WIDTH]. Default: keep."""
    color: Literal["keep", "rgb", "grey"] = "keep"
    """Colour of the stored images; keep follows the first image. Transparent images are laid on white."""
    shard_size: int = 5000
    """Images in one shard."""
    seed: int = 0
    """Seed of the shuffle and of the choice of held-out images."""
    num_workers: int = 2
    """Processes that decode and encode; the result does not depend on it."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do about an image that cannot be used: stop, or leave it out, count it and list it in dataset.json."""
    torchvision_root: str = "data/torchvision"
    """Where torchvision data sets lie."""
    download: bool = False
    """Let torchvision download what is not there."""

    def __post_init__(self) -> None:
        """Check ranges."""
        distinct = len(set(self.source)) == len(self.source) >= 1
        require(distinct, "source", self.source, "one or more different sources are")
        require(self.shard_size >= 1, "shard_size", self.shard_size, "1 or more is")
        require(self.num_workers >= 0, "num_workers", self.num_workers, "0 or more is")
        require(self.seed >= 0, "seed", self.seed, "0 or more is")
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size or (1, 1)
        allowed = height >= 1 and width >= 1 and height * width <= MAX_PIXELS
        require(allowed, "size", self.size, f"positive numbers of at most {MAX_PIXELS} pixels together are")
        for name in ("validation", "test"):
            held_out = getattr(self, name)
            require(held_out not in self.source, name, held_out, "a source that is not one of the train images too is")


@dataclass(frozen=True)
class CheckpointChoice:
    """Which checkpoint and which of its weights a stage uses."""

    checkpoint: str
    """A run directory (runs/NAME) or one checkpoint (runs/NAME/checkpoints/step-00001000)."""
    which: Literal["latest", "best"] = "latest"
    """Checkpoint to take from a run directory."""
    weights: Literal["ema", "raw"] = "ema"
    """Averaged or last weights."""


@dataclass(frozen=True)
class SampleRun(CheckpointChoice):
    """Draw images from a trained model: one grid for each temperature, the same latents in all of them.

    Of a flow of vectors: draw vectors, with pictures of them beside the data and of the density, and measure the KL
    divergence from the density that the data was drawn of.
    """

    temperatures: list[float] = field(default_factory=lambda: [0.0, 0.5, 0.7, 0.9, 1.0])
    """Standard deviations of the latents, '[0, 0.7]' or one; 0 is the decoded mean."""
    num_images: int = 64
    """Images for each temperature."""
    num_points: int = 10_000
    """Vectors, of a flow of vectors."""
    num_kl_points: int = 100_000
    """Vectors of the data's density that measure the KL divergence."""
    first_index: int = 0
    """Index of the first image: image i depends on (seed, i) alone."""
    seed: int = 0
    """Seed of the latents."""
    batch_size: int = 64
    """Images drawn at a time; the images do not depend on it."""
    output: str | None = None
    """Directory to write. Default: samples/step-N in the run directory."""
    label: int | None = None
    """Class of all images, by its number, of a class_conditional model. Default: the classes in turn, one row each."""
    save_images: bool = False
    """Write every image as a PNG of its own too."""
    save_grids: bool = True
    """Write the grids and samples.json. Off (with save_images) where jobs share the work; merge follows them."""
    merge: bool = False
    """Draw nothing: make the grids and samples.json of the single images that such jobs left in the output."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.save_grids or self.save_images, "save_grids", False, "only with save_images is it")
        require(self.save_grids or not self.merge, "save_grids", False, "merge writes grids, and only")
        require(len(self.temperatures) >= 1, "temperatures", self.temperatures, "one or more numbers are")
        finite = all(0 <= temperature < math.inf for temperature in self.temperatures)
        require(finite, "temperatures", self.temperatures, "finite numbers of 0 or more are")
        # Grids are named by two decimals.
        distinct = len({f"{temperature:.2f}" for temperature in self.temperatures}) == len(self.temperatures)
        require(distinct, "temperatures", self.temperatures, "numbers that differ by 0.01 or more are")
        for name in ("num_images", "num_points"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more is")
        require(self.num_kl_points >= 2, "num_kl_points", self.num_kl_points, "2 or more is")
        require(self.first_index >= 0, "first_index", self.first_index, "0 or more is")
        require(self.seed >= 0, "seed", self.seed, "0 or more is")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more is")
        require(self.label is None or self.label >= 0, "label", self.label, "0 or more is")


@dataclass(frozen=True, kw_only=True)
class EvaluateRun(CheckpointChoice):
    """Measure the bits/dim of a trained model on a split of a data set, image by image, and write a report."""

    data: str
    """Directory of a prepared data set, its http(s) URL, or pipe:COMMAND with {} for the name of a file."""
    split: str = "test"
    """Split to measure."""
    batch_size: int = 64
    """Images read and held at a time; the figures do not depend on it."""
    bound: Literal["elbo", "iwbo"] = "elbo"
    """Lower bound of the log-likelihood: the mean over the dequantisation draws, or the importance-weighted bound,
    which is the tighter the more draws there are."""
    num_noise_samples: int = 1
    """Dequantisation draws an image."""
    classes: bool = True
    """Under a class_conditional model, measure every image given each class too: p(class | image), accuracy, and the
    bits/dim without the label. Takes as many times as long as there are classes."""
    seed: int = 0
    """Seed of the dequantisation noise, which depends on (seed, key of the image)."""
    baselines: bool = True
    """Compare with a full-covariance Gaussian and a per-pixel histogram fitted to the train split."""
    output: str | None = None
    """Directory to write. Default: report/step-N-SPLIT in the run directory."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more is")
        require(self.num_noise_samples >= 1, "num_noise_samples", self.num_noise_samples, "1 or more is")
        require(self.seed >= 0, "seed", self.seed, "0 or more is")


@dataclass(frozen=True, kw_only=True)
class ScoreRun(CheckpointChoice):
    """Score how anomalous images are under a trained model: likelihood, typicality, complexity-corrected likelihood.

    Images are a prepared data set (a directory or http(s) URL), or whatever prepare takes: a folder of images, a zip or
    tar of one, torchvision:NAME[:SPLIT], digits. DATA:SPLIT is a split of a prepared data set.
    """

    data: str
    """Images to score."""
    split: str | None = None
    """Split of --data to score, if that is a prepared data set. Default: test."""
    outliers: list[str] = field(default_factory=list)
    """Images to tell from those of --data, DATA[:SPLIT] (test by default); may be given several times."""
    reference: str | None = None
    """In-distribution images DATA[:SPLIT] (validation by default) whose mean likelihood is the typical one. Default:
    the validation split of the data set that the model was trained on."""
    num_images: int | None = None
    """Score the first so many images of each set, which prepare shuffled. Default: all."""
    size: int | tuple[int, int] | None = None
    """Resize and crop images that are not prepared to SIZE x SIZE, or to [HEIGHT, WIDTH], as prepare does."""
    color: Literal["keep", "rgb", "grey"] = "keep"
    """Colour that images which are not prepared are brought to, as prepare does."""
    batch_size: int = 64
    """Images read and held at a time; the scores do not depend on it."""
    seed: int = 0
    """Seed of the dequantisation noise, which depends on (seed, key of the image)."""
    output: str | None = None
    """Directory to write. Default: scores/step-N-SPLIT in the run directory, or scores/step-N-NAME of a folder NAME."""

    def __post_init__(self) -> None:
        """Check ranges."""
        distinct = len(set(self.outliers)) == len(self.outliers)
        require(distinct, "outliers", self.outliers, "a list of different sets is")
        allowed = self.num_images is None or self.num_images >= 1
        require(allowed, "num_images", self.num_images, "1 or more is")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more is")
        require(self.seed >= 0, "seed", self.seed, "0 or more is")


@dataclass(frozen=True)
class ImportRun:
    """Turn a model that another program trained into a checkpoint that sample and evaluate take."""

    path: str
    """File with the state dict of the model, as torch.save wrote it."""
    format: Literal["rosinality"] = "rosinality"
    """Program that wrote it: github.com/rosinality/glow-pytorch."""
    image_size: int = 64
    """Height and width of the images that the model is for; the file does not tell."""
    num_bits: int = 5
    """Bits a channel that the model is for; the file does not tell."""
    output: str | None = None
    """Run directory to write. Default: runs/ and the name of the file."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(1 <= self.num_bits <= 8, "num_bits", self.num_bits, "1 to 8 are")
        require(self.image_size >= 1, "image_size", self.image_size, "1 or more is")


@dataclass(frozen=True)
class DemoRun:
    """Prepare scikit-learn's digits, train on them, sample and evaluate: a few minutes on two CPU cores."""

    data: str = "data/digits"
    """Directory of the data set to write."""
    output: str = "runs/digits"
    """Run directory to write."""
    training: str = "configs/digits.yaml"
    """Configuration of the training stage."""


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as nested plain dicts and lists, as YAML and JSON hold it."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return plain(dataclasses.asdict(config))


def config_from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """Rebuild a dataclass from what ``config_to_dict`` gave.

    Raises:
        ValueError: for a field that ``cls`` does not have or that has an impossible value.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(hints)}")
    arguments = {}
    for name, value in values.items():
        choices = [choice for hint in (hints[name], *typing.get_args(hints[name])) for choice in _choices(hint)]
        if choices and value is not None:
            require(value in choices, name, value, f"{', '.join(map(str, choices))} are")
        is_nested = dataclasses.is_dataclass(hints[name])
        arguments[name] = config_from_dict(hints[name], value) if is_nested else value
    return cls(**arguments)


def _choices(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
