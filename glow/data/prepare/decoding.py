"""From the bytes of an image file to pixels of one shape and colour; what cannot be used is refused with its name."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from glow.config import PrepareRun

# No other format is tried, whatever a file claims to be: Pillow would hand an EPS to Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM", "WEBP")
MODES = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"))


class ImageError(ValueError):
    """One image cannot be used; ``name`` says which file, ``reason`` why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both as arguments, so that it survives the way back from a worker process
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@contextlib.contextmanager
def image_errors(name: str) -> Iterator[None]:
    """Turn whatever reading and decoding one image raises into an ImageError that names it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except (ImageError, MemoryError):
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ImageError(name, f"refused as a possible decompression bomb: {error}") from error
        except UnidentifiedImageError as error:  # its own text holds an address in memory
            raise ImageError(name, f"not an image in one of the formats {', '.join(FORMATS)}") from error
        except Exception as error:  # decoders raise SyntaxError, IndexError, struct.error, ... on damaged files
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(name, f"cannot be read: {reason}") from error


def decode(name: str, data: bytes) -> Image.Image:
    """Decode an image file completely and turn it upright (EXIF orientation).

    Raises:
        ImageError: when it is damaged, too large, or has more than 8 bits a channel.
    """
    with image_errors(name):
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        # Pillow reads 16-bit RGB as mode RGB and drops the low bytes; only the raw mode of its tiles tells.
        deep = [tile.args for tile in getattr(image, "tile", ()) if ";16" in str(tile.args)]
        check_mode(name, image, note=f" (stored as {deep[0]})" if deep else "")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return image


def check_mode(name: str, image: Image.Image, note: str = "") -> None:
    """Refuse an image whose channels do not have 8 bits."""
    if image.mode not in MODES or note:
        raise ImageError(name, f"has mode {image.mode}{note}; convert it to 8-bit grey or RGB first")


@dataclass(frozen=True)
class ImageForm:
    """What every stored image is: grey or RGB, height, width; and whether other sizes and colours are converted."""

    is_grey: bool
    height: int
    width: int
    resizes: bool
    recolors: bool

    @staticmethod
    def of(config: PrepareRun, first: Image.Image) -> ImageForm:
        """Return the form that the options ask for; what they leave open follows the first image."""
        is_grey = is_grey_mode(first) if config.color == "keep" else config.color == "grey"
        size = (config.size, config.size) if isinstance(config.size, int) else config.size
        height, width = size or (first.height, first.width)
        return ImageForm(is_grey, height, width, resizes=size is not None, recolors=config.color != "keep")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (1 if self.is_grey else 3, self.height, self.width)

    def encode(self, name: str, image: Image.Image) -> bytes:
        """Bring an image into this form and return it as PNG.

        Raises:
            ImageError: when it has another size or colour and none was asked for.
        """
        if not self.recolors and is_grey_mode(image) != self.is_grey:
            kinds = ("grey", "in colour") if is_grey_mode(image) else ("in colour", "grey")
            raise ImageError(name, f"is {kinds[0]}, the first image is {kinds[1]}; choose --color rgb or --color grey")
        if not self.resizes and (image.height, image.width) != (self.height, self.width):
            raise ImageError(
                name,
                f"is {image.height} x {image.width} (height x width), the first image is {self.height} x {self.width}; "
                "--size brings all images to one size",
            )
        if image.has_transparency_data:  # what lies under transparent pixels is arbitrary
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if self.is_grey else "RGB")
        if self.resizes:
            image = ImageOps.fit(image, (self.width, self.height), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        # A new image: the old one would hand down its colour profile and transparency as chunks of the PNG.
        Image.fromarray(np.asarray(image)).save(stream, "PNG")
        return stream.getvalue()


def is_grey_mode(image: Image.Image) -> bool:
    """Tell whether an image is grey by its mode; a palette counts as colour."""
    return image.mode in ("1", "L", "LA")
