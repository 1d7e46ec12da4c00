"""torch.compile(model, backend="ganfast"): found by name, without an import of ganfast."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from ganfast.dropin import backend
from tests.dropin import small

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys, torch
from torch import nn
assert "ganfast" in torch._dynamo.list_backends(), torch._dynamo.list_backends()
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 1, 3), nn.Tanh())
plain = nn.Sequential(*model)
assert "ganfast" not in sys.modules
compiled = torch.compile(model, backend="ganfast")
x = torch.randn(2, 3, 8, 8, requires_grad=True)
slopes = []
for m in (compiled, plain):
    (slope,) = torch.autograd.grad(m(x).square().sum(), x, create_graph=True)
    slopes += [slope, *torch.autograd.grad(slope.square().sum(), plain[0].weight)]
assert "ganfast.dropin.backend" in sys.modules
torch.testing.assert_close(slopes[:2], slopes[2:], rtol=1e-3, atol=1e-4)
from ganfast import _backends
assert _backends.ran["batch_norm_act"]
"""


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A folder with what an installation says of the package."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(folder)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"GANFAST_BUILD": "none"}, check=True, capture_output=True)
    return folder


def test_the_installation_names_it(described):
    (found,) = metadata.PathDistribution(described / "ganfast.egg-info").entry_points.select(group="torch_dynamo_backends")
    assert found.name == "ganfast" and found.load() is backend.ganfast


def test_by_name_without_an_import(described):
    paths = os.pathsep.join([str(described), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=described, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options", [{}, {"fullgraph": True}, {"dynamic": True}, {"mode": "default"}], ids=str)
def test_as_a_function_with_options_of_torch_compile(options):
    torch.manual_seed(0)
    plain = small.Blocks()
    model = torch.compile(plain, backend=backend.ganfast, **options)
    for n in (2, 3):
        x = small.images(n)
        small.assert_alike(*(small.orders(lambda t, m=m: m(t), x) for m in (model, plain)))
