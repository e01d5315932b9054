"""Programs of torch.export give the numbers of the model, without glow."""

import subprocess
import sys
import zipfile

import pytest
import torch
from conftest import tiny_config

from glow.models.glow import Glow
from glow.sampling.groups import group_size
from glow.trained.programs import to_programs

RUN = """
import sys, torch
images, noise, latents, temperature, labels, expected, samples = torch.load(sys.argv[3], weights_only=True)
log_prob, sample = (torch.export.load(path).module() for path in sys.argv[1:3])
assert torch.allclose(log_prob(images, noise, *labels), expected, rtol=1e-9, atol=0)
assert torch.equal(sample(latents, temperature, *labels), samples)
assert "glow" not in sys.modules
"""


def make_model(**changes):
    torch.manual_seed(0)
    model = Glow(tiny_config(**changes)).double()
    batch = group_size(model.image_shape)
    images = torch.randint(0, 256, (batch, *model.image_shape), dtype=torch.uint8)
    noise = torch.rand(images.shape, dtype=torch.float64)
    labels = (torch.arange(batch) % model.num_classes,) if model.num_classes else ()
    model.initialize(images, noise, *labels)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval(), images, noise, labels


@pytest.mark.filterwarnings("ignore:No complete tensor found in the group")  # of the tensors that share memory
@pytest.mark.parametrize(
    "changes",
    [
        {"class_conditional": True, "num_classes": 3, "network_padding": "indicator", "top_prior": "border"},
        {"network": "gated", "num_network_blocks": 1, "hidden_channels": 8, "permutation": "plain"},
    ],
    ids=str,
)
def test_saved_programs_give_the_numbers_of_the_model_in_a_process_without_glow(tmp_path, changes):
    model, images, noise, labels = make_model(**changes, num_steps_per_level=1)
    temperature = torch.linspace(0.5, 1, len(model.latent_shapes), dtype=torch.float64)
    latents = torch.randn(len(images), model.num_dims, dtype=torch.float64)
    with torch.no_grad():
        expected = model(images, noise, *labels)
        samples = model.sample(latents, temperature.tolist(), *labels)
    assert samples.float().std() > 10
    programs = to_programs(model)
    paths = [tmp_path / f"{name}.pt2" for name in ("log_prob", "sample")]
    for path in paths:
        torch.export.save(programs[path.stem], path)
        with zipfile.ZipFile(path) as file:
            assert not any(b"/glow/" in file.read(name) for name in file.namelist())  # no paths of this machine
    torch.save([images, noise, latents, temperature, list(labels), expected, samples], tmp_path / "numbers.pt")
    subprocess.run([sys.executable, "-c", RUN, *paths, tmp_path / "numbers.pt"], check=True)


def test_a_mixture_has_a_log_prob_alone():
    model, images, noise, _ = make_model(coupling="mixture", num_levels=1, num_steps_per_level=1)
    programs = to_programs(model)
    assert list(programs) == ["log_prob"]
    with torch.no_grad():
        assert torch.allclose(programs["log_prob"].module()(images, noise), model(images, noise), rtol=1e-9, atol=0)
