"""The workers of the data loader: signals, long paths of sockets, and workers that die."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile

import pytest
from torch.utils.data import DataLoader, IterableDataset

from glow.config import DataConfig
from glow.data.read import workers
from glow.data.read.loader import train_batches
from glow.data.read.workers import dead_workers_in_one_line, shorten_socket_paths, start_worker, worker_count


class Stream(IterableDataset):
    """What a function returns in a worker, again and again."""

    def __init__(self, function):
        self.function = function

    def __iter__(self):
        while True:
            yield self.function()


def in_worker(function):
    return next(iter(DataLoader(Stream(function), batch_size=None, num_workers=1, worker_init_fn=start_worker)))


def handlers():
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
    return [signal.getsignal(number) == signal.SIG_IGN for number in numbers]


def test_workers_leave_signals_to_their_training():
    assert in_worker(handlers) == [True] * 4


@pytest.fixture
def long_tmpdir(tmp_path, monkeypatch):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delitem(multiprocessing.process.current_process()._config, "tempdir", raising=False)
    return folder


def test_a_long_tmpdir_is_no_problem(dataset, long_tmpdir):
    batches = train_batches(DataConfig(str(dataset), num_workers=1), 12, 0)
    assert len(next(batches)) == 12
    assert tempfile.gettempdir() == str(long_tmpdir)


def test_a_long_tmpdir_is_one_line_where_there_is_no_other(long_tmpdir, monkeypatch):
    monkeypatch.setattr(workers, "SHORT", "/nowhere")
    with pytest.raises(ValueError, match=r"TMPDIR: .*x is too long for the sockets .* at most 75 bytes, or no workers"):
        shorten_socket_paths()


def cannot_be_sent():
    return lambda: None


@pytest.mark.parametrize("what", [lambda: os.kill(os.getpid(), signal.SIGKILL), cannot_be_sent])
def test_a_dead_worker_is_one_line_at_once(what, capfd):
    with (
        pytest.raises(ValueError, match=r"^data\.num_workers: a worker process died, [^\n]*$"),
        dead_workers_in_one_line(),
    ):
        in_worker(what)
    assert "Traceback" not in capfd.readouterr().err


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="another"), dead_workers_in_one_line():
        raise RuntimeError("another")


def test_there_are_no_more_workers_than_cores_and_images(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert [worker_count(asked, most) for asked, most in [(0, 5), (2, 5), (9, 5), (9, 2)]] == [0, 2, 3, 2]


def test_a_program_ends_though_its_batches_go_on(dataset):
    """Batches in a global variable are still there when Python ends."""
    program = f"""
from glow.config import DataConfig
from glow.data.read.loader import train_batches
batches = train_batches(DataConfig({str(dataset)!r}, num_workers=1), 10, 0)
next(batches)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
