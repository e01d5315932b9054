"""Damaged samples and shards under ``data.on_error: skip``: counted, listed, replaced alike by all, and limited."""

import re
import shutil

import numpy as np
import pytest
from conftest import run_ranks
from foreign import as_first_version
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import comparable, options, train_and

from glow.config import DataConfig
from glow.data.read.batch import Share
from glow.data.read.index import index_path, read_index
from glow.data.read.loader import train_batches
from glow.training.checkpoints.reading import read_state
from glow.training.metrics import read_metrics
from pipelines import train as train_stage

SKIP = ("--data.on_error", "skip", "--data.max_skipped", "0.5")


@pytest.fixture
def damaged(dataset, tmp_path):
    """A copy of the data with one broken PNG, one broken label and one shard (of 10) missing; and what is wrong."""
    copy = tmp_path / "damaged"
    as_first_version(shutil.copytree(dataset, copy))
    index = read_index(index_path(copy / "train-00003.tar"))
    with (copy / "train-00003.tar").open("r+b") as file:
        file.seek(index.spans[4, 0] + index.spans[4, 1] // 2)
        file.write(b"damage")
        file.seek(index.spans[7, 2])
        file.write(b"9")
    (copy / "train-00005.tar").unlink()
    return copy


def take(path, count, world=1, workers=0, start=0, **changes):
    """The first global batches, put together from the parts of all processes."""
    config = DataConfig(str(path), num_workers=workers, on_error="skip", **changes)
    streams = [train_batches(config, 12, 0, start, Share(rank, world)) for rank in range(world)]
    return [[next(stream) for stream in streams] for _ in range(count)]


def test_skipped_samples_are_replaced_alike_for_any_number_of_readers(damaged):
    def content(steps):
        keys = [[key for part in parts for key in part.keys] for parts in steps]
        noise = [np.concatenate([part.noise.numpy() for part in parts]) for parts in steps]
        skipped = [sorted(problem for part in parts for problem in part.skipped) for parts in steps]
        return keys, noise, skipped

    keys, noise, skipped = content(take(damaged, 17))
    for world, workers in ((2, 0), (3, 0), (1, 2)):
        other_keys, other_noise, other_skipped = content(take(damaged, 17, world, workers))
        assert (other_keys, other_skipped) == (keys, skipped)
        assert all((a == b).all() for a, b in zip(noise, other_noise, strict=True))
    assert content(take(damaged, 5, start=12 * 12))[0] == keys[12:]
    # Two epochs, or nearly: 12 of 97 images are damaged.
    assert 20 <= sum(map(len, skipped)) <= 26
    lost = set(read_index(index_path(damaged / "train-00005.idx")).keys)
    assert not {key.encode() for row in keys for key in row} & lost


def test_skipped_samples_are_counted_listed_and_survive_a_resume(damaged, tmp_path, monkeypatch):
    monkeypatch.setattr("glow.training.stop.LOOK_S", 0)
    extra = (*SKIP, "--train.num_steps", "16", "--train.log_every", "4")
    one, two = tmp_path / "one", tmp_path / "two"
    run_ranks(train_stage.main, 2, options(damaged, two, *extra))
    lines = comparable(two)
    counts = [line["data/num_skipped"] for line in lines]
    assert counts == sorted(counts)
    problems = [problem for line in lines for problem in line.get("data/skipped", [])]
    assert len(problems) < counts[-1]  # a missing shard is named once in a line, however many images it costs
    assert any("train-00005.tar: cannot be read: there is no such file" in problem for problem in problems)
    assert any(problem.endswith("is damaged: its label is b'9'") for problem in problems)
    assert any("is damaged: " in problem and "label" not in problem for problem in problems)
    board = EventAccumulator(str(two / "tensorboard"))
    board.Reload()
    assert [event.value for event in board.Scalars("4_training/num_skipped")] == counts
    # One process, stopped between two lines of the log.
    train_and(options(damaged, one, *extra), 6, (one / "stop").touch)
    state = read_state(one / "checkpoints/step-00000006")
    assert state.num_skipped > counts[0]
    assert state.skipped_since_log
    train_stage.main(options(damaged, one, *extra))
    for ours, theirs in zip(comparable(one), lines, strict=True):
        assert [ours.get(name) for name in ("data/num_skipped", "data/skipped")] == [
            theirs.get(name) for name in ("data/num_skipped", "data/skipped")
        ]


def test_processes_of_one_pipeline_count_what_they_skip_once(damaged, tmp_path):
    extra = (*SKIP, "--train.num_steps", "8", "--train.microbatch_size", "6")
    alone, pipeline = tmp_path / "alone", tmp_path / "pipeline"
    train_stage.main(options(damaged, alone, *extra))
    run_ranks(train_stage.main, 2, options(damaged, pipeline, *extra, "--parallel", "{mode: pipeline, stages: 2}"))
    counts = [[line["data/num_skipped"] for line in read_metrics(run)] for run in (alone, pipeline)]
    assert counts[0] == counts[1]
    assert counts[0][-1] > 0


def train_until_error(arguments):
    try:
        train_stage.main(arguments)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("world", [1, 2])
def test_too_many_skipped_samples_stop_all_processes(damaged, tmp_path, world):
    extra = ("--train.num_steps", "16", "--data.on_error", "skip", "--data.max_skipped", "0.1")
    errors = set(run_ranks(train_until_error, world, options(damaged, tmp_path / "run", *extra)))
    assert len(errors) == 1
    error = errors.pop()
    assert error.startswith("data.max_skipped: 10 of 97 images were skipped, more than the fraction 0.1")
    assert re.search(r"the last: .*(damaged|train-00005\.tar)", error)


def test_data_of_which_nothing_can_be_read_is_an_error(dataset, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    for shard in copy.glob("train-*.tar"):
        shard.unlink()
    with pytest.raises(ValueError, match="of 100 samples at random, none can be read"):
        train_stage.main(options(copy, tmp_path / "run", *SKIP))


def test_damaged_sample_is_an_error_unless_told_otherwise(damaged, tmp_path):
    with pytest.raises(ValueError, match=r"(is damaged: |train-00005\.tar: cannot be read)"):
        train_stage.main(options(damaged, tmp_path / "run", "--train.num_steps", "16"))


def test_validation_never_skips(damaged, tmp_path):
    (damaged / "validation-00000.tar").unlink()
    with pytest.raises(ValueError, match=r"validation-00000\.tar: cannot be read"):
        train_stage.main(options(damaged, tmp_path / "run", *SKIP))
