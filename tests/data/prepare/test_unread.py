"""What a source holds and prepare does not read is counted in one line; nothing is dropped in silence."""

import inspect
import io
import os
import sys
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import MAKERS, encoded, make_folder, make_tar, make_zip, picture
from PIL import Image

from glow.data.images.decoding import ImageError
from glow.data.prepare.base import describe_unread
from glow.data.prepare.sources import open_source
from glow.data.prepare.writer import prepare


@pytest.mark.parametrize("kind", MAKERS)
def test_files_of_other_kinds_are_counted_in_one_line(tmp_path, kind):
    members = {"a.png": encoded(picture()), "b.HEIC": b"x", "c.heic": b"x", "d.avif": b"x", "README": b"x"}
    with pytest.warns(UserWarning, match="beside 1 images") as warned:
        open_source(MAKERS[kind](tmp_path / "source", members))
    (warning,) = warned
    assert str(warning.message).startswith(f"{tmp_path}/source: beside 1 images, these files are not read: 2 .heic, ")
    assert all(part in str(warning.message) for part in (", 1 .avif", ", 1 others"))


def test_what_lies_beside_the_images_of_a_tar_is_named(tmp_path):
    members = {f"{i}.{ext}": encoded(picture(i)) for i in range(3) for ext in ("png", "json", "txt")}
    with pytest.warns(UserWarning, match=r"not read: 3 \.json, 3 \.txt; .*labels .* class folders"):
        open_source(make_tar(tmp_path / "shard.tar", members))


def test_source_of_other_kinds_alone_says_which(tmp_path):
    with pytest.raises(ValueError, match=r"holds no images \(.*\), but 2 \.rar"):
        open_source(make_folder(tmp_path / "shards", {"0.rar": b"x", "1.rar": b"x"}))


def test_number_of_kinds_is_bounded_and_what_the_system_writes_does_not_count():
    many = [f"{i}.kind{i}" for i in range(20)]
    assert describe_unread(many).endswith(", 14 more")
    assert describe_unread([".DS_Store", "x/.git/config", "__MACOSX/a.png", "x/._a.png", "a.png"]) == ""
    assert describe_unread([".thumbnails/a.png", ".b.jpg"]) == "2 hidden images"
    assert describe_unread(["a.\x1b[31m", "b.\n"]) == "2 others"


def pages(fmt, count=3, **options):
    """An image file of some pages."""
    frames = [Image.fromarray(picture(seed)) for seed in range(count)]
    return encoded(frames[0], fmt, save_all=True, append_images=frames[1:], **options)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_further_pages_are_counted_in_one_line(pets, tmp_path, num_workers):
    files = {f"{fmt.lower()}{i}.{fmt}": pages(fmt, i) for fmt in ("TIFF", "GIF", "PNG", "WEBP") for i in (1, 2, 3)}
    files["phone.jpg"] = pages("MPO", 2)
    exif = Image.Exif()
    exif[0x0112] = 6
    files["turned.png"] = encoded(Image.fromarray(picture(0, 6, 4)), exif=exif)
    run = replace(pets, source=[make_folder(tmp_path / "pages", files)], num_workers=num_workers, shard_size=4)
    with pytest.warns(UserWarning, match=r"^9 images have several pages or frames; the first .*; one is .*/pages/"):
        prepare(run)


def test_single_pages_are_no_warning(pets):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(pets)


def test_backslashes_in_a_zip_are_folders(tmp_path):
    pictures = {"top\\cat\\1.png": picture(1), "top\\dog\\1.png": picture(2), "top\\dog\\": None}
    members = {name: b"" if array is None else encoded(array) for name, array in pictures.items()}
    hidden = {"top\\__MACOSX\\cat\\1.png": b"x", "top\\.x\\2.png": b"x"}
    with pytest.warns(UserWarning, match="not read: 1 hidden images"):
        source = open_source(make_zip(tmp_path / "windows.zip", members | hidden))
    assert (source.names, source.labels) == (["cat/1.png", "dog/1.png"], ["cat", "dog"])
    np.testing.assert_array_equal(np.asarray(source.load(1)), picture(2))


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["fifo", "device"])
def test_pipe_and_device_in_a_folder_do_not_hang(pets, make):
    make(Path(pets.source[0]) / "cat" / "zz.png")
    with pytest.raises(ImageError, match=r"cat/zz\.png: not a file, but a pipe, a socket or a device"):
        prepare(pets)
    assert len(prepare(replace(pets, on_error="skip")).left_out) == 1


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="os.walk does not call itself since Python 3.12")
def test_folders_nested_too_deeply_are_refused(tmp_path):
    """Below the limit of the interpreter; a folder of the real depth could not be removed afterwards."""
    deep = tmp_path / "/".join("d" * 60)
    deep.mkdir(parents=True)
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack()) + 60)
        with pytest.raises(ValueError, match="its folders are nested too deeply"):
            open_source(str(tmp_path))
    finally:
        sys.setrecursionlimit(limit)


def test_long_paths_in_an_archive_take_no_time(tmp_path):
    deep = "d/" * 15_000
    source = open_source(make_zip(tmp_path / "deep.zip", {f"{deep}{i}.png": b"" for i in range(50)}))
    assert source.names == sorted(f"{i}.png" for i in range(50))


def tar_bytes(tmp_path):
    """A tar of three images, and where the second begins."""
    path = make_tar(tmp_path / "images.tar", {f"{i}.png": encoded(picture(i)) for i in range(3)})
    with tarfile.open(path) as tar:
        return Path(path), tar.getmembers()[1].offset


def test_damaged_header_within_a_tar_is_not_its_end(tmp_path):
    path, second = tar_bytes(tmp_path)
    content = bytearray(path.read_bytes())
    content[second + 5] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"images\.tar: .*damaged: no member begins at byte {second}"):
        open_source(str(path))


def test_tars_that_were_joined_are_named(tmp_path):
    path, _ = tar_bytes(tmp_path)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.warns(UserWarning, match=r"images\.tar: what follows the end mark of this tar is not read"):
        assert len(open_source(str(path)).paths) == 3


def test_tar_whose_members_run_backwards_ends(tmp_path):
    """Python's tarfile goes round in circles at a negative size."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("a.png", "b.png"):
            info = tarfile.TarInfo(name)
            info.pax_headers = {"size": "-2048"} if name == "b.png" else {}
            tar.addfile(info)
    (tmp_path / "loop.tar").write_bytes(stream.getvalue())
    with pytest.raises(ValueError, match=r"loop\.tar: .*damaged"):
        open_source(str(tmp_path / "loop.tar"))


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_damaged_archive_is_one_line_or_is_read(tmp_path, make):
    path = Path(make(tmp_path / "archive", {f"{i}.png": encoded(picture(i)) for i in range(3)}))
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        for place in rng.integers(len(content), size=rng.integers(1, 9)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged[: int(rng.integers(1, len(content)))] if rng.random() < 0.3 else damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                source = open_source(str(path))
                for index in range(len(source.paths)):
                    source.load(index)
            except ValueError as error:
                assert "archive" in str(error)  # noqa: PT017


def test_full_disk_names_the_file(pets):
    """/dev/full takes nothing."""
    from glow.data.prepare.shards import ShardWriter

    opened = ShardWriter.write

    def write(self, split, number):
        (self.directory / f"{split}-{number:05d}.tar").symlink_to("/dev/full")
        return opened(self, split, number)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ShardWriter, "write", write)
        with pytest.raises(OSError, match=r"train-00000\.tar: cannot be written: No space left on device"):
            prepare(pets)
    assert list(Path(pets.output).parent.iterdir()) == []
