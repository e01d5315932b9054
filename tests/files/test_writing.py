"""Files appear when they are whole."""

import contextlib
import errno
import os
import stat
from pathlib import Path

import pytest

from glow.files.writing import sync, write_together, write_whole


def test_file_is_written_beside_its_place_and_renamed(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, "ä")
    write_whole(path, b"b")
    assert path.read_bytes() == b"b"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_file_that_cannot_be_written_stays_as_it_was_and_is_named(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, "old")
    (tmp_path / "a.json.partial").mkdir()
    with pytest.raises(OSError, match=r"a\.json: cannot be written: Is a directory"):
        write_whole(path, "new")
    assert path.read_text() == "old"


def test_files_that_belong_together_are_of_one_time(tmp_path, monkeypatch):
    """The last one vouches for the others: it is gone from the first new file on until all are there."""
    old = {tmp_path / "rows.csv": "old rows", tmp_path / "sum.json": "old sum"}
    new = {tmp_path / "rows.csv": "new rows", tmp_path / "sum.json": "new sum"}
    write_together(old)
    (tmp_path / "sum.json.partial").mkdir()
    with pytest.raises(OSError, match=r"sum\.json: cannot be written: Is a directory"):
        write_together(new)
    assert {path: path.read_text() for path in old} == old
    (tmp_path / "sum.json.partial").rmdir()

    def killed(self, target):
        if self.name == "sum.json.partial":
            raise KeyboardInterrupt
        return replace(self, target)

    replace = Path.replace
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_together(new)
    assert not (tmp_path / "sum.json").exists()
    monkeypatch.setattr(Path, "replace", replace)
    write_together(new)
    assert {path: path.read_text() for path in new} == new
    assert len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize(
    ("number", "outcome"),
    [(errno.EINVAL, contextlib.nullcontext()), (errno.EIO, pytest.raises(OSError, match="Input"))],
)
def test_a_file_system_that_cannot_wait_for_a_directory_is_no_error(tmp_path, monkeypatch, number, outcome):
    fsync = os.fsync

    def fail(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    (tmp_path / "file").touch()
    sync(tmp_path / "file")
    with outcome:
        sync(tmp_path)
