"""What a model is trained on: images, vectors, or a log-density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glow.config.fields import require
from glow.files.limits import POINTS


@dataclass(frozen=True)
class DataConfig:
    """Training images: where they are and how they are read."""

    path: str = "data/digits"
    """Prepared data set: the directory that holds dataset.json, or its http(s) URL. On the command line also
    pipe:COMMAND: a shell command that writes one file to its output, where {} stands for the name of the file. Each
    machine then fetches each shard once, to TMPDIR."""
    stream: str | None = None
    """Shards to train on in place of path, without an index: 'https://.../{0000..9999}.tar'. Images are drawn from
    random shards, so an epoch has no meaning, and a resumed training draws other images. Set model.image_shape with it,
    and model.num_classes for classes. For collections that are too large for prepare --link true."""
    validation: str | None = None
    """With stream: prepared or linked data set whose validation split is measured. Default: none."""
    label: str = "cls"
    """With stream and model.class_conditional: where the number of the class is. cls: a file beside the image;
    json:KEY: a key of the .json beside it."""
    root: str | None = None
    """Of a linked data set: folder above its shards, if these are files outside of its own folder. Other stages take it
    from the environment variable GLOW_DATA_ROOT. Default: none."""
    size: int | None = None
    """Height and width of windows that are cut out of the images. Needed where images differ in size (prepare
    --short_side). Default: whole images."""
    crop: Literal["centre", "random"] = "centre"
    """With size, where the windows of training are: at the centre, or at random, anew in every epoch. Validation and
    evaluation take the centre."""
    flip: bool = False
    """Mirror each training image left to right with probability 1/2. Leave it off where left and right differ, as in
    digits or text."""
    shift: int = 0
    """Shift each training image at random, by up to this many pixels in each direction. Border pixels are repeated. 0
    turns it off."""
    num_workers: int = 0
    """Processes that read and decode images, for each training process. 0: the training process reads itself. Raise it
    when train/data_wait_s in metrics.jsonl is a large part of train/step_s. At most one for each core is started."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do when a training image is damaged or its shard cannot be read. stop: end the training with an error.
    skip: use another image, count it (data/num_skipped) and list it in metrics.jsonl. Validation and evaluation always
    stop."""
    max_skipped: float = 0.01
    """With on_error skip: end the training when more than this fraction of the images was skipped. In the first epoch
    it is a fraction of the epoch, later of all images seen so far. With stream it is a fraction of the images seen, of
    10,000 at least."""

    def __post_init__(self) -> None:
        """Check ranges."""
        advice = "leave it out, or set data.stream"
        require(self.validation is None or self.stream is not None, "data.validation", self.validation, advice)
        require(self.label == "cls" or self.stream is not None, "data.label", self.label, advice)
        require(self.size is None or self.size >= 1, "data.size", self.size, "give 1 or more")
        advice = "leave it out: with data.stream, model.image_shape decides"
        require(self.size is None or self.stream is None, "data.size", self.size, advice)
        require(self.crop == "centre" or self.size is not None, "data.crop", self.crop, "set data.size with it")
        require(self.shift >= 0, "data.shift", self.shift, "give 0 or more")
        require(0 <= self.max_skipped < 1, "data.max_skipped", self.max_skipped, "give 0 or more, but less than 1")
        require(self.num_workers >= 0, "data.num_workers", self.num_workers, "give 0 or more")


@dataclass(frozen=True)
class VectorDataConfig:
    """Vectors to train a flow on, in place of images."""

    name: Literal["mixture", "moons", "rings", "checkerboard", "file"] | None = None
    """Density in two dimensions to draw vectors from: a random mixture of 4 Gaussians, two half moons, three rings, or
    a checkerboard. file: read the vectors from vectors.path. Default: train on images."""
    path: str | None = None
    """With vectors.name file: a NumPy .npy file of vectors, [N, D]. A tenth of them is held out for validation."""
    num_points: int | None = None
    """Number of vectors to draw for training. Default: 10,000. A file, and vectors.fresh, do not use it."""
    seed: int = 0
    """Seed of the vectors. For mixture it also decides the mixture itself."""
    fresh: bool = False
    """Draw new vectors at every step, so that the flow cannot overfit. false: go through the same num_points vectors
    again and again."""

    def __post_init__(self) -> None:
        """Check the combination."""
        advice = "leave it out, or set vectors.name to file"
        require(self.path is None or self.name == "file", "vectors.path", self.path, advice)
        advice = "give the .npy file that vectors.name file reads"
        require(self.path is not None or self.name != "file", "vectors.path", self.path, advice)
        advice = "leave it out: all vectors of a file are used"
        require(self.num_points is None or self.name != "file", "vectors.num_points", self.num_points, advice)
        require(not self.fresh or self.name != "file", "vectors.fresh", self.fresh, advice)
        advice = "leave it out: with vectors.fresh every step draws new vectors"
        require(self.num_points is None or not self.fresh, "vectors.num_points", self.num_points, advice)
        require(
            self.num_points is None or self.num_points >= 1, "vectors.num_points", self.num_points, "give 1 or more"
        )
        POINTS.check("vectors.num_points", self.num_points or 0)
        require(self.seed >= 0, "vectors.seed", self.seed, "give 0 or more")


@dataclass(frozen=True)
class TargetConfig:
    """Unnormalised log-density to fit a flow to, in place of data."""

    name: Literal["u1", "u2", "u3", "u4", "logistic"] | None = None
    """u1 to u4: the energies of Rezende & Mohamed (2015), in two dimensions. logistic: the posterior of a logistic
    regression on scikit-learn's breast cancer data, with 30 standardised features and an intercept."""
    function: str | None = None
    """Your own log-density, as MODULE:FUNCTION: a torch function from x, float [N, D], to log-densities [N] in nats.
    Set flow.num_dims with it. It is accepted on the command line only, not in a YAML file."""
    prior_std: float | None = None
    """With target.name logistic: standard deviation of the Gaussian prior of each coefficient. Default: 1."""
    anneal_steps: int = 0
    """Steps over which the log-density is multiplied by a factor that rises linearly from 0.01 to 1. Use it when the
    fit misses a mode. 0 turns it off."""

    def __post_init__(self) -> None:
        """Check ranges and the combination."""
        advice = "leave out target.function or target.name: each one is a target"
        require(self.name is None or self.function is None, "target.function", self.function, advice)
        advice = "give MODULE:FUNCTION, as in my_module:log_density"
        parts = (self.function or "a:b").split(":")
        require(len(parts) == 2 and all(parts), "target.function", self.function, advice)
        advice = "leave it out, or set target.name to logistic"
        require(self.prior_std is None or self.name == "logistic", "target.prior_std", self.prior_std, advice)
        advice = "give a number above 0"
        require(self.prior_std is None or self.prior_std > 0, "target.prior_std", self.prior_std, advice)
        require(self.anneal_steps >= 0, "target.anneal_steps", self.anneal_steps, "give 0 or more")
        advice = "leave it out, or set target.name or target.function"
        require(self.source is not None or not self.anneal_steps, "target.anneal_steps", self.anneal_steps, advice)

    @property
    def source(self) -> str | None:
        """Name or function; None where no target is given."""
        return self.name or self.function
