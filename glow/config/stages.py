"""Options of prepare, sample, evaluate, score and demo."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from glow.config.fields import require
from glow.config.naming import temperature_text

MAX_PIXELS = 89_478_485  # Pillow's limit for an image that is not suspect


@dataclass(frozen=True)
class PrepareRun:
    """Turn images into a prepared data set: shuffled tar shards of lossless PNGs, and dataset.json.

    The same sources and options give the same files.
    """

    source: list[str]
    """Images: a folder, a zip or an uncompressed tar of a folder, torchvision:NAME[:SPLIT], or digits. Class folders
    become labels. Or shards in the layout of WebDataset: a folder of tars, 'x-{000..099}.tar', 'x-*.tar', from disk or
    http(s)://, s3://, gs://, hf://. Or Parquet files, named in the same ways. Give the option several times to join
    sources: --source A --source B."""
    output: str
    """Directory of the data set to write, usually data/NAME. It must be new or empty."""
    validation: str | None = None
    """Images of the validation split: a fraction (0.1), a count (5000), or a source of their own. Default: no
    validation split."""
    test: str | None = None
    """Images of the test split: a fraction (0.1), a count (5000), or a source of their own. Default: no test split."""
    link: bool = False
    """Leave shards where they are: write dataset.json and indices with checksums, and copy no image. Images are decoded
    and brought to size and colour when they are read. It needs size."""
    checksum: Literal["full", "headers"] = "full"
    """With link. full: read every byte once, and keep a checksum of each image, so that a changed one is found.
    headers: read the headers of the tars alone, and trust that a shard of the same size is the same."""
    label: str | None = None
    """Labels of shards: cls (a file beside the image), json:KEY (a key of the .json beside it; json:A.B for a key in a
    mapping), folder (of the key), or none. Of Parquet files: column:NAME or none. Default: cls, or a column called
    label, if there is one."""
    size: int | tuple[int, int] | None = None
    """Size of the stored images in pixels: SIZE for SIZE x SIZE, or '[HEIGHT, WIDTH]'. Images are resized with
    antialiasing and cropped at the centre. Default: no change; all images must then have one size."""
    short_side: int | Literal["keep"] | None = None
    """In place of size: pixels of the shorter side of the stored images. The longer side follows, so that nothing is
    cut off. keep: no change. Training then cuts windows out of them (data.size, data.crop)."""
    color: Literal["keep", "rgb", "grey"] = "keep"
    """Colour of the stored images. rgb, grey: convert all images. keep: do not convert; all images must be of the same
    kind as the first. Transparent images are laid on white."""
    shard_size: int = 5000
    """Number of images in one shard (a tar file)."""
    seed: int = 0
    """Seed of the shuffle, and of the choice of the validation and test images."""
    num_workers: int = 2
    """Processes that decode and encode images, at most one for each core. 0: no further process. The result does not
    depend on it."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do with an image that cannot be used. stop: end with an error. skip: leave it out and list it in
    dataset.json."""
    dry_run: bool = False
    """Write nothing: print how many images there are, their sizes, classes and splits."""
    torchvision_root: str = "data/torchvision"
    """With --source torchvision:NAME: directory of torchvision's data sets."""
    download: bool = False
    """With --source torchvision:NAME: let torchvision download a data set that is not in torchvision_root."""

    def __post_init__(self) -> None:
        """Check ranges."""
        distinct = len(set(self.source)) == len(self.source) >= 1
        require(distinct, "source", self.source, "give one or more different sources")
        require(self.shard_size >= 1, "shard_size", self.shard_size, "give 1 or more")
        require(self.num_workers >= 0, "num_workers", self.num_workers, "give 0 or more")
        require(self.seed >= 0, "seed", self.seed, "give 0 or more")
        has_form = self.size is not None or self.short_side is not None
        require(not self.link or has_form, "size", self.size, "with link give the size of the images, or short_side")
        by_headers = self.checksum == "headers"
        require(self.link or not by_headers, "checksum", self.checksum, "give full, or set link")
        advice = "with short_side give full: the sizes of the images must be known"
        require(self.short_side is None or not by_headers, "checksum", self.checksum, advice)
        side = self.short_side if isinstance(self.short_side, int) else 1
        require(1 <= side**2 <= MAX_PIXELS, "short_side", self.short_side, "give 1 or more, or keep")
        require(self.size is None or self.short_side is None, "short_side", self.short_side, "leave it or size out")
        require(not self.link or self.on_error == "stop", "on_error", self.on_error, "with link give stop")
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size or (1, 1)
        fits = height >= 1 and width >= 1 and height * width <= MAX_PIXELS
        require(
            fits, "size", self.size, f"give SIZE or [HEIGHT, WIDTH], at least 1 and at most {MAX_PIXELS} pixels in all"
        )
        for name in ("validation", "test"):
            held_out = getattr(self, name)
            require(held_out not in self.source, name, held_out, "give a source that --source does not name too")


@dataclass(frozen=True)
class CheckpointChoice:
    """Which checkpoint a stage uses, and which of its weights."""

    checkpoint: str
    """Run directory (runs/NAME), or one checkpoint in it (runs/NAME/checkpoints/step-00001000). Or an exported model:
    its folder, or hf://USER/NAME[@REVISION] for one on the Hugging Face Hub. Or digits, a small model that comes with
    glow."""
    which: Literal["latest", "best"] = "latest"
    """Checkpoint to use from a run directory: the latest, or the best by validation bits/dim."""
    weights: Literal["ema", "raw"] = "ema"
    """Weights to use. ema: their exponential moving average over the training. raw: those of the last step."""
    dtype: Literal["float32", "bf16", "fp16"] = "float32"
    """Precision of the coupling networks, whatever that of the training was. float32 is the most exact one; the others
    are faster on GPUs. The state of the flow and the likelihood are always float32."""


@dataclass(frozen=True)
class SampleRun(CheckpointChoice):
    """Draw images from a trained model: one grid for each temperature, all from the same latents.

    From a flow of vectors: draw vectors, plot them and the density beside the data, and measure the KL divergence from
    the density of the data.
    """

    temperatures: list[float | list[float]] = field(default_factory=lambda: [0.0, 0.5, 0.7, 0.9, 1.0])
    """Temperatures: one, or a list as in '[0, 0.7]'. The temperature is the standard deviation of the latents. 1
    samples the model itself, lower values give less varied images, and 0 decodes the mean. A list in the list has one
    for each level, finest first: '[0.7, [0.5, 0.7]]' is two grids, grid-t0.70.png and grid-t0.50-0.70.png."""
    num_images: int = 64
    """Number of images for each temperature. Where the classes take turns, the grid shows whole rows, one for each
    class."""
    num_points: int = 10_000
    """For a flow of vectors: number of vectors to draw."""
    num_kl_points: int = 100_000
    """For a flow of vectors: number of draws from the density of the data that estimate the KL divergence."""
    first_index: int = 0
    """Index of the first image. Image i depends on seed and i alone, so that jobs can share the work: each one draws a
    range of its own."""
    seed: int = 0
    """Seed of the latents."""
    batch_size: int = 64
    """Images to draw at a time. It changes speed and memory, not the images."""
    output: str | None = None
    """Directory to write. Default: samples/step-N in the run directory. Weights, seed and label are added to this name
    where they are not the defaults."""
    label: int | str | None = None
    """For a class_conditional model: class to draw, by its number or its name. Default: all classes in turn, one row of
    the grid for each."""
    save_images: bool | Literal["npz"] = False
    """Also write every image as a PNG of its own. npz: write them into one file for each temperature, images-t0.70.npz,
    with an array arr_0, uint8 [N, H, W, 3], as tools for FID read them."""
    save_grids: bool = True
    """Write the grids and samples.json. Where jobs share the work, each one runs with save_grids false and save_images
    true; a last command with merge true then makes the grids."""
    merge: bool = False
    """Draw nothing: make the grids and samples.json from the single images that earlier jobs wrote to output.
    num_images is then the number of all images together."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.save_grids or self.save_images is not False, "save_grids", False, "set save_images to true, too")
        require(self.save_grids or not self.merge, "save_grids", False, "leave it out: merge writes the grids alone")
        require(len(self.temperatures) >= 1, "temperatures", self.temperatures, "give one or more numbers")
        values = [value for one in self.temperatures for value in (one if isinstance(one, list) else [one])]
        finite = all(0 <= value < math.inf for value in values) and [] not in self.temperatures
        require(finite, "temperatures", self.temperatures, "give finite numbers, each 0 or more")
        # Grids are named by two decimals.
        distinct = len({temperature_text(temperature) for temperature in self.temperatures}) == len(self.temperatures)
        require(distinct, "temperatures", self.temperatures, "give numbers that differ by 0.01 or more")
        for name in ("num_images", "num_points"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "give 1 or more")
        require(self.num_kl_points >= 2, "num_kl_points", self.num_kl_points, "give 2 or more")
        require(self.first_index >= 0, "first_index", self.first_index, "give 0 or more")
        require(self.seed >= 0, "seed", self.seed, "give 0 or more")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "give 1 or more")
        require(not isinstance(self.label, int) or self.label >= 0, "label", self.label, "give 0 or more")


@dataclass(frozen=True, kw_only=True)
class EvaluateRun(CheckpointChoice):
    """Measure the bits/dim of a trained model on one split of a data set, image by image, and write a report."""

    data: str
    """Prepared data set: its directory or http(s) URL. On the command line also pipe:COMMAND, where {} stands for the
    name of a file."""
    split: str = "test"
    """Split to measure: train, validation or test."""
    batch_size: int = 64
    """Images in memory at a time. It changes speed and memory, not the results."""
    bound: Literal["elbo", "iwbo"] = "elbo"
    """Lower bound on the log-likelihood. elbo: the mean over the dequantisation draws. iwbo: the importance-weighted
    bound, which is tighter with more draws (num_noise_samples)."""
    num_noise_samples: int = 1
    """Dequantisation draws for each image. Time grows with it. Use 10 or more with bound iwbo."""
    classes: bool = True
    """For a class_conditional model: also measure each image given every class. This gives p(class | image), accuracy,
    and bits/dim without the label. Time grows with the number of classes; false turns it off."""
    seed: int = 0
    """Seed of the dequantisation noise. The noise of an image depends on the seed and the image's key alone."""
    baselines: bool = True
    """Also measure two simple densities fitted to the train split: a Gaussian with full covariance, and a histogram of
    each pixel."""
    num_images: int | None = None
    """Number of images to measure, from the beginning of the split. Default: all."""
    output: str | None = None
    """Directory to write. Default: report/step-N-SPLIT in the run directory. Options that change the results are added
    to this name."""

    def __post_init__(self) -> None:
        """Check ranges."""
        is_positive = self.num_images is None or self.num_images >= 1
        require(is_positive, "num_images", self.num_images, "give 1 or more")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "give 1 or more")
        require(self.num_noise_samples >= 1, "num_noise_samples", self.num_noise_samples, "give 1 or more")
        require(self.seed >= 0, "seed", self.seed, "give 0 or more")


@dataclass(frozen=True, kw_only=True)
class ScoreRun(CheckpointChoice):
    """Score how anomalous images are under a trained model: by likelihood, typicality and complexity.

    Images are a prepared data set (its directory or http(s) URL), or a source that prepare accepts: a folder of images,
    a zip or tar of one, torchvision:NAME[:SPLIT], digits. DATA:SPLIT is one split of a prepared data set.
    """

    data: str
    """Images to score: a prepared data set, as DATA or DATA:SPLIT, or a source that prepare accepts."""
    split: str | None = None
    """Split of data to score, if data is a prepared data set. Default: test."""
    outliers: list[str] = field(default_factory=list)
    """Images that the scores should separate from those of data, as DATA[:SPLIT] (default split: test). Give the option
    several times for several sets."""
    reference: str | None = None
    """In-distribution images, as DATA[:SPLIT] (default split: validation). Typicality is the distance from their mean
    likelihood. Default: the validation split of the data set that the model was trained on."""
    num_images: int | None = None
    """Number of images of each set to score, from its beginning. Default: all."""
    size: int | tuple[int, int] | None = None
    """For images that are not prepared: size in pixels, SIZE for SIZE x SIZE or '[HEIGHT, WIDTH]', as in prepare. Set
    it to the size that the model was trained on."""
    color: Literal["keep", "rgb", "grey"] = "keep"
    """For images that are not prepared: their colour, as in prepare. Set rgb or grey where the model was trained on
    it."""
    batch_size: int = 64
    """Images in memory at a time. It changes speed and memory, not the scores."""
    seed: int = 0
    """Seed of the dequantisation noise. The noise of an image depends on the seed and the image's key alone."""
    output: str | None = None
    """Directory to write. Default: scores/step-N-SPLIT in the run directory, or scores/step-N-NAME for a folder
    NAME. Options that change the scores are added to this name."""

    def __post_init__(self) -> None:
        """Check ranges."""
        distinct = len(set(self.outliers)) == len(self.outliers)
        require(distinct, "outliers", self.outliers, "give each set once")
        is_positive = self.num_images is None or self.num_images >= 1
        require(is_positive, "num_images", self.num_images, "give 1 or more")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "give 1 or more")
        require(self.seed >= 0, "seed", self.seed, "give 0 or more")


@dataclass(frozen=True)
class DemoRun:
    """Run the four stages on scikit-learn's digits: prepare, train, sample and evaluate.

    It takes a few minutes on two CPU cores.
    """

    data: str = "data/digits"
    """Directory of the data set to write."""
    output: str = "runs/digits"
    """Run directory to write."""
    training: str = "digits"
    """Configuration of the training: a YAML file, or the name of a packaged one."""
