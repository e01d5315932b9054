"""Decode image files, and bring all images to one shape and colour; an error names the file."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError, features

from glow.config import MAX_PIXELS, PrepareRun
from glow.data.images.metadata import QUARTER_TURNS, orientation, upright, without_metadata
from glow.data.images.png import check_complete, check_pixels

# Pillow tries no other formats. It would pass an EPS file to Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM", "WEBP")
EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm")
)
HAS_PAGES = "has_pages"  # key in the info of a decoded image
MODES = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"))


class ImageError(ValueError):
    """One image cannot be used: ``name`` is the file, ``reason`` says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both as arguments, so that a worker process can send the error
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@contextlib.contextmanager
def image_errors(name: str) -> Iterator[None]:
    """Turn every error of reading and decoding an image into an ImageError with its name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except (ImageError, MemoryError):
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ImageError(name, f"refused as a possible decompression bomb: {error}") from error
        except UnidentifiedImageError as error:  # its own text has a memory address
            raise ImageError(name, f"not an image in one of the formats {', '.join(FORMATS)}") from error
        except Exception as error:  # decoders raise SyntaxError, IndexError, struct.error, ... on damaged files
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(name, f"cannot be read: {reason}") from error


def decode(name: str, data: bytes) -> Image.Image:
    """Decode a whole image file, and turn it as its EXIF orientation says.

    Raises:
        ImageError: when the file is damaged, too large, or has more than 8 bits per channel.
    """
    with image_errors(name):
        try:
            image = _decode_pixels(name, data)
        except (ImageError, MemoryError, Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise
        except Exception:
            bare, exif = without_metadata(data)
            if bare == data:
                raise
            image = _decode_pixels(name, bare)
            image.info["exif"] = exif
        image.info[HAS_PAGES] = has_pages(image, data)
        return upright(image)


def stored_size(data: bytes) -> tuple[int, int] | None:
    """Return height and width of an image file, upright, by its header alone; None if that cannot be read."""
    try:
        with image_errors(""), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            turned = orientation(image) in QUARTER_TURNS
            return (image.width, image.height) if turned else (image.height, image.width)
    except ImageError:
        return None


def scaled_size(height: int, width: int, short_side: int | Literal["keep"]) -> tuple[int, int]:
    """Return the height and width of an image whose shorter side is brought to ``short_side``."""
    if short_side == "keep":
        return height, width
    factor = short_side / min(height, width)
    return max(short_side, round(height * factor)), max(short_side, round(width * factor))


def decoder_version() -> str:
    """Return the programs that decide the pixels of an image: Pillow, and its decoders of JPEG and WebP."""
    versions = [f"Pillow {PIL.__version__}"]
    versions += [f"{name} {features.version(part)}" for name, part in (("JPEG", "jpg"), ("WebP", "webp"))]
    return ", ".join(versions)


def has_pages(image: Image.Image, data: bytes) -> bool:
    """Return whether an image file holds more pages or frames than the one that was decoded."""
    if image.format != "GIF":
        return getattr(image, "is_animated", False)
    try:
        return Image.open(io.BytesIO(data), formats=("GIF",)).is_animated  # type: ignore[attr-defined]
    except Exception:  # damaged behind the first frame
        return True


def _decode_pixels(name: str, data: bytes) -> Image.Image:
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    # Pillow reads 16-bit RGB as mode RGB and drops the low bytes. Only the raw mode of the tiles shows it.
    deep = [tile.args for tile in getattr(image, "tile", ()) if ";16" in str(tile.args)]
    check_mode(name, image, note=f" (stored as {deep[0]})" if deep else "")
    image.load()
    if image.format == "PNG":
        check_pixels(data)
    if image.format == "PNG" and (image.info.get("interlace") or not np.asarray(image)[-1].any()):
        check_complete(data)
    return image


def check_mode(name: str, image: Image.Image, note: str = "") -> None:
    """Raise an ImageError when the channels of an image do not have 8 bits."""
    if image.mode not in MODES or note:
        raise ImageError(name, f"has mode {image.mode}{note}; convert it to 8-bit grey or RGB first")


@dataclass(frozen=True)
class ImageForm:
    """The colour and size of all stored images, and whether images of other size or colour are converted.

    With ``short_side``, images keep their aspect ratio, and height and width mean nothing.
    """

    is_grey: bool
    height: int
    width: int
    resizes: bool
    recolors: bool
    short_side: int | Literal["keep"] | None = None

    @staticmethod
    def of(config: PrepareRun, first: Image.Image) -> ImageForm:
        """Return the form that the options ask for; without an option, the first image decides."""
        is_grey = is_grey_mode(first) if config.color == "keep" else config.color == "grey"
        size = (config.size, config.size) if isinstance(config.size, int) else config.size
        height, width = size or (first.height, first.width)
        recolors = config.color != "keep"
        return ImageForm(is_grey, height, width, size is not None, recolors, config.short_side)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (1 if self.is_grey else 3, self.height, self.width)

    @staticmethod
    def of_shape(shape: tuple[int, int, int], short_side: int | Literal["keep"] | None = None) -> ImageForm:
        """Return the form to which all images are brought: shape ``[C, H, W]``, or its channels and ``short_side``."""
        return ImageForm(shape[0] == 1, *shape[1:], resizes=True, recolors=True, short_side=short_side)

    def pixels(self, name: str, image: Image.Image) -> np.ndarray:
        """Return an image in this form, uint8 ``[C, H, W]``.

        Raises:
            ImageError: as ``apply``.
        """
        array = self.apply(name, image)
        return array.reshape(*array.shape[:2], -1).transpose(2, 0, 1)

    def apply(self, name: str, image: Image.Image) -> np.ndarray:
        """Return an image in this form, uint8 ``[H, W]`` or ``[H, W, 3]``.

        Raises:
            ImageError: when the image has another size or colour, and the options do not convert it.
        """
        if not self.recolors and is_grey_mode(image) != self.is_grey:
            kinds = ("grey", "in colour") if is_grey_mode(image) else ("in colour", "grey")
            raise ImageError(name, f"is {kinds[0]}, the first image is {kinds[1]}; choose --color rgb or --color grey")
        is_other = (image.height, image.width) != (self.height, self.width)
        if is_other and not self.resizes and self.short_side is None:
            raise ImageError(
                name,
                f"is {image.height} x {image.width} (height x width), the first image is {self.height} x {self.width}; "
                "--size brings all images to one size, and --short_side keeps what they show",
            )
        if image.has_transparency_data:  # the colour of transparent pixels is arbitrary
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if self.is_grey else "RGB")
        if self.short_side is not None:
            height, width = scaled_size(image.height, image.width, self.short_side)
            if height * width > MAX_PIXELS:
                raise ImageError(name, f"would be {height} x {width} (height x width); at most {MAX_PIXELS} pixels")
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        elif self.resizes:
            image = ImageOps.fit(image, (self.width, self.height), Image.Resampling.LANCZOS)
        return np.asarray(image)

    def encode(self, name: str, image: Image.Image) -> tuple[bytes, tuple[int, int]]:
        """Return an image in this form as PNG, without the colour profile and transparency that it had; and its size.

        Raises:
            ImageError: as ``apply``.
        """
        stream, array = io.BytesIO(), self.apply(name, image)
        Image.fromarray(array).save(stream, "PNG")
        return stream.getvalue(), (array.shape[0], array.shape[1])


def is_grey_mode(image: Image.Image) -> bool:
    """Return whether the mode of an image is grey; a palette counts as colour."""
    return image.mode in ("1", "L", "LA")
