"""How far a long work is: lines at growing intervals where there is no terminal."""

import io
import sys

import pytest

from glow import console
from glow.console import Progress, track


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests move by hand."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_is_a_line_at_intervals_that_grow_to_30_s(clock, capsys):
    with Progress(1000, "step", initial=100, rated=("image", 64)) as progress:
        for _ in range(200):
            clock[0] += 1
            progress.update(note="2.500 bits/dim")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "step 102/1000: 2.500 bits/dim, 64 images/s, 14:58 left"
    steps = [int(line.split()[1].partition("/")[0]) for line in lines]
    assert steps == [102, 106, 114, 130, 160, 190, 220, 250, 280]


def test_items_are_counted_and_the_work_has_a_title(clock, capsys):
    for _ in track(range(5), 5, "batch", "Gaussian"):
        clock[0] += 4
    assert capsys.readouterr().err.splitlines()[0] == "Gaussian batch 1/5: 0.25 batches/s, 00:16 left"
    with Progress(None, "round", "coupling") as rounds:
        clock[0] += 2
        rounds.update(100)
    assert capsys.readouterr().err == "coupling round 100: 50 rounds/s\n"


def test_other_processes_show_nothing(clock, capsys):
    for _ in track(range(5), 5, "image", is_shown=False):
        clock[0] += 100
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_a_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(2, "step") as progress:
        progress.update(2, note="1.234 bits/dim")
        progress.print("a line")
    assert "2/2" in terminal.getvalue()
    assert "1.234 bits/dim" in terminal.getvalue()
