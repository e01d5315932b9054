"""Data sets read over http, and reads that fail at first."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from batches import same, take

from glow.data.read import files
from glow.data.read.loader import eval_batches
from glow.data.read.reader import SplitReader

parse_request = BaseHTTPRequestHandler.parse_request


class RangeHandler(BaseHTTPRequestHandler):
    """Serves files with ranges; fails first for as many requests as ``failures`` says, by path."""

    root, failures, requested = None, {}, []

    def do_GET(self):
        self.requested.append(self.path)
        file = self.root / self.path.lstrip("/")
        if self.failures.get(self.path, 0) > 0:
            self.failures[self.path] -= 1
            self.send_error(503)
        elif not file.is_file():
            self.send_error(404)
        elif "Range" in self.headers:
            data = file.read_bytes()
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            last = min(last, len(data) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.end_headers()
            self.wfile.write(data[first : last + 1])
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(file.read_bytes())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(dataset, monkeypatch):
    monkeypatch.setattr(files, "RETRY_DELAYS_S", (0.01, 0.01))
    handler = type("Handler", (RangeHandler,), {"root": dataset, "failures": {}, "requested": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}", handler
        http_server.shutdown()
        thread.join()


def test_batches_over_http_are_those_of_the_files(dataset, server):
    url, _ = server
    assert all(same(a, b) for a, b in zip(take(dataset, 12), take(url, 12), strict=True))
    local, remote = (list(eval_batches(SplitReader(place, "test"), 7, 0)) for place in (dataset, url))
    assert all(same(a, b) for a, b in zip(local, remote, strict=True))


def test_parts_of_shards_are_asked_for_at_the_same_time(dataset, server):
    url, handler = server
    together, now, lock = [0], [0], threading.Lock()
    answer = handler.do_GET

    def slowly(self):
        with lock:
            now[0] += 1
            together[0] = max(together[0], now[0])
        time.sleep(0.05)
        answer(self)
        with lock:
            now[0] -= 1

    reader = SplitReader(url, "train")
    handler.do_GET = slowly
    numbers = range(0, 97, 9)  # in ten shards
    assert reader.read(numbers) == SplitReader(dataset, "train").read(numbers)
    assert 3 <= together[0] <= 8


def test_failed_request_is_tried_again(dataset, server):
    url, handler = server
    handler.failures |= {"/dataset.json": 2, "/train-00003.tar": 1}
    assert SplitReader(url, "train").read([33]) == SplitReader(dataset, "train").read([33])
    assert handler.requested.count("/dataset.json") == 3
    assert handler.requested.count("/train-00003.tar") == 2


def test_request_that_keeps_failing_is_an_error_that_names_the_shard(server):
    url, handler = server
    reader = SplitReader(url, "train")
    handler.failures["/train-00003.tar"] = 99
    with pytest.raises(ValueError, match=r"/train-00003\.tar: cannot be read, tried 3 times: HTTP status 503"):
        reader.read([33])
    with pytest.raises(ValueError, match=r"/nothing: not a data set \(no dataset\.json\)"):
        SplitReader(f"{url}/nothing", "train")


def test_failed_local_read_is_tried_again(dataset, monkeypatch):
    monkeypatch.setattr(files, "RETRY_DELAYS_S", (0.01,))
    reader, read, failures = SplitReader(dataset, "train"), files._read_local, [1]

    def flaky(*arguments):
        if failures and failures.pop():
            raise OSError(5, "Input/output error")
        return read(*arguments)

    monkeypatch.setattr(files, "_read_local", flaky)
    assert len(reader.read([0, 1])) == 2


def test_server_without_ranges_is_a_clear_error(dataset, server, monkeypatch):
    url, handler = server
    reader = SplitReader(url, "train")
    monkeypatch.setattr(handler, "headers", {}, raising=False)
    monkeypatch.setattr(handler, "parse_request", lambda self: parse_request(self) and not setattr(self, "headers", {}))
    with pytest.raises(ValueError, match="does not support range requests"):
        reader.read([0])


class OddHandler(BaseHTTPRequestHandler):
    """Answers requests for parts in ways that are allowed, or wrong: by the first word of the path."""

    root = None

    def do_GET(self):
        kind, _, name = self.path[1:].partition("/")
        content = (self.root / name).read_bytes()
        asked = self.headers.get("Range")
        if asked is None:
            self.send_response(200)
        else:
            start, end = (int(word) for word in asked.removeprefix("bytes=").split("-"))
            part = content[start : end + 1]
            self.send_response(206)
            if kind == "size-unknown":
                self.send_header("Content-Range", f"bytes {start}-{end}/*")
            if kind == "short":
                part = part[:-10]
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
            content = part
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def odd_server(dataset, monkeypatch):
    monkeypatch.setattr(files, "RETRY_DELAYS_S", (0.01,))
    handler = type("Handler", (OddHandler,), {"root": dataset})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()
        thread.join()


def test_server_may_leave_the_size_open(dataset, odd_server):
    numbers = range(5, 25)
    assert SplitReader(f"{odd_server}/size-unknown", "train").read(numbers) == SplitReader(dataset, "train").read(
        numbers
    )


@pytest.mark.parametrize(
    ("kind", "message"), [("short", r"\d+ bytes, not those"), ("no-range", "another part of the file")]
)
def test_wrong_answers_of_a_server_are_tried_again_and_name_the_shard(odd_server, kind, message):
    reader = SplitReader(f"{odd_server}/{kind}", "train")
    with pytest.raises(ValueError, match=rf"/train-00000\.tar: cannot be read, tried 2 times: {message}"):
        reader.read([3])
