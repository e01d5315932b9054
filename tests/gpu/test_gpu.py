"""What only a GPU can show (``make test-gpu``): half precision, the plan against the allocator, NCCL, compilation.

Processes are spawned: one that has used CUDA cannot be forked. ``GLOW_TEST_DEVICE=cpu pytest tests/gpu`` runs what
can run on a CPU, over gloo instead of NCCL.
"""

import os

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils.other import get_free_port
from conftest import random_inputs, tiny_config, tiny_glow

from glow.config import PlanRun, TrainConfig, TrainRun
from glow.execution.precision import set_compute_dtype
from glow.models.glow import Glow
from glow.networks import kernels
from glow.parallel.layout import Replicated
from glow.parallel.placement import Placement
from glow.parallel.recorded import Recorded
from glow.planning.measuring import allocations, measure_step
from glow.planning.memory import MEMORY_MODES, in_mode, process_memory
from glow.sampling.images import decoder
from glow.training.checkpoints.manager import find_checkpoint
from glow.training.metrics import read_metrics
from pipelines import plan, prepare
from pipelines import train as train_stage

DEVICE = torch.device(os.environ.get("GLOW_TEST_DEVICE", "cuda"))
IS_GPU = DEVICE.type == "cuda"
pytestmark = pytest.mark.skipif(
    IS_GPU and not torch.cuda.is_available(), reason="no GPU here, or not started by make test-gpu"
)
on_gpu = pytest.mark.skipif(not IS_GPU, reason="needs a GPU: CUDA graphs or compiled kernels")
# A CPU makes fewer steps, to try the test.
NUM_STEPS, TOLERANCE = ("500", 0.01) if IS_GPU else ("20", 0.05)

# Ten steps of plain gradient descent: Adam would turn rounding errors of small gradients into whole steps.
PLAIN = ["--train.num_steps", "10", "--train.log_every", "1", "--optimizer.name", "sgd", "--optimizer.lr", "0.01"]
PLAIN += ["--optimizer.weight_decay", "0"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    output = tmp_path_factory.mktemp("digits") / "digits"
    prepare.main(["--source", "digits", "--validation", "180", "--test", "360", "--output", str(output)])
    return output


def test_half_precision_trains_as_float32_does(digits, tmp_path, reset_accelerate):
    scores = {}
    for precision in ("no", "bf16", "fp16"):
        reset_accelerate()
        run = tmp_path / precision
        options = ["--config", "configs/digits.yaml", "--data.path", str(digits), "--output", str(run)]
        train_stage.main([*options, "--train.mixed_precision", precision, "--train.num_steps", NUM_STEPS])
        scores[precision] = read_metrics(run)[-1]["validation/bits_per_dim"]
    assert scores["bf16"] == pytest.approx(scores["no"], abs=TOLERANCE)
    assert scores["fp16"] == pytest.approx(scores["no"], abs=TOLERANCE)


@pytest.mark.parametrize("memory", MEMORY_MODES)
def test_planned_memory_is_that_of_the_allocator(memory):
    arguments = ["--config", "configs/cifar10.yaml"]
    if not IS_GPU:  # the buffers of a CPU's convolutions in bf16 are not predicted
        arguments += ["--train.mixed_precision", "no", "--model.num_steps_per_level", "2"]
        arguments += ["--model.hidden_channels", "64"]
    run = in_mode(plan.with_data(plan.parse_config(PlanRun, arguments, "plan")), memory)
    images = 64 if IS_GPU else 8
    predicted = process_memory(run, 1, images, DEVICE.type)[0]
    step = predicted.step_bytes - predicted.waiting_bytes
    assert step == pytest.approx(measure_step(run, images, DEVICE), rel=0.15)


def test_planned_start_is_that_of_the_allocator():
    """The first batch initialises the ActNorms in microbatches; the images wait in host memory."""
    config = tiny_config(image_shape=(3, 32, 32), num_steps_per_level=4, hidden_channels=128)
    run = TrainRun("unused", config, train=TrainConfig(batch_size=64))
    inputs = random_inputs(config, 64, torch.float32)
    with allocations(DEVICE) as counted:
        model = Glow(config).to(DEVICE)
        model.initialize(*inputs, microbatch_size=8)
    predicted = process_memory(run, 1, 8, DEVICE.type)[0].start_bytes
    assert predicted == pytest.approx(counted.peak_bytes, rel=0.25)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_in_half_precision_are_near_those_of_float32(dtype):
    inputs = [value.to(DEVICE) for value in random_inputs(tiny_config(), 16, torch.float32)]
    results = []
    for precision in (None, dtype):
        model = tiny_glow(dtype=torch.float32, hidden_channels=64).to(DEVICE).train()
        set_compute_dtype(model, precision)
        log_prob = model(*inputs)
        log_prob.sum().backward()
        gradient = torch.cat([parameter.grad.flatten().double() for parameter in model.parameters()])
        results.append((log_prob.double().sum(), gradient))
    (log_prob, gradient), (half_log_prob, half_gradient) = results
    assert abs(half_log_prob / log_prob - 1) < 1e-3
    assert (half_gradient - gradient).norm() < 0.05 * gradient.norm()


def test_log_probabilities_are_those_of_a_cpu_in_float64():
    model = tiny_glow(dtype=torch.float64, hidden_channels=64)
    images, noise = random_inputs(model.config, 16)
    with torch.no_grad():
        expected = model(images, noise)
        actual = model.to(DEVICE, torch.float32)(images.to(DEVICE), noise.to(DEVICE, torch.float32)).double().cpu()
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()


def model_on_gpu(dtype):
    model = tiny_glow(dtype=torch.float32, hidden_channels=64).to("cuda").train()
    set_compute_dtype(model, dtype)
    return model


@on_gpu
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


@on_gpu
def test_recorded_images_are_those_of_single_kernels():
    model = model_on_gpu(None).eval()
    noise = torch.randn(64, model.num_dims, device="cuda")
    with torch.no_grad():
        latents = model.scale_noise(noise, 0.7)
        decode = decoder(model)
        decode(*model.scale_noise(torch.randn_like(noise), 0.7))
        assert torch.equal(decode(*latents), model.decode(latents))


@on_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(1000, 512), (131072, 512), (37, 48), (4096, 130)])
def test_relu_backward_is_that_of_torch_with_the_sums_of_its_columns(dtype, shape):
    gradient, output = (torch.randn(shape, device="cuda").to(dtype) for _ in range(2))
    expected, actual = torch.where(output > 0, gradient, 0), gradient.clone()
    total = kernels.relu_backward_and_sum(actual, output)
    assert torch.equal(actual, expected)
    assert (total - expected.double().sum(0)).abs().max() < 1e-4 * expected.double().abs().sum(0).max()


@pytest.mark.parametrize(
    "options",
    [[], ["--cuda_graph", "false", "--memory", "reversible"], ["--train.mixed_precision", "fp16"]],
    ids=["as it is", "reversible", "fp16"],
)
def test_training_goes_on_exactly(digits, tmp_path, reset_accelerate, options):
    common = ["--config", "configs/digits.yaml", "--data.path", str(digits)]
    common += [*options] if "--train.mixed_precision" in options else [*options, "--train.mixed_precision", "bf16"]
    for run, stops in (("whole", ("6",)), ("parts", ("3", "6"))):
        for num_steps in stops:
            reset_accelerate()
            train_stage.main([*common, "--output", str(tmp_path / run), "--train.num_steps", num_steps])
    whole, parts = (find_checkpoint(str(tmp_path / run), "latest", "raw") for run in ("whole", "parts"))
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()


@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_training_is_that_of_single_kernels(digits, tmp_path, reset_accelerate):
    losses = []
    for compiled in ("true", "false"):
        reset_accelerate()
        run = tmp_path / compiled
        common = ["--config", "configs/digits.yaml", "--data.path", str(digits), "--output", str(run), *PLAIN]
        train_stage.main([*common, "--compile", compiled])
        losses.append([line["train/bits_per_dim"] for line in read_metrics(run)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def train_in_process(rank, port, world, arguments):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    if not IS_GPU:
        torch.set_num_threads(1)
        os.environ |= {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    train_stage.main(arguments)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("parallel", ["{mode: ddp}", "{mode: fsdp}", "{mode: pipeline, stages: 2}"])
def test_training_over_processes_is_that_of_one(digits, tmp_path, reset_accelerate, parallel, world):
    if IS_GPU and world > torch.cuda.device_count():
        pytest.skip(f"{torch.cuda.device_count()} GPU(s) here")
    if world == 1 and "pipeline" in parallel:
        pytest.skip("a pipeline has two processes or more")
    common = ["--config", "configs/digits.yaml", "--data.path", str(digits), "--cuda_graph", "false", *PLAIN]
    common += ["--train.microbatch_size", "8"]
    train_stage.main([*common, "--output", str(tmp_path / "alone")])
    arguments = [*common, "--output", str(tmp_path / "together"), "--parallel", parallel]
    torch.multiprocessing.spawn(train_in_process, (get_free_port(), world, arguments), world)
    alone, together = (
        [line["train/bits_per_dim"] for line in read_metrics(tmp_path / run)] for run in ("alone", "together")
    )
    assert together == pytest.approx(alone, rel=1e-4)
