"""How it is trained: optimiser, length and batches, processes; and the run of the train, plan and benchmark stages."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from glow.config.data import DataConfig, TargetConfig, VectorDataConfig
from glow.config.fields import require
from glow.config.model import FlowConfig, ModelConfig

PARALLEL_MODES = ("ddp", "fsdp", "hsdp", "pipeline")


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
    """Train a Glow on a prepared data set, or a flow on vectors or a target. The same command again resumes from the
    last checkpoint.
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
    target: TargetConfig = field(default_factory=TargetConfig)
    """Log-density to fit a flow of vectors to, in place of data (python -m pipelines.infer)."""
    memory: Literal["stored", "checkpoint", "reversible"] = "stored"
    """What is kept for the backward pass: all; not what is inside coupling networks, which are computed again; or
    nothing of a flow step, whose input is rebuilt from its output."""
    compile: bool = False
    """Train a Glow with flow steps compiled by torch.compile: faster, but for the first step, which takes up to a
    minute longer. It needs a C++ compiler, memory stored and parallel.mode ddp."""
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
        if self.target.source:
            require(self.vectors == VectorDataConfig(), "vectors", "its options", "with a target there is no data")
            allowed = "with a target there are no batches of data to normalise"
            require(self.flow.normalization != "batchnorm", "flow.normalization", "batchnorm", allowed)
        if self.compile:
            require(self.memory == "stored", "memory", self.memory, "with compile stored alone is")
            require(self.parallel.mode == "ddp", "parallel.mode", self.parallel.mode, "with compile ddp alone is")
        if self.is_of_vectors:
            require(not self.compile, "compile", True, "it is for models of images")
            for name, default in (("model", ModelConfig()), ("data", DataConfig())):
                require(getattr(self, name) == default, name, "its options", f"{name} is of images, not of vectors")
            require(self.parallel.mode == "ddp", "parallel.mode", self.parallel.mode, "for vectors ddp alone is")
            require(self.memory == "stored", "memory", self.memory, "for vectors stored alone is")
        else:
            for name, plain in (("flow", FlowConfig()), ("vectors", VectorDataConfig())):
                require(
                    getattr(self, name) == plain,
                    name,
                    "its options",
                    "they belong to vectors.name or a target: give one",
                )

    @property
    def is_of_vectors(self) -> bool:
        """Whether the model is a flow of vectors, not a Glow of images."""
        return self.vectors.name is not None or self.target.source is not None

    @property
    def source(self) -> str:
        """What messages call the training data."""
        return self.target.source or self.vectors.path or self.vectors.name or self.data.path


@dataclass(frozen=True)
class InferRun(TrainRun):
    """Fit a flow to an unnormalised log-density (target) by the evidence lower bound, and report on the fit. The same
    command again resumes from the last checkpoint.
    """

    num_samples: int = 100_000
    """Samples of the fitted flow that the report is made of."""

    def __post_init__(self) -> None:
        """Check that there is a target."""
        super().__post_init__()
        require(self.target.source is not None, "target.name", None, "give it, or target.function")
        require(self.num_samples >= 2, "num_samples", self.num_samples, "2 or more is")

    @property
    def training(self) -> TrainRun:
        """The options of train alone."""
        return TrainRun(**{field.name: getattr(self, field.name) for field in fields(TrainRun)})


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
class BenchmarkRun(TrainRun):
    """Measure how fast a model trains, computes log-probabilities, draws images and reads its data on this machine, how
    much memory it takes, and how near that is to the limits of the device. Takes the options of train too.
    """

    output: str = "runs/benchmark"
    """Run directory, as of train; results go into its folder benchmark."""
    against: Literal["normflows", "stored", "checkpoint", "reversible"] | None = None
    """What takes turns with the model, call by call: the nearest Glow of the package normflows, both without ActNorm in
    coupling networks; or the same model in another memory mode, or (stored, with compile) not compiled."""
    repeats: int = 10
    """Calls of each kind that are timed, at least."""
    seconds: float = 10.0
    """Time that the calls of each kind take, at least."""
    profile: bool = False
    """Write traces of training and sampling too, which TensorBoard and Perfetto show."""
    readme: str | None = None
    """Markdown file with a table between <!-- performance --> and <!-- -->: the results become a line of it, in place
    of an earlier line of the same model and device."""

    def __post_init__(self) -> None:
        """Check ranges and the combination."""
        super().__post_init__()
        require(self.repeats >= 1, "repeats", self.repeats, "1 or more is")
        require(self.seconds >= 0, "seconds", self.seconds, "0 or more is")
        is_other = self.compile or self.against != self.memory
        require(is_other, "against", self.against, "memory is the same: choose another mode")
        require(
            self.parallel.mode == "ddp", "parallel.mode", self.parallel.mode, "one process is measured: leave it out"
        )
        require(not self.is_of_vectors, "vectors.name", self.vectors.name, "flows of vectors are not measured")
