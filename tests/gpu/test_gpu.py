"""What only a GPU can show: half precision there, and the plan against its allocator."""

import pytest
import torch
from accelerate import Accelerator
from conftest import random_inputs, tiny_glow

from glow.config import PlanRun
from glow.execution.precision import set_compute_dtype
from glow.networks import kernels
from glow.parallel.layout import Replicated
from glow.parallel.placement import Placement
from glow.parallel.recorded import Recorded
from glow.sampling.images import decoder
from glow.training.checkpoints.manager import find_checkpoint
from glow.training.metrics import read_metrics
from pipelines import plan, prepare
from pipelines import train as train_stage

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    output = tmp_path_factory.mktemp("digits") / "digits"
    prepare.main(["--source", "digits", "--validation", "180", "--test", "360", "--output", str(output)])
    return output


def test_half_precision_trains_within_a_hundredth_of_a_bit_in_500_steps(digits, tmp_path, reset_accelerate):
    scores = {}
    for precision in ("no", "bf16", "fp16"):
        reset_accelerate()
        run = tmp_path / precision
        options = ["--config", "configs/digits.yaml", "--data.path", str(digits), "--output", str(run)]
        train_stage.main([*options, "--train.mixed_precision", precision, "--train.num_steps", "500"])
        scores[precision] = read_metrics(run)[-1]["validation/bits_per_dim"]
    assert scores["bf16"] == pytest.approx(scores["no"], abs=0.01)
    assert scores["fp16"] == pytest.approx(scores["no"], abs=0.01)


def test_planned_memory_is_that_of_the_allocator():
    run = plan.with_data(plan.parse_config(PlanRun, ["--config", "configs/cifar10.yaml"], "plan"))
    device = torch.device("cuda")
    for memory in plan.MEMORY_MODES:
        single = plan.in_mode(run, memory)
        predicted = plan.process_memory(single, 1, 64, "cuda")[0].total_bytes
        assert predicted == pytest.approx(plan.measure_step(single, 64, device), rel=0.15), memory


def model_on_gpu(dtype):
    model = tiny_glow(dtype=torch.float32, hidden_channels=64).to("cuda").train()
    set_compute_dtype(model, dtype)
    return model


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory", ["stored", "checkpoint"])
def test_recorded_gradients_are_those_of_single_kernels(dtype, memory):
    results = []
    for layout in (Replicated, Recorded):
        model = model_on_gpu(dtype)
        model.set_memory(memory)
        laid_out = layout(model, Placement(0, 1), Accelerator())
        for seed in (1, 2):
            model.zero_grad()
            inputs = [value.to("cuda") for value in random_inputs(model.config, 12, torch.float32, seed)]
            total = laid_out.backward(inputs, 5, -0.01)
        results.append([total, *(parameter.grad for parameter in model.parameters())])
    for expected, actual in zip(*results, strict=True):
        assert torch.equal(expected, actual)


def test_recorded_images_are_those_of_single_kernels():
    model = model_on_gpu(None).eval()
    noise = torch.randn(64, model.num_dims, device="cuda")
    with torch.no_grad():
        latents = model.scale_noise(noise, 0.7)
        decode = decoder(model)
        decode(*model.scale_noise(torch.randn_like(noise), 0.7))
        assert torch.equal(decode(*latents), model.decode(latents))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(1000, 512), (131072, 512), (37, 48), (4096, 130)])
def test_relu_backward_is_that_of_torch_with_the_sums_of_its_columns(dtype, shape):
    gradient, output = (torch.randn(shape, device="cuda").to(dtype) for _ in range(2))
    expected, actual = torch.where(output > 0, gradient, 0), gradient.clone()
    total = kernels.relu_backward_and_sum(actual, output)
    assert torch.equal(actual, expected)
    assert (total - expected.double().sum(0)).abs().max() < 1e-4 * expected.double().abs().sum(0).max()


def test_recorded_training_goes_on_exactly(digits, tmp_path, reset_accelerate):
    common = ["--config", "configs/digits.yaml", "--data.path", str(digits), "--train.mixed_precision", "bf16"]
    for run, stops in (("whole", ("6",)), ("parts", ("3", "6"))):
        for num_steps in stops:
            reset_accelerate()
            train_stage.main([*common, "--output", str(tmp_path / run), "--train.num_steps", num_steps])
    whole, parts = (find_checkpoint(str(tmp_path / run), "latest", "raw") for run in ("whole", "parts"))
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
