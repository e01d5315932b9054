"""Servers that send too much, too little, too slowly, or something else: one line, soon, and without taking memory."""

import resource
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from glow.data.read import files, remote
from glow.files.limits import Limit

LIMIT = Limit("GLOW_MAX_JSON_BYTES", 2**20, "bytes")


class Hostile(BaseHTTPRequestHandler):
    """Misbehaves in the way that the path names."""

    def do_GET(self):
        kind = self.path[1:]
        status = 206 if "Range" in self.headers else 200
        if kind.startswith("redirect-"):
            self.send_response(302)
            self.send_header("Location", {"ftp": "ftp://127.0.0.1/x", "file": "file:///etc/passwd"}[kind[9:]])
            self.end_headers()
            return
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", "bytes 7-8/9" if kind == "elsewhere" else "bytes 0-99/1000")
        if kind == "huge":
            self.send_header("Content-Length", str(10**18))
        if kind == "gzip":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        try:
            for _ in range(600):
                self.wfile.write(b"x" if kind == "drip" else bytes(2**20))
                self.wfile.flush()
                if kind == "drip":
                    time.sleep(0.2)
        except OSError:
            pass  # the client has had enough

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as http_server:
        http_server.daemon_threads = True
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(files, "RETRY_DELAYS_S", (0.01,))
    monkeypatch.setattr(remote, "TIMEOUT_S", 1.0)
    remote.fsspec.filesystem("http").clear_instance_cache()


@pytest.mark.parametrize(
    ("kind", "part", "whole"),
    [
        ("endless", r"\d+ bytes, not those that were asked for", r"bytes, but 1,048,576 are the limit"),
        ("huge", r"\d+ bytes, not those that were asked for", r"1,000,000,000,000,000,000 bytes, but 1,048,576"),
        ("drip", r"too slow: \d+ bytes in \d s", r"too slow: \d+ bytes in \d s"),
        ("redirect-ftp", "ftp://127.0.0.1/x", "ftp://127.0.0.1/x"),
        ("redirect-file", "file:///etc/passwd", "file:///etc/passwd"),
        ("gzip", r"compressed by the server \(gzip\)", r"compressed by the server \(gzip\)"),
        ("elsewhere", r"another part of the file .* bytes 7-8/9", r"bytes, but 1,048,576 are the limit"),
    ],
)
def test_answer_is_refused_in_one_line_and_takes_no_memory(server, kind, part, whole):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    location = f"{server}/{kind}"
    for read, message in (
        (lambda: files.read_part(location, 0, 100), part),
        (lambda: files.read_whole(location, LIMIT), whole),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            read()
        assert str(caught.value).startswith(location)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


def test_package_that_a_protocol_needs_is_named(monkeypatch):
    monkeypatch.setattr(remote.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"s3://b/x: s3:// needs the package s3fs: pip install 'glow-flows\[s3\]'"):
        files.read_part("s3://b/x", 0, 1)
