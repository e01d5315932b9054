"""Files of strangers: every one is a value, or an error of one line, in no time and in little memory."""

import os
import socket
import time

import pytest

from glow.files.limits import Limit
from glow.files.reading import parse_json, parse_yaml, read_file

SMALL = Limit("GLOW_MAX_SMALL", 100, "bytes")


@pytest.fixture
def things(tmp_path):
    """What may stand in place of a file."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("link")
    (tmp_path / "dangling").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(10**12)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        yield tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "no such file"),
        ("dangling", "no such file"),
        ("large/below", "no such file"),
        ("directory", "not a file"),
        ("pipe", "not a file"),
        ("socket", "not a file"),
        ("link", "not a file, but a link to itself"),
        ("large", "1,000,000,000,000 bytes, but 100 are the limit; set GLOW_MAX_SMALL to allow more"),
    ],
)
def test_what_is_no_file_of_fitting_size_is_an_error(things, name, message):
    with pytest.raises(ValueError, match=f"{name}: {message}$"):
        read_file(things / name, SMALL)


def test_limit_can_be_raised(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(bytes(200))
    monkeypatch.setenv("GLOW_MAX_SMALL", "200")
    assert read_file(tmp_path / "a", SMALL) == bytes(200)
    for text in ("many", "-1", "", "9" * 5000):
        monkeypatch.setenv("GLOW_MAX_SMALL", text)
        with pytest.raises(ValueError, match=r"^GLOW_MAX_SMALL: .* is not allowed; give a whole number"):
            read_file(tmp_path / "a", SMALL)


def test_json_and_yaml_are_read():
    assert parse_json(b'{"a": [1, null, 1.5]}', "x") == {"a": [1, None, 1.5]}
    assert parse_yaml(b"a: [1, null, 1.5]", "x") == {"a": [1, None, 1.5]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"{", "Expecting property name"),
        (b"", "Expecting value"),
        (b"\xff\xff", "decode"),
        (b"9" * 5000, "digits"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "key 'b' is given twice"),
    ],
)
def test_json_that_is_damaged_or_hostile_is_an_error(content, message):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=f"^state: not readable JSON: .*{message}"):
        parse_json(content, "state")
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &a [1]\nb: *a", "aliases"),
        ("a: &a {<<: *a}", "aliases"),
        ("[" * 100_000, "nested too deeply"),
        ("{a: " * 100_000, "nested too deeply"),
        ("- " * 100_000, "nested too deeply"),
        ("a: 1\nb: {c: 1, c: 2}", "key 'c' is given twice"),
        ("".join(f"{n}:\n" for n in range(2_000)) + "7:", "key '7' is given twice"),
        ("? [1]\n: 2", "unhashable key|is given twice"),
        ("a: !!python/object/apply:os.getpid []", "could not determine a constructor"),
        ("a: !!timestamp x", ""),
        ("a: 2026-13-45", "month must be in"),
        ("a: !!binary é", ""),
        ("a: !!int x", "invalid literal"),
        ("a: !!float ''", ""),
        ("a: !!bool 3", ""),
        ("a: !!omap 3", ""),
        ("a: " + "9" * 5000, "digits"),
        ("a: [", "expected"),
        ("a: 1\n---\nb: 2", "another document"),
        (b"\xff\xfe\xff", ""),
        ("a: \x07", "special characters"),
    ],
)
def test_yaml_that_is_damaged_or_hostile_is_an_error(content, message):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=rf"^config(, line \d+)?: not readable YAML: .*({message})"):
        parse_yaml(content, "config")
    assert time.perf_counter() - start < 1
