import builtins
import io
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from glow.data.prepare import source as source_module
from glow.data.prepare.decoding import ImageError, decode
from glow.data.prepare.source import arrange
from glow.data.prepare.sources import open_source


def picture(height=5, width=7, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(array_or_image, fmt="PNG", **options):
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


def make_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return str(path)


def make_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def make_folder(path, members):
    for name, data in members.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return str(path)


MAKERS = {"folder": make_folder, "zip": make_zip, "tar": make_tar}


def png_header(width, height):
    """The beginning of a PNG that claims a size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


# --- names and labels


@pytest.mark.parametrize(
    ("members", "names", "labels"),
    [
        (["b.png", "a.JPEG"], ["a.JPEG", "b.png"], None),
        (["cat/1.png", "dog/1.png"], ["cat/1.png", "dog/1.png"], ["cat", "dog"]),
        (["cat/sub/1.png", "dog/1.png"], ["cat/sub/1.png", "dog/1.png"], ["cat", "dog"]),
        (["top/cat/1.png", "top/dog/1.png"], ["cat/1.png", "dog/1.png"], ["cat", "dog"]),
        (["./top/cat/1.png", "./top/dog/1.png"], ["cat/1.png", "dog/1.png"], ["cat", "dog"]),
        (["top/2.png", "top/1.png"], ["1.png", "2.png"], None),
        (["1.png", ".2.png", ".x/3.png", "__MACOSX/4.png", "notes.txt", "5.png.txt"], ["1.png"], None),
    ],
)
def test_one_rule_gives_names_and_labels(members, names, labels):
    assert arrange("it", members, top=1)[1:] == (names, labels)


def test_one_folder_is_a_class_in_a_folder_and_the_top_of_an_archive():
    members = ["cat/1.png", "cat/2.png"]
    assert arrange("it", members, top=2)[1:] == (members, ["cat", "cat"])
    assert arrange("it", members, top=1)[1:] == (["1.png", "2.png"], None)


@pytest.mark.parametrize("members", [["cat/1.png", "2.png"], ["top/cat/1.png", "top/2.png"]])
def test_images_within_and_without_class_folders_are_refused(members):
    with pytest.raises(ValueError, match=r"^it: some images lie in class folders, but (top/)?2\.png does not"):
        arrange("it", members, top=1)


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_of_source_gives_the_same_images(tmp_path, kind):
    pictures = {"dog/b.png": picture(seed=1), "cat/a.png": picture(seed=2), "dog/a.png": picture(seed=3)}
    members = {f"top/{name}": encoded(array) for name, array in pictures.items()} | {"top/.DS_Store": b"x"}
    source = open_source(MAKERS[kind](tmp_path / "source", members))
    assert source.names == ["cat/a.png", "dog/a.png", "dog/b.png"]
    assert source.labels == ["cat", "dog", "dog"]
    source.load(0)  # with its archive open
    copy = pickle.loads(pickle.dumps(source))
    for one in (source, copy):
        for index, name in enumerate(source.names):
            np.testing.assert_array_equal(np.asarray(one.load(index)), pictures[name])


def test_folder_follows_links_and_ends(tmp_path):
    make_folder(tmp_path / "elsewhere", {"1.png": encoded(picture())})
    make_folder(tmp_path / "source", {"dog/1.png": encoded(picture())})
    (tmp_path / "source" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "source" / "dog" / "loop").symlink_to(tmp_path / "source")
    assert open_source(str(tmp_path / "source")).names == ["cat/1.png", "dog/1.png"]


# --- sources that cannot be used


@pytest.mark.parametrize("kind", MAKERS)
def test_source_without_images_is_refused(tmp_path, kind):
    path = MAKERS[kind](tmp_path / "nothing", {"readme.txt": b"no images"})
    with pytest.raises(ValueError, match=r"nothing: holds no images"):
        open_source(path)


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("member", ["../evil.png", "/etc/evil.png", "a/../../evil.txt", "..\\evil.png", "C:\\evil.png"])
def test_path_traversal_is_refused(tmp_path, make, member):
    path = make(tmp_path / "archive", {"good.png": encoded(picture()), member: encoded(picture())})
    with pytest.raises(ValueError, match=r"archive: refused: member .*evil.* \(path traversal\)"):
        open_source(path)


def test_compressed_tar_is_refused_with_advice(tmp_path):
    path = make_tar(tmp_path / "images.tar.gz", {"a.png": encoded(picture())}, mode="w:gz")
    with pytest.raises(ValueError, match=r"images.tar.gz: compressed with gzip.*decompress it"):
        open_source(path)


def test_tar_with_a_link_is_refused(tmp_path):
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ValueError, match=r"images.tar: member 'link.png' is a link"):
        open_source(str(path))


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_cut_archive_is_refused(tmp_path, make):
    path = tmp_path / "archive"
    make(path, {f"{index}.png": encoded(picture(50, 50)) for index in range(3)})
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ValueError, match=r"archive: .*damaged"):
        open_source(str(path))


def test_missing_and_unknown_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder, zip or tar"):
        open_source(str(tmp_path / "nowhere"))
    (tmp_path / "text").write_text("hello " * 500)
    with pytest.raises(ValueError, match="text: not a folder, a zip or a tar"):
        open_source(str(tmp_path / "text"))


# --- images that cannot be used


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"])
def test_truncated_image_is_refused_by_name(tmp_path, kind, fmt):
    data = encoded(picture(40, 40), fmt)
    source = open_source(MAKERS[kind](tmp_path / "source", {f"cut.{fmt.lower()}": data[: len(data) * 2 // 3]}))
    with pytest.raises(ImageError, match=rf"source/cut.{fmt.lower()}: "):
        source.load(0)


@pytest.mark.parametrize("data", [b"", b"not an image at all", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_other_content_is_refused_without_an_address_in_the_message(data):
    with pytest.raises(ImageError, match=r"^x.png: not an image in one of the formats [A-Z, ]+$"):
        decode("x.png", data)


@pytest.mark.parametrize("side", [10_000, 20_000])  # 1.1 and 4.5 times Pillow's limit: it warns, it raises
def test_decompression_bomb_is_refused_before_it_is_decoded(side):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a process that does not run under pytest
        with pytest.raises(ImageError, match=r"bomb.png: refused as a possible decompression bomb"):
            decode("bomb.png", png_header(side, side))


@pytest.mark.parametrize("kind", MAKERS)
def test_file_of_absurd_size_is_refused_before_it_is_read(tmp_path, kind, monkeypatch):
    source = open_source(MAKERS[kind](tmp_path / "source", {"huge.png": bytes(10_000)}))
    monkeypatch.setattr(source_module, "MAX_FILE_BYTES", 9_999)
    with pytest.raises(ImageError, match=r"source/huge.png: has 10000 bytes uncompressed; at most 9999 are read"):
        source.load(0)


def test_damaged_zip_member_is_refused_by_name(tmp_path):
    path = tmp_path / "images.zip"
    data = encoded(picture(50, 50))
    make_zip(path, {"a.png": data})
    content = bytearray(path.read_bytes())
    content[1000] ^= 255
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"images.zip/a.png: cannot be read: Bad CRC-32"):
        open_source(str(path)).load(0)


def test_sixteen_bit_and_float_images_are_refused_by_mode():
    deep = Image.fromarray(np.zeros((4, 4), np.uint16))
    with pytest.raises(ImageError, match=r"deep.png: has mode I;16"):
        decode("deep.png", encoded(deep))
    with pytest.raises(ImageError, match=r"float.tif: has mode F"):
        decode("float.tif", encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"))
    # Pillow cannot write 16-bit RGB; it reads it as 8 bits.
    header, data = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0), zlib.compress(bytes(7))
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    with pytest.raises(ImageError, match=r"rgb16.png: has mode RGB \(stored as RGB;16B\)"):
        decode("rgb16.png", png)


def test_exif_orientation_is_applied():
    image = Image.fromarray(picture(4, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    upright = decode("x.png", encoded(image, exif=exif))
    np.testing.assert_array_equal(np.asarray(upright), np.rot90(picture(4, 6), -1))


def test_image_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ImageError("a.png", "is bad")))
    assert (str(error), error.name, error.reason) == ("a.png: is bad", "a.png", "is bad")


# --- digits and torchvision


def test_digits_reduce_to_their_own_levels():
    from sklearn.datasets import load_digits

    source = open_source("digits")
    assert len(source.names) == 1797
    assert source.labels[:3] == ["0", "1", "2"]
    for index in (0, 5, 1796):
        stored = np.asarray(source.load(index))
        assert stored.dtype == np.uint8
        np.testing.assert_array_equal(stored // 16, np.minimum(load_digits().images[index], 15))


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    real_import = builtins.__import__

    def no_sklearn(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_sklearn)
    with pytest.raises(ValueError, match=r"pip install 'glow\[demo\]'"):
        open_source("digits")


@pytest.fixture
def datasets(monkeypatch):
    from torchvision import datasets

    class Small(datasets.FakeData):
        def __init__(self, root, split="train", **kwargs):
            super().__init__(size={"train": 6, "test": 4}[split], image_size=(3, 5, 7), num_classes=3, **kwargs)
            self.y = [7] * len(self)  # has the name that other data sets give their targets

    class Boxes(datasets.VisionDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return np.zeros((3, 4, 4)), 0

    monkeypatch.setattr(datasets, "Small", Small, raising=False)
    monkeypatch.setattr(datasets, "Boxes", Boxes, raising=False)
    return datasets


def test_torchvision_data_set_gives_its_images_and_labels(datasets):
    source = open_source("torchvision:Small")
    assert len(source.names) == 6
    assert source.names[0] == "Small/000000"
    expected = datasets.Small("")
    assert source.labels == [str(expected[index][1]) for index in range(6)]
    for one in (source, pickle.loads(pickle.dumps(source))):
        np.testing.assert_array_equal(np.asarray(one.load(3)), np.asarray(expected[3][0]))
    assert len(open_source("torchvision:Small:test").names) == 4


def test_torchvision_reads_an_idx_file_on_disk(tmp_path):
    """MNIST as it lies on disk after a download, with two images: split, targets and class names are found."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.arange(2 * 28 * 28).reshape(2, 28, 28).astype(np.uint8)
    for split, labels in [("train", [1, 3]), ("t10k", [7, 2])]:
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 2, 28, 28) + pixels.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 2) + bytes(labels))
    source = open_source("torchvision:MNIST:test", str(tmp_path))
    assert source.labels == ["7 - seven", "2 - two"]
    np.testing.assert_array_equal(np.asarray(source.load(1)), pixels[1])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:CIFAR1", "torchvision.datasets has no image data set 'CIFAR1'"),
        ("torchvision:VisionDataset:x", "unknown split 'x'"),
        ("torchvision:vision", "has no image data set 'vision'"),
        ("torchvision:Boxes", "not a data set of \\(image, target\\) pairs"),
        ("torchvision:CIFAR10:dev", "unknown split 'dev'; CIFAR10 has train and test"),
        ("torchvision:CocoDetection", "CocoDetection needs annFile"),
        ("torchvision:EMNIST", "EMNIST needs split; add :SPLIT"),
        ("torchvision:CIFAR10", "Dataset not found.*--download true lets torchvision fetch it"),
    ],
)
def test_torchvision_errors_are_one_line(datasets, tmp_path, spec, message):
    with pytest.raises(ValueError, match=f"{spec}: .*{message}") as caught:
        open_source(spec, str(tmp_path))
    assert "\n" not in str(caught.value)
