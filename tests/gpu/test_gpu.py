"""What only a GPU can show: half precision there, and the plan against its allocator."""

import pytest
import torch

from glow.config import PlanRun
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
