"""Kernels for GPUs, run by Triton's interpreter."""

import subprocess
import sys

import pytest

pytest.importorskip("triton")

CHECK = """
import torch
from glow.networks.kernels import relu_backward_and_sum

for dtype in (torch.float32, torch.float16):
    for shape in ((2100, 130), (37, 48), (1, 1)):
        gradient, output = torch.randn(shape).to(dtype), torch.randn(shape).relu().to(dtype)
        expected = torch.where(output > 0, gradient, 0)
        actual = gradient.clone()
        total = relu_backward_and_sum(actual, output)
        assert torch.equal(actual, expected), (dtype, shape)
        torch.testing.assert_close(total, expected.float().sum(0), rtol=1e-5, atol=1e-4)
        assert total.dtype == torch.float32
print("checked")
"""


def test_relu_backward_is_that_of_torch_with_the_sums_of_its_columns():
    environment = {"TRITON_INTERPRET": "1", "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "checked\n", done.stderr
