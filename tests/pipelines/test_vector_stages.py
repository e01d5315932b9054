"""Flows of vectors through the stages: training, resuming, samples, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image
from training_runs import assert_same_checkpoint, comparable

from glow.config import FlowConfig, TrainRun, VectorDataConfig
from glow.sampling.images import sample_vectors
from glow.training.checkpoints.models import load_flow, load_model
from pipelines import evaluate as evaluate_stage
from pipelines import plan as plan_stage
from pipelines import sample as sample_stage
from pipelines import train as train_stage


def train(output, *extra, config="mixture2d"):
    """Run the train stage for a few steps; return the run directory."""
    train_stage.main([
        "--config", f"configs/{config}.yaml", "--output", str(output), "--train.num_steps", "12",
        "--train.log_every", "1", "--train.validate_every", "6", "--train.checkpoint_every", "6", *extra,
    ])  # fmt: skip
    return output


@pytest.mark.parametrize("config", ["mixture2d", "mixture2d_fresh"])
def test_resumed_training_is_bitwise_the_same(tmp_path, config):
    # A cosine would depend on the number of steps.
    constant = ("--optimizer.schedule", "constant")
    train(tmp_path / "straight", *constant, config=config)
    train(tmp_path / "parts", *constant, "--train.num_steps", "6", config=config)
    train(tmp_path / "parts", *constant, config=config)
    last = "checkpoints/step-00000012"
    assert_same_checkpoint(tmp_path / "straight" / last, tmp_path / "parts" / last)
    assert comparable(tmp_path / "straight")[6:] == comparable(tmp_path / "parts")[6:]


def test_train_and_sample_write_points_pictures_and_divergence(tmp_path, capsys):
    run = train(tmp_path / "run", "--train.num_steps", "60", "--train.validate_every", "30", "--optimizer.lr", "0.01")
    scores = [line["validation/kl_nats"] for line in comparable(run) if "validation/kl_nats" in line]
    assert scores[-1] < scores[0]
    output = sample_stage.main(["--checkpoint", str(run), "--num_points", "500", "--num_kl_points", "2000"])
    assert output == run / "samples" / "step-00000060"
    described = json.loads((output / "samples.json").read_text())
    kl = described["kl"]
    assert kl["nats"] == pytest.approx(scores[-1], abs=0.3)
    assert 0 < kl["standard_error"] < 0.2
    assert f"KL(data || flow): {kl['nats']:.4f} ± {kl['standard_error']:.4f} nats" in capsys.readouterr().out
    samples = np.load(output / "samples.npy")
    assert samples.shape == (500, 2)
    assert np.isfinite(samples).all()
    for name in ("samples", "density"):
        picture = np.asarray(Image.open(output / f"{name}.png").convert("L"))
        assert picture.std() > 10, name
    assert np.array_equal(samples[:50], sample_vectors(load_flow(run), 500, 0)[:50])
    assert not np.array_equal(samples, sample_vectors(load_flow(run), 500, 1))


def test_file_of_vectors_of_any_dimension_is_trained_on(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(300, 3)))
    arguments = [
        "--vectors.name",
        "file",
        "--vectors.path",
        str(tmp_path / "x.npy"),
        "--flow.normalization",
        "batchnorm",
    ]
    run = train(tmp_path / "run", *arguments)
    assert load_flow(run).num_dims == 3
    output = sample_stage.main(["--checkpoint", str(run), "--num_points", "10"])
    assert {path.name for path in output.iterdir()} == {"samples.npy", "samples.png", "samples.json"}
    assert "kl" not in json.loads((output / "samples.json").read_text())


@pytest.mark.parametrize(
    ("points", "extra", "message"),
    [
        (np.full((20, 2), np.nan), [], r"x\.npy: 20 of 20 vectors have NaN or infinities, first row 0"),
        (np.where(np.arange(40) == 7, np.nan, 0.0).reshape(20, 2), [], r"1 of 20 vectors have NaN .*, first row 3"),
        (np.zeros((20, 2)), ["--flow.num_dims", "3"], r"flow\.num_dims: 3, but the vectors of .*x\.npy have 2"),
        (np.zeros((20, 1)), [], r"flow\.kind: 'affine' is not allowed; give planar or radial"),
        (
            np.zeros(20),
            [],
            r"x\.npy: not a \.npy file of vectors: not one array of real numbers, \[N, D\], but \(20,\)",
        ),
        (np.zeros((1, 2)), [], r"\[1, 2\]: four vectors or more"),
        (np.array(["a", "b"])[:, None], [], r"x\.npy: not a \.npy file of vectors"),
    ],
)
def test_wrong_vectors_are_an_error_of_one_line(tmp_path, points, extra, message):
    np.save(tmp_path / "x.npy", points)
    arguments = ["--vectors.name", "file", "--vectors.path", str(tmp_path / "x.npy"), *extra]
    with pytest.raises(ValueError, match=message) as error:
        train(tmp_path / "run", *arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flow": FlowConfig(num_layers=3)}, r"flow\.num_layers: 3 .* set vectors\.name"),
        ({"vectors": VectorDataConfig("moons"), "memory": "reversible"}, "memory: 'reversible' is not allowed"),
    ],
)
def test_parts_of_images_and_of_vectors_do_not_go_together(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainRun("x", **changes)


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (
            FlowConfig,
            {"kind": "radial", "hidden_channels": 3},
            r"flow\.hidden_channels: 3 .* set flow\.kind to affine",
        ),
        (FlowConfig, {"kind": "additive", "scale": "exp"}, r"flow\.scale"),
        (FlowConfig, {"num_layers": 0}, r"flow\.num_layers: 0 is not allowed"),
        (VectorDataConfig, {"name": "file"}, r"vectors\.path is not set; give the \.npy file"),
        (VectorDataConfig, {"name": "moons", "path": "x.npy"}, r"vectors\.path"),
        (VectorDataConfig, {"name": "moons", "fresh": True, "num_points": 5}, r"vectors\.num_points"),
    ],
)
def test_impossible_options_are_errors_that_name_the_field(cls, values, message):
    with pytest.raises(ValueError, match=message):
        cls(**values)


def test_stages_of_images_refuse_a_flow_of_vectors(tmp_path, dataset):
    run = train(tmp_path / "run")
    with pytest.raises(ValueError, match="a flow of vectors, not a Glow of images"):
        load_model(run)
    with pytest.raises(ValueError, match="a flow of vectors, not a Glow of images"):
        evaluate_stage.main(["--checkpoint", str(run), "--data", str(dataset)])
    with pytest.raises(ValueError, match=r"label: 1, but .* is a flow of vectors; leave this option out"):
        sample_stage.main(["--checkpoint", str(run), "--label", "1"])
    with pytest.raises(ValueError, match="leave it out; plan is for a Glow of images"):
        plan_stage.main(["--config", "configs/mixture2d.yaml"])
    with pytest.raises(ValueError, match=r"mixture: not the vectors that the run in .* started with"):
        train(tmp_path / "run", "--train.num_steps", "20", "--vectors.seed", "1")
    with pytest.raises(ValueError, match=r"flow\.num_layers: 5, but the run in .* started with 4"):
        train(tmp_path / "run", "--train.num_steps", "20", "--flow.num_layers", "5")


def test_flow_of_images_is_refused_as_one_of_vectors(tmp_path, dataset):
    train_stage.main([
        "--config", "configs/smoke.yaml", "--data.path", str(dataset), "--output", str(tmp_path / "run"),
        "--train.num_steps", "1", "--model.hidden_channels", "4",
    ])  # fmt: skip
    with pytest.raises(ValueError, match="a Glow of images, not a flow of vectors"):
        load_flow(tmp_path / "run")
