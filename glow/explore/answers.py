"""What the page shows for its sliders: pictures and texts, without anything of the web."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from glow.data.images.decoding import ImageForm
from glow.editing.attributes import Directions, apply_direction
from glow.editing.choosing import Data
from glow.editing.interpolate import Path as Route
from glow.editing.interpolate import blend
from glow.editing.levels import mix_levels
from glow.editing.neighbours import nearest
from glow.editing.pictures import enlarged, sheet
from glow.editing.reconstruct import likeliest_labels, reconstruct
from glow.trained.images import TrainedGlow

NUM_TRAIN = 2000  # images in which neighbours are looked for
SIDE = 192


@dataclass(frozen=True)
class Answers:
    """The answers of one model. Nothing in it changes: sessions cannot see each other.

    Attributes:
        run: The run directory or checkpoint, for the commands.
        data: The model and its data set.
        directions: Directions of attributes; None if ``edit --what attributes`` has not found any.
        test: Images to pick, uint8 ``[N, C, H, W]``.
        train: Training images, for neighbours.
        usual: Bits/dim of the test images.
    """

    run: str
    data: Data
    directions: Directions | None
    test: Tensor
    train: Tensor
    usual: list[float]

    @staticmethod
    def of(run: str, data: Data, directions: Directions | None) -> Answers:
        """Read the images that the page needs, and measure them."""
        test, train = data.first("test", 200), data.first("train", NUM_TRAIN)
        bits = data.model.bits_per_dim(test.images, keys=test.names).tolist()
        return Answers(run, data, directions, test.images, train.images, bits)

    @property
    def model(self) -> TrainedGlow:
        """The model."""
        return self.data.model

    def sample(self, seed: float, temperatures: Sequence[float], label: str | None, count: int = 16) -> Image.Image:
        """Return a sheet of samples."""
        images = self.model.sample(count, temperature=list(temperatures), seed=int(seed), label=label)
        return sheet([list(images[start : start + 8]) for start in range(0, count, 8)])

    def sample_command(self, seed: float, temperatures: Sequence[float], label: str | None) -> str:
        """Return the command that draws the same samples."""
        levels = f"[[{', '.join(f'{value:g}' for value in temperatures)}]]"
        options = ["--temperatures", levels, "--seed", str(int(seed)), *(["--label", label] if label else [])]
        return shlex.join(["glow", "sample", "--checkpoint", self.run, *options])

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
        channels, height, width = self.model.glow.image_shape
        factor = max(1, pixels.shape[0] // height)
        small = pixels[::factor, ::factor]
        if small.shape[:2] == (height, width) and (small.repeat(factor, 0).repeat(factor, 1) == pixels).all():
            pixels = small
        made = ImageForm.of_shape(self.model.glow.image_shape).apply("upload", Image.fromarray(pixels))
        return torch.from_numpy(made.copy()).view(height, width, channels).permute(2, 0, 1)[None].contiguous()

    def describe(self, pixels: np.ndarray | None) -> tuple[Image.Image, str]:
        """Return an image beside its decoded latents and its nearest training images, and figures of it."""
        image = self.read(pixels)
        back, (found,) = reconstruct(self.model, image, likeliest_labels(self.model, image))
        likelier = sum(bits < found.bits_per_dim for bits in self.usual) / len(self.usual)
        near = nearest(image.float() / 255, self.train.float() / 255, min(4, len(self.train)))
        numbers = near.numbers[0].tolist()
        heads = ["image", "decoded", *(f"train, {distance:.2f}" for distance in near.distances[0].tolist())]
        shares = ", ".join(f"level {n}: {part:.3f}" for n, part in enumerate(found.parts[1:], 1))
        text = (
            f"{found.bits_per_dim:.3f} bits/dim (an upper bound). {likelier:.0%} of {len(self.usual)} test images have "
            f"fewer.\nParts: dequantisation {found.parts[0]:.3f}, {shares}.\n"
            f"Largest error of the round trip: {found.max_abs_error:.1e} of the range of grey levels; "
            f"{found.num_wrong_pixels} numbers come back different."
        )
        return sheet([[image[0], back[0], *self.train[numbers]]], (), heads), text

    def mix(
        self, first: np.ndarray | None, second: np.ndarray | None, weight: float, path: Route, levels: Sequence[str]
    ) -> tuple[Image.Image, str]:
        """Return a point between two images, with these levels of the second one; and its bits/dim."""
        images = torch.cat([self.read(first), self.read(second)])
        labels = likeliest_labels(self.model, images)
        latents = self.model.encode(images, labels=labels)
        between = blend([z[0] for z in latents], [z[1] for z in latents], weight, path)
        chosen = [int(level) for level in levels]
        mixed = mix_levels([z[None] for z in between], [z[1:] for z in latents], chosen)
        return self._shown(mixed, None if labels is None else labels[:1])

    def attribute(
        self, pixels: np.ndarray | None, name: str | None, method: str, strength: float
    ) -> tuple[Image.Image, str]:
        """Return an image moved along the direction of an attribute, and its bits/dim."""
        if self.directions is None or name is None:
            raise ValueError(f"Find directions first: glow edit --checkpoint {self.run} --what attributes")
        image = self.read(pixels)
        labels = likeliest_labels(self.model, image)
        latents = self.model.encode(image, labels=labels)
        return self._shown(apply_direction(latents, self.directions.of(name, method), strength), labels)

    def _shown(self, latents: Sequence[Tensor], labels: Tensor | None) -> tuple[Image.Image, str]:
        image = self.model.decode(latents, labels=labels)
        bits = float(self.model.bits_per_dim(image, labels=labels)[0])
        return enlarged(image[0], SIDE), f"{bits:.3f} bits/dim"


def open_upload(path: str | None) -> np.ndarray | None:
    """Return the pixels ``[H, W, 3]`` of a file that somebody uploaded; None without one.

    Raises:
        ValueError: with a sentence for the user, when it is no image, damaged or too large.
    """
    if path is None:
        return None
    try:
        with Image.open(Path(path)) as image:
            if image.width * image.height > 2**24:
                raise ValueError(f"This image has {image.width} x {image.height} pixels; 16 million are the limit.")
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("This file is not an image that can be read, such as PNG or JPEG.") from error
