"""What the other stages are asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from glow.config.fields import require

MAX_PIXELS = 89_478_485  # Pillow's limit for an image that is not suspect


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
