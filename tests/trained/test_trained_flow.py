"""What a trained flow of vectors gives in Python is what the stages write."""

import tarfile

import numpy as np
import pytest
import torch
from test_trained_glow import ARCHIVE

import glow
from glow.data.vectors.points import VectorData
from glow.evaluation.vectors import log_prob
from glow.training.checkpoints.models import load_flow
from glow.training.checkpoints.reading import read_config
from pipelines import infer, sample


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(root, filter="data")
    return root / "vectors"


def test_samples_are_those_of_the_sample_stage(run, tmp_path):
    arguments = ["--checkpoint", str(run), "--output", str(tmp_path), "--seed", "3"]
    output = sample.main([*arguments, "--num_points", "64", "--num_kl_points", "100"])
    samples = glow.load(run).sample(64, seed=3)
    assert samples.dtype == torch.float32
    assert np.array_equal(np.load(output / "samples.npy"), samples.numpy())


def test_log_prob_is_that_of_the_stages(run):
    points = VectorData(read_config(next((run / "checkpoints").iterdir())).vectors).held_out
    values = glow.load(run).log_prob(points)
    assert np.array_equal(values.numpy(), log_prob(load_flow(run), points))
    assert torch.equal(glow.load(run).log_prob(torch.from_numpy(points)), values)


def test_decode_undoes_encode(run):
    model = glow.load(run)
    x = model.sample(5)
    z = model.encode(x)
    torch.testing.assert_close(model.decode(z), x.double(), rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(z.float(), model.flow.encode(x)[0], rtol=1e-3, atol=1e-4)
    assert next(model.flow.parameters()).dtype == torch.float32


def test_runs_on_a_target_are_loaded(tmp_path):
    infer.main([
        "--config", "configs/infer_energy.yaml", "--output", str(tmp_path), "--train.num_steps", "2",
        "--train.batch_size", "8", "--flow.num_layers", "2", "--train.validate_every", "2",
        "--train.checkpoint_every", "2",
    ])  # fmt: skip
    model = glow.load(tmp_path)
    assert isinstance(model, glow.TrainedFlow)
    assert str(model) == "TrainedFlow(2 dimensions)"
    assert model.log_prob(model.sample(3)).isfinite().all()


def test_vectors_of_another_kind_are_refused(run):
    model = glow.load(run)
    for call, name in ((model.log_prob, "x"), (model.encode, "x"), (model.decode, "z")):
        with pytest.raises(ValueError, match=rf"{name}: \[4, 3\], but this model takes \[N, 2\]"):
            call(np.zeros((4, 3)))
        with pytest.raises(ValueError, match=f"{name}: list"):
            call([[0.0, 1.0]])
    with pytest.raises(ValueError, match="count: -1"):
        model.sample(-1)
