"""Data sets read through commands (``pipe:``): retries, stalls, local copies, and where commands may come from."""

import hashlib
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from conftest import run_ranks
from training_runs import options

from glow.cli import parse_config
from glow.config import EvaluateRun, TrainRun
from glow.data.read import files, pipe
from glow.data.read.batch import Share
from glow.data.read.files import fetch, join, read_part
from glow.data.read.loader import eval_batches
from glow.data.read.reader import SplitReader
from pipelines import evaluate as evaluate_stage
from pipelines import train as train_stage


@pytest.fixture(autouse=True)
def local(tmp_path, monkeypatch):
    """Copies of shards go to a folder of the test; failures are tried twice more, quickly."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(files, "RETRY_DELAYS_S", (0.01, 0.01))
    return tmp_path


@pytest.fixture
def command(dataset, tmp_path):
    """A command that notes every file it is asked for."""
    return f"pipe:echo {{}} >> {tmp_path}/requests; cat {dataset}/{{}}"


def requests(folder: Path) -> list[str]:
    return (folder / "requests").read_text().split()


def test_batches_of_a_command_are_those_of_the_files(dataset, command, tmp_path):
    piped, direct = SplitReader(command, "train"), SplitReader(dataset, "train")
    assert piped.read(range(97)) == direct.read(range(97))
    piped.verify()
    # Each shard is fetched once, whoever reads it and how often.
    assert sum(name.endswith(".tar") for name in requests(tmp_path)) == len(direct.split.shards)
    SplitReader(command, "train").read([0, 50])
    assert sum(name.endswith(".tar") for name in requests(tmp_path)) == len(direct.split.shards)


def read_share(command):
    return len(list(eval_batches(SplitReader(command, "train"), 97, 0, Share())))


def test_processes_of_a_machine_share_their_copies(dataset, command, tmp_path):
    assert run_ranks(read_share, 3, command) == [1, 1, 1]
    shards = [name for name in requests(tmp_path) if name.endswith(".tar")]
    assert sorted(shards) == sorted(set(shards))
    assert len(shards) == 10


def test_failing_command_is_tried_again(dataset, tmp_path):
    flaky = f"pipe:test -e {tmp_path}/second || {{ touch {tmp_path}/second; exit 3; }}; cat {dataset}/{{}}"
    assert json.loads(read_part(join(flaky, "dataset.json"))[0])["name"] == "tiny"


def test_command_that_keeps_failing_is_an_error_that_names_it():
    with pytest.raises(
        ValueError, match=r"^pipe:.* a\.tar: cannot be read, tried 3 times: exit status 7: no such bucket$"
    ):
        read_part(join("pipe:echo no such bucket >&2; exit 7 {}", "a.tar"))


def test_stalling_command_is_ended_with_all_its_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(pipe, "TIMEOUT_S", 0.2)
    start = time.monotonic()
    mark = f"sleep 31.{tmp_path.name.encode().hex()[:6]}"
    with pytest.raises(ValueError, match=r"tried 3 times: no output for 0\.2 s"):
        read_part(join(f"pipe:echo {{}}; {mark} | cat", "x"))
    with pytest.raises(ValueError, match=r"tried 3 times: no end within 0\.2 s"):
        read_part(join(f"pipe:echo {{}}; exec >&-; {mark}", "x"))
    assert time.monotonic() - start < 10
    assert mark not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_cut_output_of_a_command_is_not_taken_for_a_shard(dataset, tmp_path):
    command = f"pipe:head -c $(case {{}} in *.tar) echo 3000;; *) echo 99999;; esac) {dataset}/{{}}"
    reader = SplitReader(command, "test")
    with pytest.raises(ValueError, match=r"test-00000\.tar: cannot be read, tried 3 times: its 3000 bytes do not have"):
        reader.read([0])
    assert not list(tmp_path.glob("glow-*/*.tar"))


def test_names_are_words_of_the_shell_and_commands_need_one():
    assert read_part(join("pipe:printf %s {}", "a b; 'c'"))[0] == b"a b; 'c'"
    with pytest.raises(ValueError, match=r"pipe:cat: the command needs \{\} where"):
        join("pipe:cat", "x")


def test_copies_in_a_folder_of_another_user_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "getuid", lambda: 12345)
    with pytest.raises(ValueError, match="glow-12345: belongs to another user"):
        fetch("pipe:echo {}", "0" * 64, 1)


def test_damaged_copy_is_fetched_again(dataset, command, tmp_path):
    SplitReader(command, "test").read([0])
    (copy,) = tmp_path.glob("glow-*/*.tar")
    copy.write_bytes(b"")
    assert SplitReader(command, "test").read([0]) == SplitReader(dataset, "test").read([0])


def test_no_room_for_copies_is_said_at_once_and_leaves_nothing(dataset, command, tmp_path, monkeypatch):
    def full(location, output):
        output.write(b"some")
        raise OSError(28, "No space left on device")

    reader = SplitReader(command, "test")
    monkeypatch.setattr(pipe, "_run", full)
    with pytest.raises(ValueError, match=r"no room for a copy of pipe:.*; set TMPDIR"):
        reader.read([0])
    assert not list(tmp_path.glob("glow-*/*.partial"))


def test_dead_command_is_given_up_after_the_first_shard(dataset, tmp_path):
    dead = f"pipe:case {{}} in *.tar) echo {{}} >> {tmp_path}/requests; exit 3;; esac; cat {dataset}/{{}}"
    with pytest.raises(ValueError, match="tried 3 times: exit status 3"):
        train_stage.main(options(dead, tmp_path / "run"))
    assert len(requests(tmp_path)) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "x; touch pwned"}, "is not the plain name"),
        ({"path": "-rf"}, "is not the plain name"),
        ({"path": "pipe:touch pwned"}, "is not the plain name"),
        ({"sha256": "../../x"}, "is not a sha256"),
    ],
)
def test_description_of_a_stranger_cannot_run_commands(dataset, tmp_path, change, message):
    shutil.copytree(dataset, tmp_path / "copy")
    path = tmp_path / "copy/dataset.json"
    raw = json.loads(path.read_text())
    raw["splits"]["train"]["shards"][0] |= change
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=message):
        SplitReader(tmp_path / "copy", "train")


def test_command_is_taken_from_the_command_line_alone(tmp_path):
    command = "pipe:cat data/{}"
    assert parse_config(TrainRun, ["--output", "x", "--data.path", command], "train").data.path == command
    assert parse_config(TrainRun, ["--output", "x", f"--data.path={command}"], "train").data.path == command
    assert parse_config(EvaluateRun, ["--checkpoint", "x", "--data", command], "evaluate").data == command
    config = tmp_path / "config.yaml"
    config.write_text(f"output: x\ndata:\n  path: '{command}'\n")
    with pytest.raises(ValueError, match="a command is taken from the command line only"):
        parse_config(TrainRun, ["--config", str(config)], "train")
    assert parse_config(TrainRun, ["--config", str(config), "--data.path", "other"], "train").data.path == "other"


def test_stages_read_through_a_command(dataset, tmp_path):
    command, run = f"pipe:cat {dataset}/{{}}", tmp_path / "run"
    train_stage.main(options(command, run))
    train_stage.main(options(dataset, tmp_path / "direct"))
    state = "checkpoints/step-00000008/model.safetensors"
    digests = {hashlib.sha256((folder / state).read_bytes()).hexdigest() for folder in (run, tmp_path / "direct")}
    assert len(digests) == 1
    evaluate_stage.main(["--checkpoint", str(run), "--data", command, "--baselines", "false"])
    assert json.loads((run / "report/step-00000008-test/bpd.json").read_text())["valid"]
