"""Options of export and import_checkpoint."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from glow.config.fields import require
from glow.files.hub import REPOSITORY


@dataclass(frozen=True, kw_only=True)
class ExportRun:
    """Write a trained model as a folder that others can load, and that the Hugging Face Hub takes as it is.

    The folder holds the weights (model.safetensors), config.json and a model card (README.md), with the bits/dim of the
    reports of evaluate and the grid of sample, if there are any. Paths of this machine are left out.
    """

    checkpoint: str
    """Run directory (runs/NAME), or one checkpoint in it. With push, also the folder of an exported model, which is
    then pushed as it is."""
    which: Literal["latest", "best"] = "latest"
    """Checkpoint to use from a run directory: the latest, or the best by validation bits/dim."""
    weights: Literal["ema", "raw"] = "ema"
    """Weights to write. ema: their exponential moving average over the training. raw: those of the last step."""
    output: str | None = None
    """Folder to write; it must be new or empty. Default: hub/NAME for a run runs/NAME."""
    license: str | None = None
    """License of the weights, by its name on the Hub, such as apache-2.0 or cc-by-4.0. Default: none is named, which
    allows others nothing."""
    push: str | None = None
    """Also upload the folder to this model on the Hub, USER/NAME. It is made if it does not exist, and is then private.
    Log in before, by `hf auth login`."""

    def __post_init__(self) -> None:
        """Check the forms of names."""
        is_name = self.license is None or re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.license, re.ASCII)
        require(bool(is_name), "license", self.license, "give its name, such as apache-2.0")
        is_model = self.push is None or re.fullmatch(REPOSITORY, self.push, re.ASCII)
        require(bool(is_model), "push", self.push, "give USER/NAME")


@dataclass(frozen=True)
class ImportRun:
    """Turn a model that another program trained into a checkpoint for sample, evaluate and score."""

    path: str
    """File with the state dict of the model, written by torch.save."""
    format: Literal["rosinality", "y0ast", "chaiyujin", "normflows", "kamenbliznashki"] = "rosinality"
    """Program that wrote the file. rosinality: github.com/rosinality/glow-pytorch. y0ast:
    github.com/y0ast/Glow-PyTorch. chaiyujin: github.com/chaiyujin/glow-pytorch. normflows: a
    MultiscaleFlow of GlowBlocks. kamenbliznashki: glow.py of github.com/kamenbliznashki/normalizing_flows."""
    image_size: int | None = None
    """Height and width of the model's images in pixels, where the file does not hold them. Default: what the file
    holds, or 64 for rosinality and kamenbliznashki."""
    num_bits: int | None = None
    """Bits in each channel of the model's images, 1 to 8. The file does not hold it: give the value of the training.
    Default: what that program uses, 5 for rosinality and kamenbliznashki, 8 for the others."""
    image_range: tuple[float, float] | None = None
    """The numbers that the model took for black and for white, as in '[0, 1]': the ends of the grid of levels, of which
    each has a cell of equal width. The file does not hold them. Default: what that program uses."""
    scale: Literal["sigmoid", "exp"] | None = None
    """With normflows: the scale_map of the blocks, which the file does not hold. Default: sigmoid."""
    output: str | None = None
    """Run directory to write. Default: runs/NAME for a file NAME.pt."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.num_bits is None or 1 <= self.num_bits <= 8, "num_bits", self.num_bits, "give 1 to 8")
        require(self.image_size is None or self.image_size >= 1, "image_size", self.image_size, "give 1 or more")
        is_used = self.scale is None or self.format == "normflows"
        require(is_used, "scale", self.scale, "leave it out, or set format to normflows")
        low, high = self.image_range or (0, 1)
        advice = "give two numbers, the smaller one first"
        require(-math.inf < low < high < math.inf, "image_range", self.image_range, advice)
