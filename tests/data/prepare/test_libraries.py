"""Images that come with a library: scikit-learn's digits, and torchvision's data sets."""

import builtins
import pickle
import struct

import numpy as np
import pytest

from glow.data.prepare.sources import open_source


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
    with pytest.raises(ValueError, match=r"pip install 'glow-flows\[demo\]'"):
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
