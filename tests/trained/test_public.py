"""The public names of the library, and when they are imported."""

import subprocess
import sys

import pytest

import glow

LAZY = """
import sys
import glow, glow.config
from glow import FlowConfig, ModelConfig
assert {"Glow", "load", "bijectors"} <= set(dir(glow))
assert "torch" not in sys.modules
glow.load("digits")
assert not {"torchvision", "matplotlib"} & set(sys.modules)
"""


def test_configurations_need_no_torch_and_load_imports_little():
    subprocess.run([sys.executable, "-c", LAZY], check=True)


def test_every_public_name_is_there_and_documented():
    for name in glow.__all__:
        assert getattr(glow, name).__doc__
        assert name in glow.__doc__
    assert set(glow.__all__) <= set(dir(glow))
    names = {}
    exec("from glow import *", names)
    assert set(glow.__all__) <= set(names)


def test_parts_are_exported_by_their_rooms():
    assert glow.bijectors.AffineCoupling(glow.networks.MLP(1, 4, 2)).net.hidden
    for room in (glow.bijectors, glow.networks):
        assert all(getattr(room, name).__doc__ for name in room.__all__)


def test_a_name_that_is_not_there_is_an_error():
    with pytest.raises(
        AttributeError, match="module 'glow' has no attribute 'lod'; its public names: DiagonalGaussian"
    ):
        glow.lod  # noqa: B018
