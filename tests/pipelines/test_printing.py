"""What a stage prints: escaped where it is not printable, and no reason to fail where nobody reads it."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from glow.cli import parse_config, run_stage
from glow.cli.streams import escape
from glow.config import PrepareRun, TrainRun
from glow.files.writing import to_utf8


def run(code, command="{python} -c {code}", **environment):
    """Run a stage of a few lines, in the shell."""
    code = f"from glow.cli import run_stage\nimport os, sys, warnings\ndef main():\n    {code}\nrun_stage(main)"
    script = command.format(python=sys.executable, code='"$CODE"')
    return subprocess.run(
        ["bash", "-c", script], env=os.environ | {"CODE": code} | environment, capture_output=True, check=False
    )


ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("Käse 茶", "Käse 茶"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x9b\u202e\u2028", r"\x9b\u202e\u2028"),
        ("K\udce4se", r"K\xe4se"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_is_not_printable_is_escaped(text, printed):
    assert escape(text) == printed


def test_ascii_locale_ends_with_status_0_and_escapes():
    done = run("print('5 \\xb1 1, K\\udce4se')\n    print('\\u8336', file=sys.stderr)", **ASCII)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"5 \\xb1 1, K\\xe4se\n", b"\\u8336\n")


def test_terminal_gets_no_control_characters_of_names():
    done = run("print('a\\x1b[2J\\rb\\tc\\nd')\n    print('\\x1b[Abar\\r\\x1b[31m', file=sys.stderr)")
    assert done.stdout == b"a\\x1b[2J\\rb\tc\nd\n"
    assert done.stderr == b"\x1b[Abar\r\\x1b[31m\n"  # what progress bars use is kept
    done = run("raise ValueError('a\\x1b[2J\\nb')")
    assert (done.returncode, done.stderr) == (1, b"error: a\\x1b[2J b\n")


@pytest.mark.parametrize(
    "redirection", ["| true", "2>&1 >/dev/null | true", ">&-", "2>&-", ">/dev/full", "2>/dev/full"]
)
def test_lost_reader_is_no_error(redirection, tmp_path):
    done = run(
        "import time; time.sleep(0.3)\n"
        "    for stream in (sys.stdout, sys.stderr):\n"
        "        print('x' * 100_000, file=stream); stream.flush(); print('more', file=stream)\n"
        "    os.system('echo child')\n"
        f"    open({str(tmp_path / 'result')!r}, 'w').write('whole')",
        "set -o pipefail; {python} -c {code} " + redirection,
    )
    assert done.returncode == 0, done.stderr
    assert b"Error" not in done.stderr
    assert (tmp_path / "result").read_text() == "whole"


def test_warnings_of_others_do_not_reach_the_user():
    code = (
        "warnings.warn('mine,\\n in two lines')\n"
        "    warnings.warn_explicit('of a library', UserWarning, 'x.py', 1, module='torch.utils.data')"
    )
    assert run(code).stderr == b"warning: mine, in two lines\n"
    assert b"of a library" in run(code, PYTHONWARNINGS="always").stderr


def test_error_of_the_system_names_the_file_and_the_reason(capsys):
    def main():
        Path("none.md").read_text()

    with warnings.catch_warnings(), pytest.raises(SystemExit):
        run_stage(main)
    assert capsys.readouterr().err == "error: none.md: No such file or directory\n"


def test_names_that_are_not_utf8_are_options_like_others(tmp_path):
    name = os.fsdecode(b"K\xe4se")
    names = [name, "\x1b\x9b\ufeff", "😀", "[x]", "null"]
    assert parse_config(PrepareRun, ["--source", *names, "--output", name], "prepare").source == names
    with pytest.raises(ValueError, match=r"output: K.se is not allowed; give a name in UTF-8"):
        parse_config(TrainRun, ["--output", name], "train")


def test_files_are_utf8_whatever_a_name_is():
    assert to_utf8("Käse") == to_utf8("K\udcc3\udca4se") == "Käse".encode()
    assert to_utf8("K\udce4se \ud800") in (b"K\\udce4se \\ud800", b"K\\xe4se \\ud800")
    assert to_utf8("K\udce4se") == b"K\\xe4se"
