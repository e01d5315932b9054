"""Checkpoints of one layout in another: each goes on with the same numbers, and is sampled and measured alike."""

import json
import math
import os
import re

import numpy as np
import pytest
import torch
from conftest import run_ranks
from PIL import Image
from training_runs import assert_same_checkpoint, comparable, options, train_main

from glow.config import ParallelConfig
from glow.training.checkpoints.models import load_model
from glow.training.checkpoints.reading import read_state, read_tensors
from glow.training.metrics import read_metrics
from glow.training.stop import StopRequest
from glow.training.tasks import images as image_task
from pipelines import evaluate, sample
from pipelines import train as train_stage

ALONE = (1, {})
CHAINS = {
    "sgd": [
        (2, {"mode": "fsdp"}),
        (2, {"mode": "pipeline", "stages": 2}),
        (4, {"mode": "hsdp", "shards": 2}),
        ALONE,
        (4, {"mode": "pipeline", "stages": 2}),
        (3, {"mode": "fsdp"}),
    ],
    "adam": [
        (2, {"mode": "pipeline", "stages": 2}),
        (2, {"mode": "fsdp"}),
        (2, {}),
        (4, {"mode": "pipeline", "stages": 4}),
    ],
    "muon": [(2, {}), (1, {}), (2, {"mode": "pipeline", "stages": 2})],
}


@pytest.mark.parametrize("optimizer", CHAINS)
def test_training_goes_on_from_any_layout_in_any_other(dataset, tmp_path, reset_accelerate, optimizer):
    # Adam divides by the size of gradients, those too that are nothing but rounding.
    lr, tolerance = {"sgd": ("0.05", 1e-5), "adam": ("0.001", 1e-4), "muon": ("0.001", 1e-4)}[optimizer]
    through, changing = tmp_path / "through", tmp_path / "changing"
    common = ["--optimizer.name", optimizer, "--optimizer.lr", lr, "--train.keep_last", "9", "--train.batch_size", "16"]
    common += ["--model.hidden_channels", "64"] * (optimizer == "muon")
    common += ["--train.microbatch_size", "2", "--train.validate_every", "2", "--train.checkpoint_every", "2"]
    chain = CHAINS[optimizer]
    train_stage.main(options(dataset, through, *common, "--train.num_steps", str(2 * len(chain))))
    for number, (world, parallel) in enumerate(chain, 1):
        memory = ["stored", "checkpoint", "reversible"][number % 3]
        extra = [*common, "--memory", memory, "--parallel", json.dumps(parallel), "--train.num_steps", str(2 * number)]
        if world == 1:
            reset_accelerate()
            train_stage.main(options(dataset, changing, *extra))
        else:
            run_ranks(train_main, world, options(dataset, changing, *extra))
    for mine, theirs in zip(read_metrics(changing), read_metrics(through), strict=True):
        for key in ("train/bits_per_dim", "train/grad_norm", "validation/bits_per_dim"):
            if key in theirs:
                assert mine[key] == pytest.approx(theirs[key], rel=tolerance), (mine["step"], key)
    assert_alike(through, changing, dataset, reset_accelerate, range(2, 2 * len(chain) + 1, 2), tolerance)


def assert_alike(run, other, dataset, reset_accelerate, steps, tolerance):
    """Checkpoints, likelihoods and samples of all these steps are equal."""
    for step in steps:
        name = f"checkpoints/step-{step:08d}"
        for kind in ("model", "ema", "optimizer"):
            a, b = (read_tensors(each / name, kind) for each in (run, other))
            assert a.keys() == b.keys()
            assert all(torch.allclose(a[key], b[key], rtol=0, atol=10 * tolerance) for key in a), (step, kind)
        assert read_state(other / name).images_seen == 16 * step
    results, images = [], []
    for each in (run, other):
        reset_accelerate()
        checkpoint = ["--checkpoint", str(each / name)]
        report = evaluate.main([*checkpoint, "--data", str(dataset), "--baselines", "false"])
        results.append(json.loads((report / "bpd.json").read_text())["bits_per_dim"])
        grids = sample.main([*checkpoint, "--temperatures", "0.7", "--num_images", "16"])
        images.append(np.asarray(Image.open(grids / "grid-t0.70.png"), dtype=np.float64))
    assert results[1] == pytest.approx(results[0], rel=tolerance)
    a, b = (decoded(load_model(each / name)) for each in (run, other))
    assert (a - b).abs().max() < tolerance
    difference = np.abs(images[1] - images[0])
    assert (difference > 0).mean() < 1e-3
    assert difference.max() <= 1


def decoded(model):
    """Samples before they are rounded to grey levels."""
    noise = torch.randn(16, model.num_dims, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.decode(model.scale_noise(noise, 0.7))


@pytest.mark.parametrize("parallel", [{"mode": "fsdp"}, {"mode": "pipeline", "stages": 2}], ids=lambda p: p["mode"])
def test_preview_validation_and_health_are_those_of_one_process(dataset, tmp_path, parallel):
    alone, several = tmp_path / "alone", tmp_path / "several"
    common = ["--optimizer.name", "sgd", "--optimizer.lr", "0.05", "--train.microbatch_size", "3"]
    train_stage.main(options(dataset, alone, *common))
    run_ranks(train_main, 2, options(dataset, several, *common, "--parallel", json.dumps(parallel)))
    for one, other in zip(read_metrics(alone), read_metrics(several), strict=True):
        assert one.keys() == other.keys()
        for key in (key for key in one if key.startswith(("health", "validation")) and "inverse" not in key):
            assert other[key] == pytest.approx(one[key], rel=1e-5, abs=1e-6), key


MISTAKES = [
    (2, "{mode: pipeline, stages: 3}", [], r"parallel\.stages: 3, but 2 processes are not a multiple"),
    (
        2,
        "{mode: pipeline, stages: 2}",
        ["--model.num_levels", "1", "--model.num_steps_per_level", "1"],
        r"has 1 flow steps",
    ),
    (
        2,
        "{mode: fsdp}",
        ["--train.num_validation_images", "1"],
        r"validation_images: 1 images .* each of 2 processes needs",
    ),
    (2, "{mode: hsdp, shards: 3}", [], r"parallel\.shards: 3, but 2 processes are not a multiple"),
    (2, "{mode: pipeline, stages: 2}", [], r"microbatch_size: not set, .* its 12 images; give one of 1, 2, 3, 4, 6"),
    (
        2,
        "{mode: pipeline, stages: 2}",
        ["--train.microbatch_size", "5"],
        r"microbatch_size: 5, .*; give one of 1, 2, 3, 4, 6",
    ),
    (
        4,
        "{mode: pipeline, stages: 2}",
        ["--train.batch_size", "13"],
        r"train\.batch_size: 13, but 2 pipelines share it; give a multiple of 2",
    ),
]


def train_and_tell(arguments):
    try:
        train_stage.main(arguments)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(("world", "parallel", "extra", "message"), MISTAKES)
def test_what_cannot_be_divided_is_refused_on_all_processes(dataset, tmp_path, world, parallel, extra, message):
    arguments = options(dataset, tmp_path, "--parallel", parallel, *extra)
    for error in run_ranks(train_and_tell, world, arguments):
        with pytest.raises(ValueError, match=message):
            raise ValueError(error)


def test_drift_is_a_metric_and_beyond_its_bound_training_stops_on_all_processes(dataset, tmp_path):
    arguments = options(dataset, tmp_path, "--memory", "reversible", "--train.num_steps", "2")
    assert run_ranks(train_and_tell, 2, arguments) == [None, None]
    assert all(0 < line["memory/drift"] < 1e-4 for line in read_metrics(tmp_path))
    arguments = options(dataset, tmp_path / "strict", "--memory", "reversible", "--max_drift", "1e-9")
    message = r"step 1: memory reversible rebuilt a state that is \S+ away from .* max_drift 1e-09 allows; nothing was"
    for error in run_ranks(train_and_tell, 2, arguments):
        assert re.match(message, error), error
    assert read_metrics(tmp_path / "strict") == []


@pytest.mark.parametrize(
    ("parallel", "message"),
    [
        ({"mode": "tensor"}, r"parallel\.mode: 'tensor' is not allowed; there is no tensor parallelism: choose fsdp"),
        ({"mode": "foo"}, r"parallel\.mode: 'foo' is not allowed; choose one of ddp, fsdp, hsdp, pipeline"),
        ({"mode": "pipeline"}, r"parallel\.stages is not set; give 2 or more with parallel\.mode pipeline"),
        ({"mode": "hsdp", "shards": 1}, r"parallel\.shards: 1 is not allowed; give 2 or more with parallel\.mode hsdp"),
        ({"stages": 2}, r"parallel\.stages: 2 is not allowed; leave it out, or set parallel\.mode to pipeline"),
    ],
)
def test_layout_that_does_not_exist_is_refused(parallel, message):
    with pytest.raises(ValueError, match=message):
        ParallelConfig(**parallel)


LAYOUTS = [["--parallel.mode", "fsdp"], ["--parallel", "{mode: pipeline, stages: 2}", "--train.microbatch_size", "6"]]


def train_with_a_bad_image(arguments, bad_rank):
    """What each process says when only the batches of one have a number that is not finite."""
    read = image_task.train_batches

    def spoiled(*args):
        for step, batch in enumerate(read(*args), 1):
            if step == 3 and int(os.environ["RANK"]) == bad_rank:
                batch.noise[0] = math.nan
            yield batch

    image_task.train_batches = spoiled
    return train_and_tell(arguments)


# Of a pipeline the first stage alone looks at the images.
@pytest.mark.parametrize(
    ("layout", "bad_rank"), [(LAYOUTS[0], 0), (LAYOUTS[0], 1), (LAYOUTS[1], 0)], ids=["fsdp-0", "fsdp-1", "pipeline-0"]
)
def test_loss_that_is_not_finite_in_one_process_ends_all_with_the_message(dataset, tmp_path, layout, bad_rank):
    errors = run_ranks(train_with_a_bad_image, 2, options(dataset, tmp_path, *layout), bad_rank)
    for error in errors:
        assert error.startswith("step 3: loss nan"), error


def train_and_stop(arguments):
    """Train with a request to stop that reaches the last process alone."""
    if os.environ["RANK"] == "1":
        reason = StopRequest.reason
        asked = iter(range(10))
        StopRequest.reason = lambda self: "SIGTERM" if next(asked) == 1 else reason(self)
    train_stage.main(arguments)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["fsdp", "pipeline"])
def test_request_to_stop_of_one_process_stops_all_and_they_go_on(dataset, tmp_path, layout):
    through, stopped = tmp_path / "through", tmp_path / "stopped"
    run_ranks(train_main, 2, options(dataset, through, *layout))
    run_ranks(train_and_stop, 2, options(dataset, stopped, *layout))
    assert json.loads((stopped / "stopped.json").read_text()) == {"step": 2, "reason": "SIGTERM"}
    run_ranks(train_main, 2, options(dataset, stopped, *layout))
    assert comparable(stopped) == comparable(through)
    assert_same_checkpoint(*(run / "checkpoints/step-00000008" for run in (through, stopped)))
