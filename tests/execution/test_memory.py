"""Memory modes: the same gradients as those of plain autograd, from less that is kept."""

import pytest
import torch
from conftest import fill_table, kept_bytes, perturb, random_inputs, tiny_config, tiny_glow
from variants import VARIANTS, gradients

from glow.bijectors.conv1x1 import LUConv1x1
from glow.execution.precision import set_compute_dtype
from glow.models.glow import Glow

MODES = [("checkpoint", None), ("reversible", None), ("reversible", 1), ("reversible", 2)]


MODES_IN_LESS_PRECISION = [("checkpoint", None), ("reversible", None), ("reversible", 8), ("reversible", 1)]


@pytest.fixture(scope="module")
def table():
    """Rows of a table; GLOW_TABLE=docs/explanation/memory-modes.md puts them there."""
    rows = {}
    yield rows
    if len(rows) == 3:
        names = [f"reversible, anchors every {anchor}" if anchor else mode for mode, anchor in MODES_IN_LESS_PRECISION]
        fill_table("anchors", ["networks in", *names], list(rows.values()))


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_gradients_are_those_of_stored(changes, mode):
    model = tiny_glow(**changes).train()
    inputs = random_inputs(model.config, 4)
    expected_log_prob, expected = gradients(model, inputs)
    model.set_memory(*mode)
    log_prob, actual = gradients(model, inputs)
    assert torch.equal(log_prob, expected_log_prob)
    assert (actual - expected).norm() < 1e-10 * expected.norm()
    if mode[0] == "reversible":
        assert 0 < float(model.runner.drift) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_gradients_at_32_steps_in_less_precision(table, dtype):
    model = tiny_glow(torch.float32, num_steps_per_level=32).train()
    set_compute_dtype(model, None if dtype == torch.float32 else dtype)
    inputs = random_inputs(model.config, 8, torch.float32)
    _, expected = gradients(model, inputs)
    bound = 1e-4 if dtype == torch.float32 else 2e-2
    cells = []
    for mode in MODES_IN_LESS_PRECISION:
        model.set_memory(*mode)
        _, actual = gradients(model, inputs)
        difference = float((actual - expected).norm() / expected.norm())
        assert difference < bound, mode
        drift = "" if mode[0] == "checkpoint" else f" (drift {float(model.runner.drift):.0e})"
        cells.append(f"{difference:.0e}{drift}")
    table[dtype] = f"| {str(dtype).removeprefix('torch.')} | " + " | ".join(cells) + " |"


def test_memory_is_flat_in_the_number_of_steps_for_reversible_and_linear_for_stored():
    kept = {}
    for num_steps in (4, 8, 16):
        model = Glow(tiny_config(num_steps_per_level=num_steps, hidden_channels=32))
        inputs = random_inputs(model.config, 4, torch.float32)
        model.initialize(*inputs)
        perturb(model, 0.01)
        for mode in ("stored", "checkpoint", "reversible"):
            model.set_memory(mode)
            kept[mode, num_steps] = kept_bytes(model, inputs)
    assert kept["reversible", 4] == kept["reversible", 8] == kept["reversible", 16]
    for mode in ("stored", "checkpoint"):
        first, second = (kept[mode, 2 * count] - kept[mode, count] for count in (4, 8))
        assert second == pytest.approx(2 * first, rel=0.02)
        assert first > 0.9 * kept[mode, 4] / 1.5
    assert kept["reversible", 16] < kept["checkpoint", 16] / 4 < kept["stored", 16] / 8


def test_anchors_keep_one_state_each():
    model = tiny_glow(torch.float32, num_steps_per_level=8)
    inputs = random_inputs(model.config, 4, torch.float32)
    model.set_memory("reversible")
    without = kept_bytes(model, inputs)
    model.set_memory("reversible", 2)
    state_bytes = sum(4 * 4 * 3 * 64 // 2**level for level in range(2))
    assert kept_bytes(model, inputs) == without + 3 * state_bytes


def test_drift_is_what_the_rebuilt_states_are_wrong_by(monkeypatch):
    model = tiny_glow(num_steps_per_level=4).train()
    inputs = random_inputs(model.config, 4)
    model.set_memory("reversible")
    right = LUConv1x1.compute_inverse_weight
    monkeypatch.setattr(LUConv1x1, "compute_inverse_weight", lambda self: 1.001 * right(self))
    gradients(model, inputs)
    far = float(model.runner.drift)
    assert 1e-3 < far < 1
    model.set_memory("reversible", 1)
    gradients(model, inputs)
    assert 1e-4 < float(model.runner.drift) < far / 2
