"""Preparing again, after an interruption, or where something else lies already."""

from dataclasses import replace
from multiprocessing import current_process, forkserver
from pathlib import Path

import pytest

from glow.data.prepare.shards import ShardWriter
from glow.data.prepare.writer import prepare
from glow.locking import locked
from pipelines.prepare import main


def contents(directory):
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def test_temporary_directory_may_have_a_long_name(pets, tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    monkeypatch.setattr(current_process(), "_config", current_process()._config | {"tempdir": None})
    monkeypatch.setattr(forkserver, "_forkserver", forkserver.ForkServer())  # none that an earlier test has started
    monkeypatch.setattr(forkserver, "ensure_running", forkserver._forkserver.ensure_running)
    assert prepare(replace(pets, num_workers=2)).splits["train"].num_images == 20


@pytest.mark.parametrize("num_workers", [0, 2])
def test_same_options_give_the_same_bytes(pets, tmp_path, num_workers):
    prepare(replace(pets, validation="0.3"))
    again = replace(pets, validation="0.3", output=str(tmp_path / "other" / "pets"), num_workers=num_workers)
    prepare(again)
    assert contents(again.output) == contents(pets.output)


def test_interrupted_run_leaves_nothing_and_the_next_one_finishes(pets, monkeypatch):
    write = ShardWriter.write

    def interrupt(self, split, number):
        if number == 2:
            raise KeyboardInterrupt
        return write(self, split, number)

    monkeypatch.setattr(ShardWriter, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(pets)
    assert list(Path(pets.output).parent.iterdir()) == []
    monkeypatch.undo()
    assert prepare(pets).splits["train"].num_images == 20


def test_leftovers_of_a_killed_run_do_not_get_into_the_next(pets):
    partial = Path(pets.output).parent / ".pets.partial"
    partial.mkdir(parents=True)
    (partial / "train-00009.tar").write_bytes(b"half")
    prepare(pets)
    assert not partial.exists()
    assert {path.suffix for path in Path(pets.output).iterdir()} == {".tar", ".idx", ".samples", ".json"}
    assert not (Path(pets.output) / "train-00009.tar").exists()


def test_same_options_again_are_no_work(pets, capsys):
    arguments = ["--source", pets.source[0], "--output", pets.output, "--num_workers", "0"]
    main(arguments)
    first = capsys.readouterr().out
    assert first.splitlines() == ["pets: 3 x 4 x 6, 2 classes; train 20 in 1 shard", pets.output]
    times = {path: path.stat().st_mtime_ns for path in Path(pets.output).iterdir()}
    main([*arguments[:-1], "1"])  # the number of workers is no difference
    assert (
        capsys.readouterr().out
        == "already prepared with these options; to prepare it again, give another --output\n" + first
    )
    assert {path: path.stat().st_mtime_ns for path in Path(pets.output).iterdir()} == times


def test_what_is_in_the_place_is_not_touched(pets):
    prepare(pets)
    before = contents(pets.output)
    with pytest.raises(ValueError, match=r"pets: holds a data set made with other options; choose another --output"):
        prepare(replace(pets, seed=1))
    assert contents(pets.output) == before
    (Path(pets.output) / "train-00001.tar").unlink()
    with pytest.raises(ValueError, match=r"pets: damaged: train-00001.tar"):
        prepare(pets)
    (Path(pets.output) / "dataset.json").unlink()
    with pytest.raises(ValueError, match=r"pets: exists, and prepare did not make it; choose another --output"):
        prepare(pets)


def test_empty_directory_in_the_place_stays_and_is_filled(pets, tmp_path, monkeypatch):
    """It may be a mount point: it cannot be renamed over, and beside it there may be no room, or no right to write."""
    target = Path(pets.output)
    (target / "lost+found").mkdir(parents=True)
    before, rename = target.stat().st_ino, Path.rename

    def rename_within(self, other):
        assert target in self.parents
        assert target in Path(other).parents
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", rename_within)
    assert prepare(pets).splits["train"].num_images == 20
    assert target.stat().st_ino == before
    assert {path.suffix for path in target.iterdir() if path.name != "lost+found"} == {
        ".tar",
        ".idx",
        ".samples",
        ".json",
    }
    assert list(target.parent.iterdir()) == [target]
    (target / "lost+found").rmdir()
    elsewhere = replace(pets, output=str(tmp_path / "other" / "pets"))
    monkeypatch.undo()
    prepare(elsewhere)
    assert contents(elsewhere.output) == contents(target)


def test_interrupted_run_leaves_an_empty_directory_empty(pets, monkeypatch):
    Path(pets.output).mkdir(parents=True)

    def interrupt(self, split, number):
        raise KeyboardInterrupt

    monkeypatch.setattr(ShardWriter, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(pets)
    assert list(Path(pets.output).iterdir()) == []


def test_run_that_was_killed_in_an_empty_directory_is_done_again_or_finished(pets):
    target = Path(pets.output)
    (target / ".partial").mkdir(parents=True)
    (target / ".partial" / "train-00009.tar").write_bytes(b"half")
    prepare(pets)
    complete = contents(target)
    assert "train-00009.tar" not in complete
    # Killed while it moved its files up.
    (target / ".partial").mkdir()
    for name in sorted(complete)[:3]:
        (target / name).rename(target / ".partial" / name)
    assert (target / ".partial" / "dataset.json").is_file()
    main(["--source", pets.source[0], "--output", pets.output, "--shard_size", "6", "--num_workers", "0"])
    assert contents(target) == complete


def test_two_runs_with_one_output_are_refused(pets):
    output = Path(pets.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        locked(output.with_name(f".{output.name}.lock"), "it"),
        pytest.raises(ValueError, match="another process is writing it"),
    ):
        prepare(pets)
