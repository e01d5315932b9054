"""The files of drawn images: one PNG for each image, one grid for each temperature, and samples.json."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from glow.config import temperature_text
from glow.files.limits import JSON_BYTES
from glow.files.reading import parse_json, read_file
from glow.files.schema import from_plain
from glow.files.writing import write_whole
from glow.sampling.images import Draw, Temperature, image_grid, name_rows

DESCRIPTION = "samples.json"


@dataclass(frozen=True)
class SingleImages:
    """Single PNGs of consecutive images; every file says what its image was drawn from.

    Several processes may write different images of one set into the same directory.

    Attributes:
        directory: The directory of the samples.
        indices: The numbers of the images.
        draw: Seed and class of the images.
        weights_sha256: Checksum of the model's weights.
        dtype: Precision of the coupling networks.
    """

    directory: Path
    indices: range
    draw: Draw
    weights_sha256: str
    dtype: str = "float32"

    def write(self, images: Tensor, temperature: Temperature) -> None:
        """Write uint8 images ``[n, C, H, W]``, one for each index."""
        self._folder(temperature).mkdir(exist_ok=True)
        origin = PngInfo()
        origin.add_text("glow", self._origin(temperature))
        for path, image in zip(self._paths(temperature), images, strict=True):
            pixels, content = image[0] if len(image) == 1 else image.permute(1, 2, 0), io.BytesIO()
            Image.fromarray(pixels.numpy()).save(content, "PNG", pnginfo=origin)
            try:
                path.write_bytes(content.getvalue())  # not waiting for the disk: there may be 50,000
            except OSError as error:
                raise OSError(f"{path}: cannot be written: {error.strerror}") from error

    def read(self, temperatures: Sequence[Temperature]) -> Iterator[tuple[Temperature, Tensor]]:
        """Yield each temperature and its images, uint8 ``[n, C, H, W]``."""
        for temperature in temperatures:
            images = []
            for path in self._paths(temperature):
                with _damage_named(path), Image.open(path) as image:
                    pixels = np.array(image)
                images.append(torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)))
            yield temperature, torch.stack(images)

    def check(self, temperatures: Sequence[Temperature]) -> None:
        """Check that all images are there and were drawn alike.

        Raises:
            ValueError: when an image is missing, or has another checkpoint, seed, class or temperature.
        """
        paths = [path for temperature in temperatures for path in self._paths(temperature)]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            count = f"{len(missing)} of {len(paths)} images"
            raise ValueError(f"{missing[0]}: missing; {count} are not there: draw them before you merge")
        for temperature in temperatures:
            for path in self._paths(temperature):
                with _damage_named(path), Image.open(path) as image:
                    found = image.info.get("glow")
                if found != self._origin(temperature):
                    raise ValueError(f"{path}: drawn from {found}, not from {self._origin(temperature)}")

    def _origin(self, temperature: Temperature) -> str:
        """Return what all images of one temperature have in common, whichever process draws them."""
        origin = {
            "checkpoint": self.weights_sha256,
            "seed": self.draw.seed,
            "label": self.draw.label,
            "temperature": temperature,
        }
        return json.dumps(origin if self.dtype == "float32" else {**origin, "dtype": self.dtype})

    def _folder(self, temperature: Temperature) -> Path:
        return self.directory / f"images-t{temperature_text(temperature)}"

    def _paths(self, temperature: Temperature) -> list[Path]:
        return [self._folder(temperature) / f"{index:08d}.png" for index in self.indices]


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read or damaged: {error}; draw it again") from error


@dataclass(frozen=True)
class _Drawn:
    """What a report takes from samples.json."""

    weights: str
    label: int | str | None
    temperatures: list[float | list[float]]


def remove_grids(directory: Path) -> None:
    """Remove samples.json and the grids that it describes: it goes first, and comes last when they are written."""
    for path in [directory / DESCRIPTION, *directory.glob("grid-t*.png")]:
        path.unlink(missing_ok=True)


def write_grid(
    directory: Path, images: Tensor, temperature: Temperature, draw: Draw, num_classes: int, names: Sequence[str] | None
) -> None:
    """Write the grid of one temperature; where the classes take turns, a row for each, with its name if it has one."""
    num_rows = draw.num_rows(num_classes, len(images))
    grid = image_grid(draw.shown(images, num_classes, temperature), num_rows)
    content = io.BytesIO()
    Image.fromarray(name_rows(grid, names) if num_rows and names else grid).save(content, "PNG")
    write_whole(_grid(directory, temperature), content.getvalue())


def write_npz(directory: Path, images: Tensor, temperature: Temperature) -> None:
    """Write uint8 images ``[n, C, H, W]`` as images-t0.70.npz, as tools for FID read: ``arr_0``, ``[n, H, W, 3]``.

    Grey images have three equal channels.
    """
    colored = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    content = io.BytesIO()
    np.savez(content, colored.permute(0, 2, 3, 1).contiguous().numpy())
    write_whole(directory / f"images-t{temperature_text(temperature)}.npz", content.getvalue())


def write_description(directory: Path, description: Mapping[str, Any]) -> None:
    """Write samples.json."""
    write_whole(directory / DESCRIPTION, json.dumps(description, indent=1, allow_nan=False) + "\n")


def npy(array: np.ndarray) -> bytes:
    """Return an array as the content of a .npy file."""
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def find_grids(directory: Path, weights: str) -> dict[str, Path]:
    """Return the grids of a directory by caption, if they were drawn with these weights (``ema`` or ``raw``)."""
    path = directory / DESCRIPTION
    if not path.is_file():
        return {}
    content = from_plain(dict[str, Any], parse_json(read_file(path, JSON_BYTES), str(path)), str(path))
    known = {field.name: content[field.name] for field in fields(_Drawn) if field.name in content}
    described = from_plain(_Drawn, known, str(path))
    if described.weights != weights:
        return {}
    label = "" if described.label is None else f", class {described.label}"
    grids = {f"temperature {temperature_text(t)}{label}": _grid(directory, t) for t in described.temperatures}
    return {caption: grid for caption, grid in grids.items() if grid.is_file()}


def _grid(directory: Path, temperature: Temperature) -> Path:
    return directory / f"grid-t{temperature_text(temperature)}.png"
