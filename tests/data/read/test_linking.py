"""Linking: what is read of shards, and what is kept when it is interrupted."""

import tarfile
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from foreign import photo, write_tar
from test_http import RangeHandler

from glow.config import PrepareRun
from glow.data.prepare import scanning, webshards
from glow.data.prepare.writer import prepare
from glow.data.read.reader import SplitReader
from glow.data.read.samples import SamplesWriter

COUNT = 12


@pytest.fixture
def shards(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOW_DATA_ROOT", str(tmp_path))
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(3):
        images = [(f"{number}{i}.png", photo(10 * number + i, 90, 120, "PNG")) for i in range(4)]
        files = [pair for name, png in images for pair in ((name, png), (f"{name[:2]}.cls", b"1"))]
        write_tar(folder / f"{number}.tar", files)
    return folder


def linked(source, output, **options):
    prepare(PrepareRun([str(source)], str(output), link=True, size=8, num_workers=0, **options))
    return SplitReader(output, "train")


def test_by_headers_the_samples_are_the_same(shards, tmp_path):
    full, headers = (linked(shards, tmp_path / kind, checksum=kind) for kind in ("full", "headers"))
    assert headers.read(range(COUNT)) == full.read(range(COUNT))
    assert headers.split.sha256 != full.split.sha256
    # What is trusted: a byte that changes is not found, another size is.
    path = shards / "0.tar"
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 9] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged or changed since it was indexed"):
        full.read(range(COUNT))
    assert len(headers.read(range(COUNT))) == COUNT
    path.write_bytes(bytes(content) + b"\0")
    with pytest.raises(ValueError, match=r"0\.tar: \d+ bytes, but dataset\.json says"):
        headers.read(range(COUNT))


def test_of_a_server_headers_are_read_by_ranges(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("glow.data.prepare.scanning.BUFFER_BYTES", 1024)
    handler = type("Handler", (RangeHandler,), {"root": shards, "failures": {}, "requested": []})
    asked, read = [], scanning.read_part
    monkeypatch.setattr(scanning, "read_part", lambda *place: asked.append(place[2] - place[1]) or read(*place))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{{0..2}}.tar"
        by_headers = linked(url, tmp_path / "headers", checksum="headers")
        total = sum(path.stat().st_size for path in shards.iterdir())
        assert 0 < sum(asked) < total / 2
        assert by_headers.read(range(COUNT)) == linked(url, tmp_path / "full").read(range(COUNT))
        server.shutdown()


def test_an_interrupted_linking_goes_on(shards, tmp_path, monkeypatch):
    scanned = []
    scan = webshards.scan_shard

    def interrupted(location, *arguments):
        if len(scanned) == 2:
            raise KeyboardInterrupt
        scanned.append(location)
        return scan(location, *arguments)

    monkeypatch.setattr(webshards, "NUM_READERS", 1)
    monkeypatch.setattr(webshards, "scan_shard", interrupted)
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        linked(shards, output)
    assert not output.exists()
    # One of those that were read has changed since.
    path = shards / "0.tar"
    path.write_bytes(path.read_bytes() + bytes(512))
    scanned.clear()
    reader = linked(shards, output)
    assert sorted(scanned) == [str(shards / "0.tar"), str(shards / "2.tar")]
    assert len(reader.read(range(COUNT))) == COUNT
    assert {path.name for path in tmp_path.iterdir()} == {"shards", "out"}


def test_a_kept_scan_that_is_cut_is_made_again(shards, tmp_path, monkeypatch):
    right = linked(shards, tmp_path / "right").read(range(COUNT))
    kept = webshards.keep_scan

    def keep_and_cut(path, scan):
        kept(path, scan)
        path.write_bytes(path.read_bytes()[:-40])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(webshards, "keep_scan", keep_and_cut)
        with pytest.raises(KeyboardInterrupt):
            linked(shards, tmp_path / "out")
    assert linked(shards, tmp_path / "out").read(range(COUNT)) == right


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="checksum: 'headers' is not allowed; give full, or set link"):
        PrepareRun(["x"], "y", checksum="headers")
    with pytest.raises(ValueError, match="checksum: 'headers' is not allowed; with short_side give full"):
        PrepareRun(["x"], "y", link=True, short_side=8, checksum="headers")


def sparse(path, name, size, magic=b""):
    """A tar of one member that takes no room on the disk."""
    with path.open("wb") as file:
        info = tarfile.TarInfo(name)
        info.size = size
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.write(magic)
        file.truncate(tarfile.BLOCKSIZE + size + 2 * tarfile.BLOCKSIZE)
    return path


@pytest.mark.parametrize("checksum", ["full", "headers"])
@pytest.mark.parametrize("size", [3 * 10**9, 5 * 10**9])
def test_images_that_could_not_be_read_are_not_linked(tmp_path, checksum, size):
    path = sparse(tmp_path / "a.tar", "a.jpg", size)
    with pytest.raises(ValueError, match=rf"a\.tar: a\.jpg: has {size} bytes uncompressed; at most \d+ are read"):
        linked(path, tmp_path / "out", checksum=checksum)


def test_empty_images_and_shards_without_images_are_not_linked(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("x.png", photo(0, kind="PNG")), ("z.jpg", b"")])
    with pytest.raises(ValueError, match=r"a\.tar: z\.jpg: has no bytes"):
        linked(path, tmp_path / "out")
    path = write_tar(tmp_path / "b.tar", [("x.txt", b"text")])
    with pytest.raises(ValueError, match=r"b\.tar: holds no images"):
        linked(path, tmp_path / "out")


def test_hidden_files_and_files_without_an_extension_are_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOW_DATA_ROOT", str(tmp_path))
    png = photo(0, 8, 8, "PNG")
    files = [("a/x.png", png), ("a/._x.jpg", b"mac"), ("nodot", b"1"), (".jpg", png)]
    with pytest.warns(UserWarning, match="beside 1 images, these files are not read: 2 hidden, 1 without an extension"):
        assert linked(write_tar(tmp_path / "a.tar", files), tmp_path / "out").keys() == ["a-x"]


def test_headers_of_any_length_are_not_read(tmp_path):
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 3 * 10**9
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(4 * 10**9)
    with pytest.raises(ValueError, match=r"a\.tar: .* damaged: a header of 3000000000 bytes"):
        linked(path, tmp_path / "out")


def test_a_member_far_outside_is_one_line_that_names_the_tar(tmp_path):
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("x.png")
    info.size = 2**62
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(ValueError, match=r"a\.tar: "):
        linked(path, tmp_path / "out")


def test_a_folder_stays_a_source_when_it_was_linked_in_place(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOW_DATA_ROOT", str(tmp_path))
    folder = tmp_path / "shards"
    folder.mkdir()
    write_tar(folder / "a.tar", [(f"{i}.png", photo(i, 8, 8, "PNG")) for i in range(3)])
    assert len(linked(folder, folder)) == len(linked(folder, tmp_path / "out")) == 3


def test_a_full_disk_names_the_index(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "glow.data.prepare.linking.SamplesWriter", lambda path, form: SamplesWriter(Path("/dev/full"), form)
    )
    with pytest.raises(OSError, match="/dev/full: cannot be written: No space left on device"):
        linked(shards, tmp_path / "out")
