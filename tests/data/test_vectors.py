"""Flows of vectors through the stages: densities, batches, training, resuming, samples, and the KL divergence."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import assert_same_checkpoint, comparable

from glow.config import FlowConfig, TrainRun, VectorDataConfig
from glow.data.read.batch import Share
from glow.data.vectors.densities import DENSITIES, Mixture, density_of, random_mixture
from glow.data.vectors.noise import Noise
from glow.data.vectors.points import VectorData
from glow.evaluation.vectors import Estimate, kl_divergence, log_prob
from glow.models.flow import DiagonalGaussian, Flow, build_flow
from glow.randomness import generator
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


# Densities


@pytest.mark.parametrize("name", DENSITIES)
def test_density_integrates_to_one_and_is_that_of_its_samples(name):
    density = DENSITIES[name](3)
    points = density.sample(generator(0, "test"), 100_000)
    assert points.shape == (100_000, 2)
    side, count = 14.0, 280
    axis = (np.arange(count) + 0.5) * (side / count) - side / 2
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    mass = np.exp(density.log_prob(grid)) * (side / count) ** 2
    assert abs(mass.sum() - 1) < 2e-3
    # The share of samples in each cell of a coarse histogram is the mass of the density there.
    cells = [np.linspace(-side / 2, side / 2, 36)] * 2
    expected, *_ = np.histogram2d(grid[:, 0], grid[:, 1], cells, weights=mass)
    drawn, *_ = np.histogram2d(points[:, 0], points[:, 1], cells)
    assert np.abs(drawn / len(points) - expected).max() < 0.003


def test_mixture_density_is_that_of_torch():
    mixture = random_mixture(7)
    assert np.isclose(mixture.weights.sum(), 1)
    components = torch.distributions.MultivariateNormal(
        torch.from_numpy(mixture.means), scale_tril=torch.from_numpy(mixture.factors)
    )
    reference = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.from_numpy(mixture.weights)), components
    )
    x = np.random.default_rng(0).normal(size=(50, 2)) * 3
    assert np.allclose(mixture.log_prob(x), reference.log_prob(torch.from_numpy(x)).numpy())


def test_seed_decides_the_mixture():
    assert np.array_equal(random_mixture(1).means, random_mixture(1).means)
    assert not np.array_equal(random_mixture(1).means, random_mixture(2).means)


# Batches


@pytest.mark.parametrize("fresh", [False, True])
def test_batches_depend_on_seed_and_step_alone(fresh):
    data = VectorData(VectorDataConfig("moons", fresh=fresh, num_points=None if fresh else 100))

    def take(start, count, seed=0, share=None):
        batches = data.train_batches(24, seed, start, share)
        return [next(batches).x for _ in range(count)]

    whole = take(0, 8)
    assert whole[0].dtype == torch.float32
    assert torch.equal(torch.cat(take(5 * 24, 3)), torch.cat(whole[5:]))
    parts = [take(0, 8, share=Share(rank, 5)) for rank in range(5)]
    assert all(torch.equal(torch.cat(mine), batch) for mine, batch in zip(zip(*parts, strict=True), whole, strict=True))
    assert not torch.equal(take(0, 1, seed=1)[0], whole[0])


@pytest.mark.parametrize("data", [VectorData(VectorDataConfig("moons", num_points=100)), Noise(2)])
def test_more_processes_than_vectors_in_a_batch_are_refused(data):
    with pytest.raises(ValueError, match=r"train\.batch_size: 4 is not allowed with 5 processes; 5 or more is"):
        next(data.train_batches(4, 0, share=Share(0, 5)))


def test_fixed_points_come_once_an_epoch_in_another_order_each():
    data = VectorData(VectorDataConfig("rings", num_points=96))
    batches = data.train_batches(24, 0)
    first, second = (torch.cat([next(batches).x for _ in range(4)]) for _ in range(2))
    assert not torch.equal(first, second)
    for epoch in (first, second):
        assert sorted(epoch.tolist()) == sorted(data.points.tolist())


def test_held_out_vectors_are_others_and_are_shared_out_once():
    data = VectorData(VectorDataConfig("mixture", num_points=500))
    assert not set(map(tuple, data.held_out.tolist())) & set(map(tuple, data.points.tolist()))
    parts = [batch.x for rank in range(3) for batch in data.validation_batches(999, Share(rank, 3))]
    assert torch.equal(torch.cat(parts), torch.from_numpy(data.held_out))


# Stages


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


# Figures: what runs of minutes reach, within looser bounds


def test_flow_learns_a_mixture_in_seconds():
    data = VectorData(VectorDataConfig("mixture", fresh=True))
    torch.manual_seed(0)
    flow = build_flow(FlowConfig(2, "mixture", 2, normalization="actnorm", linear=True))
    batches = data.train_batches(256, 0)
    flow.initialize(next(batches).x)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.01)
    before = kl_divergence(flow, data.density, data.held_out).nats
    for _ in range(150):
        optimizer.zero_grad()
        (-flow(next(batches).x).mean()).backward()
        optimizer.step()
    assert kl_divergence(flow, data.density, data.held_out).nats < min(0.25, before / 3)


def test_divergence_of_two_gaussians_is_its_closed_form():
    flow = Flow(DiagonalGaussian(2, is_learned=True), [])
    with torch.no_grad():
        flow.base.mean.copy_(torch.tensor([1.0, 0.0]))
        flow.base.log_scale.fill_(math.log(2))
    standard = Mixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
    estimate = kl_divergence(flow, standard, standard.sample(generator(0, "test"), 50_000))
    # sum over dimensions of log s + (1 + m^2) / (2 s^2) - 1/2
    expected = 2 * math.log(2) + (1 + 1) / 8 + 1 / 8 - 1
    assert estimate.standard_error < 0.01
    assert abs(estimate.nats - expected) < 4 * estimate.standard_error


def test_log_prob_is_that_of_eval_mode_and_leaves_the_flow_alone():
    flow = build_flow(FlowConfig(2, normalization="batchnorm"))
    state = {name: value.clone() for name, value in flow.state_dict().items()}
    points = np.random.default_rng(0).normal(size=(20, 2))
    assert np.allclose(log_prob(flow, points)[:5], log_prob(flow, points[:5]))
    assert flow.training
    assert all(torch.equal(state[name], value) for name, value in flow.state_dict().items())


def test_estimate_tells_mean_and_standard_error():
    assert str(Estimate.of(np.array([1.0, 2.0, 3.0]))) == "2.0000 ± 0.5774 nats"


# What is refused


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
    with pytest.raises(ValueError, match="a flow of vectors needs no plan"):
        plan_stage.main(["--config", "configs/mixture2d.yaml"])
    with pytest.raises(ValueError, match=r"mixture: not the vectors that the run in .* was begun with"):
        train(tmp_path / "run", "--train.num_steps", "20", "--vectors.seed", "1")
    with pytest.raises(ValueError, match=r"flow\.num_layers: 5, but the run in .* was begun with 4"):
        train(tmp_path / "run", "--train.num_steps", "20", "--flow.num_layers", "5")


def test_flow_of_images_is_refused_as_one_of_vectors(tmp_path, dataset):
    train_stage.main([
        "--config", "configs/smoke.yaml", "--data.path", str(dataset), "--output", str(tmp_path / "run"),
        "--train.num_steps", "1", "--model.hidden_channels", "4",
    ])  # fmt: skip
    with pytest.raises(ValueError, match="a Glow of images, not a flow of vectors"):
        load_flow(tmp_path / "run")


def test_every_density_has_a_name_in_the_configuration():
    assert all(density_of(VectorDataConfig(name)) is not None for name in DENSITIES)
    assert density_of(VectorDataConfig("file", "x.npy")) is None
