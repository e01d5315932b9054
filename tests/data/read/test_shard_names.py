"""The names of shards, and how slow a server may be."""

import time

import pytest

from glow.data.read import remote
from glow.data.read.remote import open_remote
from glow.data.read.shard_names import shard_names


def test_patterns_that_are_joined_add_up():
    names = shard_names("x{0000..9999}.tar::y{0000..9999}.tar")
    assert (len(names), names[0], names[-1]) == (20_000, "x0000.tar", "y9999.tar")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("x{00000..09999}.tar::x00000.tar", r"names x00000\.tar twice"),
        ("{a,b}" * 26 + ".tar", "names more than 1,000,000 shards"),
        ("x{0..999}{0..999}{a,b}.tar", "names more than 1,000,000 shards"),
    ],
)
def test_too_many_names_or_one_twice_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        shard_names(spec)


def test_a_stream_that_drips_ends(monkeypatch):
    class Drip:
        def read(self, size):
            time.sleep(0.03)
            return b"x"

        def close(self):
            pass

    monkeypatch.setattr(remote, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(remote, "_request", lambda location, headers: Drip())
    stream = open_remote("http://server/x.tar")
    with pytest.raises(ValueError, match=r"http://server/x\.tar: too slow: \d+ bytes"):
        list(iter(lambda: stream.read(1000), b""))
