"""What it is trained on: images, vectors, or a log-density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glow.config.fields import require


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
class TargetConfig:
    """An unnormalised log-density to fit a flow to, in place of data."""

    name: Literal["u1", "u2", "u3", "u4", "logistic"] | None = None
    """One of the four energies of Rezende & Mohamed, in two dimensions; or the posterior of a logistic regression on
    scikit-learn's breast cancer data, 30 standardised features and an intercept."""
    function: str | None = None
    """MODULE:FUNCTION, your own: a function of x, float [N, D], that returns log-densities [N], by torch. It needs
    flow.num_dims, and is taken from the command line alone."""
    prior_std: float | None = None
    """Standard deviation of the prior of each coefficient of logistic. Default: 1."""
    anneal_steps: int = 0
    """Steps over which the log-density is multiplied by a factor that rises linearly from 0.01 to 1, so that no part of
    it is left out too early. Default: none."""

    def __post_init__(self) -> None:
        """Check ranges and the combination."""
        allowed = "with target.name there is a function already: leave it out"
        require(self.name is None or self.function is None, "target.function", self.function, allowed)
        allowed = "MODULE:FUNCTION is"
        parts = (self.function or "a:b").split(":")
        require(len(parts) == 2 and all(parts), "target.function", self.function, allowed)
        allowed = "it belongs to target.name logistic: leave it out"
        require(self.prior_std is None or self.name == "logistic", "target.prior_std", self.prior_std, allowed)
        allowed = "a number above 0 is"
        require(self.prior_std is None or self.prior_std > 0, "target.prior_std", self.prior_std, allowed)
        require(self.anneal_steps >= 0, "target.anneal_steps", self.anneal_steps, "0 or more is")
        allowed = "it belongs to target.name or target.function: give one"
        require(self.source is not None or not self.anneal_steps, "target.anneal_steps", self.anneal_steps, allowed)

    @property
    def source(self) -> str | None:
        """Name or function; None where no target is given."""
        return self.name or self.function
