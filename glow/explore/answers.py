"""What the page shows for its sliders: pictures and texts, without anything of the web."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glow.data.images.decoding import ImageError, ImageForm, decode, stored_size
from glow.editing.attributes import Directions, apply_direction
from glow.editing.choosing import Data
from glow.editing.interpolate import Path as Route
from glow.editing.levels import mixture
from glow.editing.neighbours import nearest
from glow.editing.pictures import column_of, enlarged, sheet
from glow.editing.reconstruct import likeliest_labels, reconstruct
from glow.editing.repairing import mask_of
from glow.evaluation.anomaly import AnomalyScore
from glow.explore.measures import anomaly_scores, beside_histogram, compare
from glow.explore.repairs import Repairs
from glow.trained.images import TrainedGlow

NUM_TRAIN = 2000  # images in which neighbours are looked for
NUM_TEST = 200
NUM_SAMPLES, COLUMNS = 16, 8
SIDE = 192
MAX_UPLOAD = 2**24  # pixels
PAINTED = "what I paint"


@dataclass(frozen=True)
class Answers:
    """The answers of one model. Nothing in it changes: sessions cannot see each other.

    Attributes:
        name: The run directory or checkpoint, for the commands.
        folder: The run directory, for curves and reports.
        data: The model and its data set.
        directions: Directions of attributes; None if ``edit --what attributes`` has not found any.
        repairs: Fills in missing pixels.
        test: Images to pick, uint8 ``[N, C, H, W]``.
        train: Training images, for neighbours.
        bits: Bits/dim of the test images.
        usual: Their anomaly scores; none for images that have no lossless code.
    """

    name: str
    folder: Path
    data: Data
    directions: Directions | None
    repairs: Repairs
    test: Tensor
    train: Tensor
    bits: list[float]
    usual: list[AnomalyScore]

    @staticmethod
    def of(name: str, folder: Path, data: Data, directions: Directions | None, repairs: Repairs) -> Answers:
        """Read the images that the page needs, and measure them."""
        test, train = data.first("test", NUM_TEST), data.first("train", NUM_TRAIN)
        bits = data.model.bits_per_dim(test.images, keys=test.names).tolist()
        usual = anomaly_scores(test.images, bits, float(np.mean(bits)), data.model.glow.config.num_bits)
        return Answers(name, folder, data, directions, repairs, test.images, train.images, bits, usual)

    @property
    def model(self) -> TrainedGlow:
        """The model."""
        return self.data.model

    def samples(self, seed: float, temperatures: Sequence[float], label: str | None) -> Tensor:
        """Return the images of the page of samples, uint8 ``[NUM_SAMPLES, C, H, W]``."""
        return self.model.sample(NUM_SAMPLES, temperature=list(temperatures), seed=int(seed), label=label)

    def sample(self, seed: float, temperatures: Sequence[float], label: str | None) -> Image.Image:
        """Return a sheet of samples."""
        images = self.samples(seed, temperatures, label)
        return sheet([list(images[start : start + COLUMNS]) for start in range(0, NUM_SAMPLES, COLUMNS)])

    def sample_command(self, seed: float, temperatures: Sequence[float], label: str | None) -> str:
        """Return the command that draws the same samples."""
        levels = f"[[{', '.join(f'{value:g}' for value in temperatures)}]]"
        options = ["--temperatures", levels, "--seed", str(int(seed)), *(["--label", label] if label else [])]
        return shlex.join(["glow", "sample", "--checkpoint", self.name, *options])

    def edit_command(self, what: str, source: str, *options: str) -> str:
        """Return the command that does the same to an image, a number of the test split or a file."""
        return shlex.join(["glow", "edit", "--checkpoint", self.name, "--what", what, "--images", source, *options])

    def attributes_command(self) -> str:
        """Return the command that finds the directions of the classes."""
        return shlex.join(["glow", "edit", "--checkpoint", self.name, "--what", "attributes"])

    def evaluate_command(self) -> str:
        """Return the command that evaluates the model on the test images."""
        return shlex.join(["glow", "evaluate", "--checkpoint", self.name, "--data", self.data.path])

    def clicked(self, x: int, y: int, images: Tensor) -> np.ndarray | None:
        """Return the sample under a pixel of the sheet, as pixels; None beside the samples."""
        number = column_of(x, y, COLUMNS, images[0])
        return np.asarray(enlarged(images[number], SIDE)) if number is not None and number < len(images) else None

    def picture(self, number: float) -> np.ndarray:
        """Return a test image as pixels ``[h, w, 3]``, enlarged by a whole factor."""
        image = self.test[int(number) % len(self.test)]
        return np.asarray(enlarged(image, SIDE))

    def read(self, pixels: np.ndarray | None) -> Tensor:
        """Return pixels ``[h, w, 3]`` as the model takes them, ``[1, C, H, W]``: resized and cropped at the centre.

        What ``picture`` enlarged comes back exactly.

        Raises:
            ValueError: when there are none.
        """
        if pixels is None:
            raise ValueError("Choose an image first.")
        _, height, width = self.model.glow.image_shape
        factor = max(1, pixels.shape[0] // height)
        small = pixels[::factor, ::factor]
        if small.shape[:2] == (height, width) and (small.repeat(factor, 0).repeat(factor, 1) == pixels).all():
            pixels = small
        form = ImageForm.of_shape(self.model.glow.image_shape)
        return _as_tensor(form.apply("upload", Image.fromarray(pixels)), self.model.glow.image_shape)

    def describe(self, pixels: np.ndarray | None) -> tuple[Image.Image, Image.Image, list[list[str]], str]:
        """Return an image beside its decoded latents and its nearest training images; a histogram; scores; figures."""
        image = self.read(pixels)
        back, (found,) = reconstruct(self.model, image, likeliest_labels(self.model, image))
        near = nearest(image.float() / 255, self.train.float() / 255, min(4, len(self.train)))
        numbers = near.numbers[0].tolist()
        heads = ["image", "decoded", *(f"train, {distance:.2f}" for distance in near.distances[0].tolist())]
        shares = ", ".join(f"level {n}: {part:.3f}" for n, part in enumerate(found.parts[1:], 1))
        text = (
            f"{found.bits_per_dim:.3f} bits/dim (an upper bound).\n"
            f"Parts: dequantisation {found.parts[0]:.3f}, {shares}.\n"
            f"Largest error of the round trip: {found.max_abs_error:.1e} of the range of grey levels; "
            f"{found.num_wrong_pixels} numbers come back different."
        )
        bits, reference = [found.bits_per_dim], float(np.mean(self.bits))
        scores = anomaly_scores(image, bits, reference, self.model.glow.config.num_bits)
        rows = [row for own in scores for row in compare(own, self.usual)]
        shown = sheet([[image[0], back[0], *self.train[numbers]]], (), heads)
        return shown, beside_histogram(self.bits, bits[0]), rows, text

    def mix(
        self, first: np.ndarray | None, second: np.ndarray | None, weight: float, path: Route, levels: Sequence[str]
    ) -> tuple[Image.Image, str]:
        """Return a point between two images, with these levels of the second one; and its bits/dim."""
        images = torch.cat([self.read(first), self.read(second)])
        return self._shown(*mixture(self.model, images, weight, path, [int(level) for level in levels]))

    def mix_code(self, sources: Sequence[str], weight: float, path: Route, levels: Sequence[str]) -> str:
        """Return the lines of Python that make the same picture."""
        parts = [
            f"Data(model, {self.data.path!r}).read('test', [{source}]).images"
            if source.isdigit()
            else f"model.read_images([{source!r}])"
            for source in sources
        ]
        return (
            "import glow, torch; from glow.editing.choosing import Data; from glow.editing.levels import mixture\n"
            f"model = glow.load({self.name!r}); images = torch.cat([{', '.join(parts)}])\n"
            f"image, _ = mixture(model, images, {weight:g}, {path!r}, {[int(level) for level in levels]})"
        )

    def missing(self, area: str, painted: np.ndarray | None) -> Tensor:
        """Return which numbers of an image are missing, bool ``[C, H, W]``.

        Args:
            area: One of HALVES, or PAINTED.
            painted: With PAINTED: opacity of what was painted, ``[h, w]``, enlarged as pictures are.

        Raises:
            ValueError: when nothing was painted.
        """
        channels, height, width = self.model.glow.image_shape
        if area != PAINTED:
            return mask_of(area, self.model.glow.image_shape)
        if painted is None or not painted.any():
            raise ValueError("Paint over the pixels that are missing, or choose an area.")
        shares = np.asarray(Image.fromarray(painted).resize((width, height), Image.Resampling.BOX))
        if not (shares > 127).any():
            raise ValueError("Paint over whole pixels of the image: more of it.")
        return torch.from_numpy(shares > 127).expand(channels, -1, -1)

    def repair(
        self, pixels: np.ndarray | None, area: str, painted: np.ndarray | None, num_draws: float, seed: float
    ) -> tuple[Image.Image, Image.Image, str]:
        """Return an image with pixels filled in, in several ways; the mask, missing is white; and how well it went."""
        image, mask = self.read(pixels), self.missing(area, painted)
        labels = likeliest_labels(self.model, image)
        label = None if labels is None else int(labels[0])
        found = self.repairs.inpaint(image[0], mask, label, int(seed), int(num_draws))
        heads = ["image", "given", "MAP", "mean", *(f"draw {number + 1}" for number in range(len(found.samples)))]
        row = [image[0], image[0].masked_fill(mask, 127), found.likeliest, found.mean, *found.samples]
        agree = "The chains agree." if found.r_hat < 1.1 else "The chains do not agree yet: take more draws."
        text = (
            f"Accepted {found.acceptance:.0%}, effective samples {found.effective_samples:.0f}, "
            f"R-hat {found.r_hat:.2f}. {agree}"
        )
        return sheet([row], (), heads), enlarged(mask[:1].to(torch.uint8) * 255, SIDE), text

    def attribute(self, pixels: np.ndarray | None, name: str, method: str, strength: float) -> tuple[Image.Image, str]:
        """Return an image moved along the direction of an attribute, and its bits/dim."""
        assert self.directions is not None
        image = self.read(pixels)
        labels = likeliest_labels(self.model, image)
        latents = self.model.encode(image, labels=labels)
        moved = apply_direction(latents, self.directions.of(name, method), strength)
        return self._shown(self.model.decode(moved, labels=labels), labels)

    def _shown(self, image: Tensor, labels: Tensor | None) -> tuple[Image.Image, str]:
        bits = float(self.model.bits_per_dim(image, labels=labels)[0])
        return enlarged(image[0], SIDE), f"{bits:.3f} bits/dim"


def open_upload(path: str | None, shape: tuple[int, int, int], is_whole: bool) -> np.ndarray | None:
    """Return a file that somebody uploaded as the model sees it, enlarged pixels ``[h, w, 3]``; None without a file.

    Args:
        path: The file.
        shape: C, H, W of the images of the model.
        is_whole: Whether to squeeze the whole image into that size, instead of cropping it at the centre.

    Raises:
        ValueError: with a sentence for the user, when it is no image, damaged or too large.
    """
    if path is None:
        return None
    content = Path(path).read_bytes()
    height, width = stored_size(content) or (0, 0)
    if height * width > MAX_UPLOAD:
        raise ValueError(f"This image has {width} x {height} pixels; 16 million are the limit.")
    try:
        image = decode("upload", content)
        if is_whole:
            image = image.convert("RGBA").resize((shape[2], shape[1]), Image.Resampling.LANCZOS)
        return np.asarray(enlarged(_as_tensor(ImageForm.of_shape(shape).apply("upload", image), shape)[0], SIDE))
    except ImageError as error:
        raise ValueError("This file is not an image that can be read, such as PNG or JPEG.") from error


def _as_tensor(pixels: np.ndarray, shape: tuple[int, int, int]) -> Tensor:
    """Return pixels ``[H, W, C]`` or ``[H, W]`` as ``[1, C, H, W]``."""
    channels, height, width = shape
    return torch.from_numpy(pixels.copy()).view(height, width, channels).permute(2, 0, 1)[None].contiguous()
