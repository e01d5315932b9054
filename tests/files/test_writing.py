"""Files appear when they are whole."""

import pytest

from glow.files.writing import write_whole


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
