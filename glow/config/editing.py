"""Options of edit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Literal

from glow.config.fields import require
from glow.config.stages import CheckpointChoice

DATA = ("data", "split")
CHOICE = (*DATA, "images", "label")
# The options of each kind of work, besides those of the checkpoint, seed and output.
OPTIONS: dict[str, tuple[str, ...]] = {
    "reconstruct": CHOICE,
    "interpolate": (*CHOICE, "path", "num_steps"),
    "attributes": (*DATA, "num_images", "positive", "negative", "attribute"),
    "apply": (*CHOICE, "attribute", "method", "strengths"),
    "levels": (*CHOICE, "temperature"),
    "mix": (*CHOICE, "levels"),
    "inpaint": (*CHOICE, "mask", "num_draws"),
    "restore": (*CHOICE, "sigma", "observed", "num_draws"),
    "neighbours": (*DATA, "num_images", "temperature"),
    "classifier": DATA,
    "quality": (*DATA, "num_images", "temperature", "features"),
}
WITH_FIXED_SPLITS = ("attributes", "classifier")


@dataclass(frozen=True, kw_only=True)
class EditRun(CheckpointChoice):
    """See and edit images by their exact latents under a trained model, and compare its samples with data.

    reconstruct: to the latents and back, with the probability of each image. interpolate: a path between images.
    attributes: find the directions of classes, or of two folders. apply: move images along one. levels: draw one level
    anew and keep the others. mix: some levels of one image, the others of another. inpaint: fill in missing pixels.
    restore: remove noise. neighbours: the training images nearest to samples. classifier: train the small network whose
    features compare samples. quality: distances of samples to a split.
    """

    what: Literal[
        "reconstruct",
        "interpolate",
        "attributes",
        "apply",
        "levels",
        "mix",
        "inpaint",
        "restore",
        "neighbours",
        "classifier",
        "quality",
    ]
    """What to do."""
    images: list[str] = field(default_factory=list)
    """Images to work on: files, or numbers of images in the split. Default: the first eight of the split; two for
    interpolate and mix."""
    data: str | None = None
    """Prepared data set. Default: the one that the model was trained on."""
    split: str = "test"
    """Split of the data set that images are taken from, or that samples are compared with."""
    num_images: int | None = None
    """Number of images of a split, and of samples, to work with. Default: all images of the split, and as many
    samples."""
    label: int | str | None = None
    """Of a class_conditional model: class of the image files, by its number or name. Default: the most probable one."""
    path: Literal["linear", "spherical"] = "spherical"
    """Path of interpolate. spherical: keeps the norm of the latents, level by level. linear: a straight line."""
    num_steps: int = 8
    """Steps of interpolate from one image to the next."""
    attribute: str | None = None
    """Attribute to apply: the name of a class, or of two folders. With positive and negative: the name to save."""
    method: Literal["mean", "logistic"] = "mean"
    """Direction to apply: the difference of the means, or the normal of the logistic regression."""
    strengths: list[float] = field(default_factory=lambda: [-1.0, -0.5, 0.0, 0.5, 1.0])
    """Strengths of apply. 1 is the distance between the mean latents of images with and without the attribute."""
    positive: str | None = None
    """Folder of images with the attribute, for data without labels."""
    negative: str | None = None
    """Folder of images without it."""
    levels: list[int] = field(default_factory=lambda: [1])
    """Levels that mix takes from the second image; 1 is the finest."""
    temperature: float = 0.7
    """Temperature of samples, and of levels that are drawn anew."""
    mask: str = "bottom"
    """Missing pixels of inpaint: left, right, top, bottom (half of the image), center (a quarter of it), or an image
    file, whose bright pixels are missing."""
    sigma: float = 0.1
    """Standard deviation of the noise in the images of restore; the range of all grey levels is 1."""
    observed: Literal["pixels", "half_size", "grey"] = "pixels"
    """What restore takes from the images. pixels: all of it. half_size: the means of 2x2 pixels, so that it draws the
    details. grey: the mean of the channels, so that it draws the colours."""
    num_draws: int = 200
    """Steps of each of the four chains of inpaint and restore; the first half is a warm-up."""
    features: str | None = None
    """File of the classifier whose features quality compares, written by classifier. Default: the one that comes with
    glow, for digits."""
    seed: int = 0
    """Seed of all that is drawn."""
    output: str | None = None
    """Directory to write; with classifier: the file. Default: edit/step-N-WHAT in the run directory. Options that
    change the results are added to this name."""

    def __post_init__(self) -> None:
        """Check ranges, and that options belong to what is done."""
        for option in fields(self):
            users = [what for what, names in OPTIONS.items() if option.name in names]
            if users and self.what not in users:
                default = option.default_factory() if callable(option.default_factory) else option.default
                value = getattr(self, option.name)
                advice = f"leave it out: what {self.what} does not use it, but {', '.join(users)}"
                require(value == default, option.name, value, advice)
        if self.what in WITH_FIXED_SPLITS:
            require(
                self.split == "test", "split", self.split, f"leave it out: {self.what} uses train, and measures test"
            )
        for name, least in (("num_steps", 1), ("num_images", 1), ("num_draws", 8)):
            value = getattr(self, name)
            require(value is None or value >= least, name, value, f"give {least} or more")
        require(self.seed >= 0, "seed", self.seed, "give 0 or more")
        require(0 <= self.temperature < math.inf, "temperature", self.temperature, "give a finite number, 0 or more")
        require(0 < self.sigma < math.inf, "sigma", self.sigma, "give a finite number above 0")
        finite = len(self.strengths) >= 1 and all(map(math.isfinite, self.strengths))
        require(finite, "strengths", self.strengths, "give one or more finite numbers")
        require(len(self.levels) >= 1, "levels", self.levels, "give one or more")
        advice = "give positive and negative, two folders, and attribute, a name for them"
        together = (self.positive is None) == (self.negative is None)
        require(together, "negative" if self.positive else "positive", None, advice)
        is_named = self.attribute is not None or (self.what != "apply" and self.positive is None)
        require(is_named, "attribute", self.attribute, "name the attribute")
        is_used = self.what != "attributes" or self.positive is not None or self.attribute is None
        require(is_used, "attribute", self.attribute, advice)


@dataclass(frozen=True, kw_only=True)
class ExploreRun(CheckpointChoice):
    """Show a trained model of images as a web page: samples, your image, mixes, attributes, repairs, its training.

    It prints the address. Other machines cannot reach it, unless host says so; then it wants a password, which it
    prints.
    """

    data: str | None = None
    """Prepared data set, for images to pick and nearest training images. Default: the one that the model was trained
    on."""
    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0: all of this machine."""
    port: int = 7860
    """Port to listen on. 0: the first free one from 7860 on."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(0 <= self.port < 2**16, "port", self.port, "give 0 to 65535")
