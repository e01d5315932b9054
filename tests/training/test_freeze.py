"""A training that leaves some parameters as they are."""

import json

import pytest
import torch
from conftest import run_ranks
from training_runs import assert_same_checkpoint, options, train_main

from glow.training.checkpoints.manager import find_checkpoint
from glow.training.checkpoints.reading import read_config, read_tensors
from glow.training.metrics import read_metrics
from pipelines import train

# A whole unit at the beginning, a network in the middle, a parameter of every unit.
FREEZE = "chain.0-1, chain.5.bijector.bijectors.2, *.log_s"
FROZEN = ("chain.1.", "chain.5.bijector.bijectors.2.")
LAYOUTS = [
    (1, {}, "reversible"),
    (1, {}, "checkpoint"),
    (2, {}, "stored"),
    (2, {"mode": "fsdp"}, "stored"),
    (2, {"mode": "fsdp"}, "reversible"),
    (2, {"mode": "pipeline", "stages": 2}, "reversible"),
]


def is_frozen(name):
    return name.startswith(FROZEN) or name.endswith(".log_s")


@pytest.fixture(scope="module")
def first(dataset, tmp_path_factory):
    """A short training of all parameters."""
    path = tmp_path_factory.mktemp("first") / "run"
    train.main(options(dataset, path, "--train.num_steps", "1"))
    return path


def frozen(dataset, first, output, *extra):
    """Arguments of a training that starts from it."""
    extra = ["--init_from", str(first), "--freeze", FREEZE, "--train.num_steps", "4", *extra]
    return options(dataset, output, "--train.microbatch_size", "3", *extra)


SGD = ["--optimizer.name", "sgd", "--optimizer.lr", "0.05", "--optimizer.weight_decay", "0.1"]


@pytest.fixture(scope="module")
def alone(dataset, first, tmp_path_factory):
    """The training of one process with stored memory."""
    path = tmp_path_factory.mktemp("alone") / "run"
    train.main(frozen(dataset, first, path, *SGD))
    return path


def test_frozen_parameters_stay_and_all_others_move(first, alone):
    start, end = find_checkpoint(first), find_checkpoint(alone)
    before = read_tensors(start, "ema")
    for kind in ("model", "ema"):
        after = read_tensors(end, kind)
        for name in before:
            if is_frozen(name):
                assert torch.equal(before[name], after[name]), (kind, name)
            elif not name.endswith(("initialized", "permutation", "sign")):
                assert not torch.equal(before[name], after[name]), (kind, name)
    moments = {key.rpartition("/")[0] for key in read_tensors(end, "optimizer")}
    assert len(moments) > 10
    assert not any(map(is_frozen, moments))
    assert read_config(end).freeze == FREEZE


@pytest.mark.parametrize(("world", "parallel", "memory"), LAYOUTS, ids=str)
def test_all_layouts_and_memory_modes_agree(dataset, first, alone, tmp_path, world, parallel, memory):
    extra = [*SGD, "--parallel", json.dumps(parallel), "--memory", memory, "--anchor_every", "0"]
    arguments = frozen(dataset, first, tmp_path, *extra)
    if world == 1:
        train.main(arguments)
    else:
        run_ranks(train_main, world, arguments)
    for one, other in zip(read_metrics(alone), read_metrics(tmp_path), strict=True):
        for key in ("train/bits_per_dim", "train/grad_norm", "validation/bits_per_dim"):
            assert (key in other) == (key in one)
            assert other.get(key, 0) == pytest.approx(one.get(key, 0), rel=1e-5), key
        assert ("memory/drift" in other) == (memory == "reversible")
    for kind in ("model", "ema", "optimizer"):
        a, b = (read_tensors(find_checkpoint(run), kind) for run in (alone, tmp_path))
        assert a.keys() == b.keys()
        assert all(torch.allclose(a[key], b[key], rtol=0, atol=1e-5) for key in a), kind
        assert all(torch.equal(a[key], b[key]) for key in a if is_frozen(key)), kind


def test_it_resumes_bitwise_with_the_same_frozen_parameters_alone(dataset, first, tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.main(frozen(dataset, first, whole))
    weights = read_tensors(find_checkpoint(whole), "model")
    fixed = ("initialized", "permutation", "sign", "mask")
    trained = sum(value.numel() for name, value in weights.items() if not (is_frozen(name) or name.endswith(fixed)))
    assert f" parameters, {trained:,} of them trained; 1 process" in capsys.readouterr().out
    train.main(frozen(dataset, first, parts, "--train.num_steps", "2"))
    with pytest.raises(ValueError, match=r"freeze: 'chain.2', but the run in .* started with 'chain.0-1"):
        train.main(frozen(dataset, first, parts, "--freeze", "chain.2"))
    train.main(frozen(dataset, first, parts))
    assert_same_checkpoint(find_checkpoint(whole), find_checkpoint(parts))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            ["--freeze", "chain.2,chain.9"],
            r"freeze: 'chain.9' matches no parameter; names are such as chain.1.bijector",
        ),
        (["--freeze", "chain.bijector"], "freeze: 'chain.bijector' matches no parameter"),
        (["--freeze", "chain.1-"], "freeze: 'chain.1-' matches no parameter"),
        (["--freeze", ""], "freeze: '' matches no parameter"),
        (["--freeze", "*"], "freeze: '.' leaves no parameter to train"),
    ],
)
def test_what_does_not_fit_is_one_line(dataset, tmp_path, extra, message):
    with pytest.raises(ValueError, match=message):
        train.main(options(dataset, tmp_path / "run", *extra))
    assert not (tmp_path / "run/checkpoints").exists()


def refusal(arguments):
    try:
        train.main(arguments)
    except ValueError as error:
        return str(error)


def test_a_stage_of_a_pipeline_with_nothing_to_train_is_refused_on_all_processes(dataset, tmp_path):
    parallel = ["--parallel", '{"mode": "pipeline", "stages": 2}', "--train.microbatch_size", "3"]
    answers = run_ranks(refusal, 2, options(dataset, tmp_path, *parallel, "--freeze", "chain.0-3"))
    assert set(answers) == {"freeze: no parameter of stage 1 of 2 is left to train; give fewer parallel.stages"}
