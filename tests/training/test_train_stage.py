"""The train stage: what it writes, and what it refuses."""

import io
import shutil

import numpy as np
import pytest
import torch
import yaml
from conftest import write_images
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from training_runs import options

from glow.config import PrepareRun
from glow.data.prepare.writer import prepare
from glow.data.read.reader import SplitReader
from glow.evaluation.likelihood import Bound, score_split
from glow.locking import locked
from glow.training.checkpoints.models import load_model
from glow.training.checkpoints.reading import read_tensors
from glow.training.metrics import read_metrics
from pipelines import train as train_stage


def test_training_lowers_the_loss_moves_weights_and_writes_everything(dataset, tmp_path):
    run = tmp_path / "run"
    train_stage.main(options(dataset, run, "--train.num_steps", "40", "--train.checkpoint_every", "20"))
    losses = [line["train/bits_per_dim"] for line in read_metrics(run)]
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5
    assert read_metrics(run)[-1]["images_seen"] == 480
    last = run / "checkpoints" / "step-00000040"
    assert {path.name for path in last.iterdir()} == {
        "model.safetensors", "ema.safetensors", "optimizer.safetensors", "config.yaml", "state.json",
    }  # fmt: skip
    assert {path.name for path in run.iterdir()} == {
        "checkpoints", "config.yaml", "environment.json", "metrics.jsonl", "tensorboard",
    }  # fmt: skip
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["image_shape"] == [3, 8, 8]
    first, final = (read_tensors(run / "checkpoints" / f"step-{step:08d}", "model") for step in (36, 40))
    learned = [name for name in first if not name.endswith(("initialized", "permutation", "sign"))]
    assert all(not torch.equal(first[name], final[name]) for name in learned)
    raw, averaged = (load_model(run, weights=weights) for weights in ("raw", "ema"))
    assert not torch.equal(raw.chain[1].bijector.bijectors[0].bias, averaged.chain[1].bijector.bijectors[0].bias)
    wanted = {"train/bits_per_dim", "validation/bits_per_dim", "train/lr", "train/grad_norm", "train/images_per_s"}
    wanted |= {"train/step_s", "train/data_wait_s", "train/peak_memory_bytes", "health/inverse_error", "health/prior_2"}
    wanted |= {"train/images_per_s", "train/images_per_process_per_s", "train/data_wait_s_per_s"}
    wanted |= {f"health/condition/{unit:03d}" for unit in (1, 2, 5, 6)}
    lines = read_metrics(run)
    assert all(0 < line["train/data_wait_s"] < line["train/step_s"] for line in lines)
    share = [line["train/data_wait_s"] / line["train/step_s"] for line in lines]
    assert [line["train/data_wait_s_per_s"] for line in lines] == pytest.approx(share)
    assert all(line["health/inverse_error"] < 1e-4 for line in lines if "health/inverse_error" in line)
    assert wanted <= {key for line in lines for key in line}


def test_tensorboard_opens_on_likelihood_images_and_speed(dataset, tmp_path):
    run = tmp_path / "run"
    train_stage.main(options(dataset, run))
    boards = {part: EventAccumulator(str(run / "tensorboard" / part)).Reload() for part in ("", "train", "validation")}
    for part, steps in (("train", range(1, 9)), ("validation", range(4, 9, 4))):  # two lines of one chart
        assert boards[part].Tags()["scalars"] == ["1_likelihood/bits_per_dim"]
        assert [event.step for event in boards[part].Scalars("1_likelihood/bits_per_dim")] == [*steps]
    tags = boards[""].Tags()
    assert sorted(tags["images"]) == ["2_images/real", "2_images/samples"]
    assert sorted(tags["scalars"])[0].startswith("3_speed/")
    assert {"3_speed/images_per_s", "4_training/lr", "5_health/inverse_error", "5_health/prior_2"} <= {*tags["scalars"]}
    lines = read_metrics(run)
    conditions = [value for key, value in lines[-1].items() if key.startswith("health/condition/")]
    assert len(conditions) == 4
    for name, value in (("min", min(conditions)), ("median", np.median(conditions)), ("max", max(conditions))):
        assert boards[""].Scalars(f"5_health/condition_{name}")[-1].value == pytest.approx(value)
    assert not any(tag.startswith("5_health/condition/") for tag in tags["scalars"])
    real, drawn = (
        Image.open(io.BytesIO(boards[""].Images(f"2_images/{name}")[-1].encoded_image_string)).size
        for name in ("real", "samples")
    )
    assert real[1] > 50
    assert drawn[1] > 50
    (text,) = boards[""].Tensors("config/text_summary")
    assert "num_steps_per_level: " in text.tensor_proto.string_val[0].decode()


def test_tensorboard_has_a_table_of_all_runs_with_hyperparameters_and_bits_per_dim(dataset, tmp_path):
    for name, lr in (("a", "0.001"), ("b", "0.002")):
        train_stage.main(options(dataset, tmp_path / name, "--optimizer.lr", lr, "--train.num_steps", "4"))
    train_stage.main(options(dataset, tmp_path / "b", "--optimizer.lr", "0.002", "--train.num_steps", "8"))  # resumed
    # What the page asks its server for.
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    provider = MultiplexerDataProvider(runs, str(tmp_path))
    context = backend_context.Context(TBContext(data_provider=provider))
    parts = ("validation", "train")
    metrics = [api_pb2.MetricName(tag="1_likelihood/bits_per_dim", group=part) for part in parts]
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=9,
        col_params=[api_pb2.ColParams(metric=metric) for metric in metrics],
        allowed_statuses=[0, 1, 2, 3],
    )
    experiment = context.experiment_from_metadata(
        RequestContext(), "", True, context.hparams_metadata(RequestContext(), ""), []
    )
    assert {"optimizer.lr", "train.num_steps", "model.coupling"} <= {info.name for info in experiment.hparam_infos}
    handler = list_session_groups.Handler(RequestContext(), context, "", request)
    groups = {group.hparams["optimizer.lr"].number_value: group for group in handler.run().session_groups}
    assert sorted(groups) == [0.001, 0.002]
    for lr, name in ((0.001, "a"), (0.002, "b")):
        shown = {value.name.group: value.value for value in groups[lr].metric_values}
        last = read_metrics(tmp_path / name)[-1]
        for part in parts:
            assert shown[part] == pytest.approx(last[f"{part}/bits_per_dim"])


def test_two_trainings_in_one_run_directory_are_refused(dataset, tmp_path):
    with locked(tmp_path / ".lock", "it"), pytest.raises(ValueError, match="another process is writing it"):
        train_stage.main(options(dataset, tmp_path))
    train_stage.main(options(dataset, tmp_path, "--train.num_steps", "1"))


def test_folder_of_something_else_is_refused_and_left_alone(dataset, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").touch()
    with pytest.raises(ValueError, match=r"photos: exists and is not a run \(cat\.jpg is in it\); choose another"):
        train_stage.main(options(dataset, tmp_path / "photos"))
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]
    with pytest.raises(ValueError, match=r"cat\.jpg: is not a folder; choose another --output"):
        train_stage.main(options(dataset, tmp_path / "photos/cat.jpg"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/slurm-7.out").touch()  # the log of the job does no harm, nor a data set on the same volume
    shutil.copytree(dataset, tmp_path / "run/data")
    train_stage.main(options(dataset, tmp_path / "run", "--train.num_steps", "1"))


def test_shift_beyond_the_image_is_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"data\.shift: 8, but the images of .* are \[3, 8, 8\]"):
        train_stage.main(options(dataset, tmp_path, "--data.shift", "8"))


def test_data_without_validation_split_trains(tmp_path, capsys):
    source = write_images(tmp_path / "images", 40)
    prepare(PrepareRun([str(source)], str(tmp_path / "data"), num_workers=0))
    train_stage.main(options(tmp_path / "data", tmp_path / "run"))
    assert "has no validation split: training runs without validation" in capsys.readouterr().out
    assert not any("validation/bits_per_dim" in line for line in read_metrics(tmp_path / "run"))


def test_validation_measures_the_averaged_weights(dataset, tmp_path):
    run = tmp_path / "run"
    train_stage.main(options(dataset, run, "--train.num_steps", "20", "--train.ema_decay", "0.99"))
    reader = SplitReader(dataset, "validation")

    def measure(weights):
        return np.mean(
            [
                score.bits_per_dim
                for score in score_split(load_model(run, weights=weights), reader, 64, Bound("elbo", 1, 0))
            ]
        )

    logged = read_metrics(run)[-1]["validation/bits_per_dim"]
    assert logged == pytest.approx(measure("ema"), abs=1e-5)
    assert abs(logged - measure("raw")) > 1e-3


@pytest.mark.parametrize("num_workers", ["0", "1"])
def test_damaged_shard_is_one_line_whoever_reads_it(dataset, tmp_path, num_workers):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    with (copy / "train-00003.tar").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"^[^\n]*train-00003\.tar: \d+ bytes, but dataset\.json says[^\n]*$"):
        train_stage.main(options(copy, tmp_path / "run", "--data.num_workers", num_workers))


def test_shape_that_is_not_that_of_the_data_is_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"model\.image_shape: \[1, 8, 8\], but the images of .* are \[3, 8, 8\]"):
        train_stage.main(options(dataset, tmp_path, "--model.image_shape", "[1, 8, 8]"))
    with pytest.raises(ValueError, match=r"divisible by 2\^num_levels = 16"):
        train_stage.main(options(dataset, tmp_path, "--model.num_levels", "4"))
