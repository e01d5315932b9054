"""Folders and archives of images: names, labels, and what is refused."""

import pickle
import tarfile

import numpy as np
import pytest
from pictures import MAKERS, encoded, make_folder, make_tar, make_zip, picture

from glow.data.prepare.base import arrange
from glow.data.prepare.sources import open_source


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
    make(path, {f"{index}.png": encoded(picture(height=50, width=50)) for index in range(3)})
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ValueError, match=r"archive: .*damaged"):
        open_source(str(path))


def test_missing_and_unknown_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder, zip or tar"):
        open_source(str(tmp_path / "nowhere"))
    (tmp_path / "text").write_text("hello " * 500)
    with pytest.raises(ValueError, match="text: not a folder, a zip or a tar"):
        open_source(str(tmp_path / "text"))
