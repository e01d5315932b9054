"""Pictures of random pixels, encoded, in folders and archives."""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image


def picture(seed=0, height=4, width=6, grey=False):
    """Pixels, uint8 ``[height, width]`` or ``[height, width, 3]``."""
    shape = (height, width) if grey else (height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array_or_image, fmt="PNG", **options):
    """The bytes of an image file."""
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


def key_of(name):
    """The key of the sample of an image file."""
    return name.removesuffix(".png").replace("/", "-")


def make_folder(path, members):
    """Write pictures, or the bytes of files, by name; return the path as text, as all makers do."""
    for name, content in members.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else encoded(content))
    return str(path)


def make_zip(path, members):
    """Write a zip of the bytes of files."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return str(path)


def make_tar(path, members, mode="w"):
    """Write a tar of the bytes of files."""
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


MAKERS = {"folder": make_folder, "zip": make_zip, "tar": make_tar}
