"""How a model is trained: optimiser, length, batches, processes; options of train, infer, plan and benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from glow.config.data import DataConfig, TargetConfig, VectorDataConfig
from glow.config.fields import require, require_default, require_utf8
from glow.config.model import FlowConfig, ModelConfig

PARALLEL_MODES = ("ddp", "fsdp", "hsdp", "pipeline")


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser, learning-rate schedule and gradient clipping."""

    name: Literal["adam", "adamw", "adamax", "muon", "sgd"] = "adamax"
    """Optimiser. muon: Muon for convolutions with 64 channels or more, adamw for all else; not with parallel.mode fsdp
    or hsdp. sgd uses Nesterov momentum beta1."""
    lr: float = 1e-3
    """Peak learning rate, reached after warmup_steps."""
    beta1: float = 0.9
    """Decay rate of the first moment. For sgd: the momentum."""
    beta2: float = 0.999
    """Decay rate of the second moment. sgd does not use it."""
    weight_decay: float = 0.0
    """Weight decay: decoupled for adamw and muon, an L2 penalty for the others. Raise it when the model overfits."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Learning rate after the warm-up. constant: it stays at lr. cosine: it falls along half a cosine, to 0 at the last
    step. linear: it falls along a line, to 0 at the last step."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly to lr. 0: no warm-up."""
    max_grad_norm: float | None = None
    """Clip the gradient of the loss (in bits/dim) to this norm; train/grad_norm in metrics.jsonl is the norm before
    clipping. Default: no clipping."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.lr > 0, "optimizer.lr", self.lr, "give a number above 0")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name}", value, "give 0 or more, but less than 1")
        require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "give 0 or more")
        require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "give 0 or more")
        if self.max_grad_norm is not None:
            require(self.max_grad_norm > 0, "optimizer.max_grad_norm", self.max_grad_norm, "give a number above 0")


@dataclass(frozen=True)
class TrainConfig:
    """Length of a training run, its batches, and what it writes when."""

    num_steps: int = 1000
    """Optimiser steps of the whole run. To train longer, raise it and run the same command again."""
    batch_size: int = 64
    """Images in one optimiser step, over all processes together."""
    microbatch_size: int | None = None
    """Images that one process holds at once; gradients are added up over microbatches. Lower it when memory is short;
    plan finds the largest that fits. Default: the whole share of a process. The initialisation before the first step
    takes the whole share in any case, without gradients."""
    whitening_images: int | None = None
    """Begin with flow steps that know the data: from this many training images, the first 1x1 convolution in each level
    is set so that its outputs are uncorrelated with variance 1. Likelihoods are better after a short training. Take 500
    or more. Default: random rotations, as in the paper."""
    seed: int = 0
    """Seed of the initial weights, the order of the data, the augmentation and the dequantisation noise."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights, in each step. It is smaller in the first steps. 0 turns
    averaging off."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Precision of the coupling networks: no (float32), bf16 or fp16. The state of the flow and the likelihood stay
    float32. Default: that of `accelerate launch`."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    validate_every: int = 500
    """Steps between two validations. There is always one after the last step."""
    num_validation_images: int | None = None
    """Images of the validation split to measure at each validation. Default: all."""
    checkpoint_every: int = 500
    """Steps between two checkpoints. There is always one after the last step, and one at each best validation score."""
    keep_last: int = 2
    """Number of newest checkpoints to keep. The best one by validation bits/dim is kept, too."""
    keep_every: int | None = None
    """Also keep every checkpoint whose step is a multiple of this number. Choose a multiple of checkpoint_every.
    Default: none."""
    preview_temperature: float = 0.7
    """Temperature of the sample grid that TensorBoard shows at each validation."""

    def __post_init__(self) -> None:
        """Check ranges."""
        names = ("num_steps", "batch_size", "log_every", "validate_every", "checkpoint_every", "keep_last")
        for name in names:
            value = getattr(self, name)
            require(value >= 1, f"train.{name}", value, "give 1 or more")
        for name in ("microbatch_size", "whitening_images", "num_validation_images", "keep_every"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"train.{name}", value, "give 1 or more")
        require(self.seed >= 0, "train.seed", self.seed, "give 0 or more")
        require(0 <= self.ema_decay < 1, "train.ema_decay", self.ema_decay, "give 0 or more, but less than 1")
        require(self.preview_temperature >= 0, "train.preview_temperature", self.preview_temperature, "give 0 or more")


@dataclass(frozen=True)
class ParallelConfig:
    """How the processes of a training share its work."""

    mode: str = "ddp"
    """How processes share the model. ddp: each has the whole model. fsdp: parameters, gradients and optimiser state are
    sharded over all processes. hsdp: fsdp within groups of processes, ddp between the groups. pipeline: each has one
    stage, a run of consecutive flow steps. Change it when ddp does not fit in memory; plan compares them."""
    stages: int | None = None
    """With mode pipeline: number of stages. The number of processes must be a multiple of it; several pipelines share
    the batch."""
    shards: int | None = None
    """With mode hsdp: processes in one group. The number of processes must be a multiple of it."""
    reduce_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision in which processes add up gradients. The 16-bit ones halve the communication and are less exact; use
    float16 only with train.mixed_precision fp16, since small gradients become 0 without its loss scale."""
    timeout_s: int = 1800
    """Seconds that a process waits for the others before it ends with an error. The main process lets them wait while
    it looks through a checkpoint or draws samples; raise it when that takes longer."""

    def __post_init__(self) -> None:
        """Check the combination."""
        require(self.timeout_s >= 1, "parallel.timeout_s", self.timeout_s, "give 1 or more")
        advice = f"choose one of {', '.join(PARALLEL_MODES)}"
        if self.mode == "tp" or self.mode.startswith("tensor"):
            # It would have to move the hidden layers of every coupling network between processes.
            advice = "there is no tensor parallelism: choose fsdp (shards parameters) or pipeline (splits the steps)"
        require(self.mode in PARALLEL_MODES, "parallel.mode", self.mode, advice)
        for name, owner in (("stages", "pipeline"), ("shards", "hsdp")):
            value = getattr(self, name)
            if self.mode == owner:
                advice = f"give 2 or more with parallel.mode {owner}"
                require(value is not None and value >= 2, f"parallel.{name}", value, advice)
            else:
                advice = f"leave it out, or set parallel.mode to {owner}"
                require(value is None, f"parallel.{name}", value, advice)


@dataclass(frozen=True)
class TrainRun:
    """Train a Glow on a prepared data set, or a flow on vectors or a target.

    The same command again resumes from the last checkpoint.
    """

    output: str
    """Run directory to write, usually runs/NAME."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Architecture of a Glow of images."""
    data: DataConfig = field(default_factory=DataConfig)
    """Training images."""
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
    """What a training step keeps for the backward pass. stored: everything. checkpoint: nothing inside coupling
    networks; they are computed again. reversible: nothing inside flow steps; the input of a step is rebuilt from its
    output. Each one needs less memory and more time than the one before; plan compares them."""
    compile: bool = False
    """Compile the flow steps by torch.compile: steps are faster, but the first one takes up to a minute longer. It
    needs a C++ compiler, memory stored and parallel.mode ddp."""
    cuda_graph: bool | None = None
    """On a GPU: record the kernels of a training step once and replay them, so that the CPU need not start each one.
    It needs parallel.mode ddp, memory stored or checkpoint, and another permutation than orthogonal. Default: true on
    a GPU where that is so."""
    anchor_every: int = 8
    """With memory reversible: keep the state after every so many flow steps, so that rounding errors do not add up. 0:
    only at the end of a level. Lower it when training stops because of max_drift."""
    max_drift: float | None = None
    """With memory reversible: stop the training when a rebuilt state differs from the true one by more than this
    (memory/drift in metrics.jsonl). Default: 0.001, or 0.1 with networks in half precision."""
    time_limit: str | None = None
    """Stop early, with a checkpoint, after 95% of this time: SECONDS, HH:MM:SS or D-HH:MM:SS. Set it to the time limit
    of the job. Default: no limit."""
    num_processes: int | None = None
    """Number of processes that must take part; training with any other number is an error. plan predicts for this
    number. Default: any number, and 1 for plan."""
    init_from: str | None = None
    """Start from the weights of a trained model of images instead of random ones: runs/NAME, a checkpoint, an exported
    model, hf://USER/NAME[@REVISION], or digits. With no options of model, its model is taken. Data, optimiser and steps
    are new. Default: random weights."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require_utf8("output", self.output)
        require(self.anchor_every >= 0, "anchor_every", self.anchor_every, "give 0 or more")
        require(self.max_drift is None or self.max_drift > 0, "max_drift", self.max_drift, "give a number above 0")
        require(
            self.num_processes is None or self.num_processes >= 1, "num_processes", self.num_processes, "give 1 or more"
        )
        if self.target.source:
            require_default("vectors", self.vectors, "leave it out: a target is fitted without data")
            advice = "choose none or actnorm: a target has no batches of data to normalise"
            require(self.flow.normalization != "batchnorm", "flow.normalization", "batchnorm", advice)
        if self.optimizer.name == "muon":
            is_whole = self.parallel.mode not in ("fsdp", "hsdp")
            require(is_whole, "parallel.mode", self.parallel.mode, "with optimizer.name muon give ddp or pipeline")
        if self.compile:
            require(self.memory == "stored", "memory", self.memory, "with compile give stored")
            require(self.parallel.mode == "ddp", "parallel.mode", self.parallel.mode, "with compile give ddp")
        if self.cuda_graph:
            require(self.memory != "reversible", "memory", self.memory, "with cuda_graph give stored or checkpoint")
            require(self.parallel.mode == "ddp", "parallel.mode", self.parallel.mode, "with cuda_graph give ddp")
            permutation = self.model.permutation
            require(permutation != "orthogonal", "model.permutation", permutation, "with cuda_graph give another one")
        if (num_images := self.train.whitening_images) is not None:
            advice = "leave it out: it is for a Glow of images"
            require(not self.is_of_vectors, "train.whitening_images", num_images, advice)
            advice = "leave it out: with init_from the convolutions are trained"
            require(self.init_from is None, "train.whitening_images", num_images, advice)
            permutation = self.model.permutation
            require(
                permutation in ("lu", "plain"),
                "model.permutation",
                permutation,
                "with whitening_images give lu or plain",
            )
        if self.is_of_vectors:
            require(self.init_from is None, "init_from", self.init_from, "leave it out: it is for a Glow of images")
            require(not self.cuda_graph, "cuda_graph", True, "leave it out: it is for a Glow of images")
            require(not self.compile, "compile", True, "leave it out: it is for a Glow of images")
            require_default("model", self.model, "leave it out: it is for a Glow of images, flow.* is for vectors")
            require_default("data", self.data, "leave it out: it is for a Glow of images")
            require(self.parallel.mode == "ddp", "parallel.mode", self.parallel.mode, "for vectors give ddp")
            require(self.memory == "stored", "memory", self.memory, "for vectors give stored")
        else:
            for name, config in (("flow", self.flow), ("vectors", self.vectors)):
                require_default(name, config, "leave it out, or set vectors.name or a target")

    @property
    def is_of_vectors(self) -> bool:
        """Whether the model is a flow of vectors, not a Glow of images."""
        return self.vectors.name is not None or self.target.source is not None

    @property
    def source(self) -> str:
        """Name of the training data in messages."""
        images = self.data.stream or self.data.path
        return self.target.source or self.vectors.path or self.vectors.name or images


@dataclass(frozen=True)
class InferRun(TrainRun):
    """Fit a flow to an unnormalised log-density (the target) by the ELBO, and report on the fit.

    The same command again resumes from the last checkpoint. All options of train can be used.
    """

    num_samples: int = 100_000
    """Samples of the fitted flow from which the report is computed."""

    def __post_init__(self) -> None:
        """Check that there is a target."""
        super().__post_init__()
        require(self.target.source is not None, "target.name", None, "give it, or target.function")
        require(self.num_samples >= 2, "num_samples", self.num_samples, "give 2 or more")

    @property
    def training(self) -> TrainRun:
        """The options of train alone."""
        return TrainRun(**{field.name: getattr(self, field.name) for field in fields(TrainRun)})
