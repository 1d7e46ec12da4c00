"""filtered_act's Triton kernels, interpreted, against both published forms."""

import pytest
import torch

from ganfast.functional import filtered_act
from tests.filtered_act.common import CASES, EDGES, case, edge_case
from tests.filtered_act.test_filtered_act import BETWEEN, compare, gradients
from tests.triton_interpreter import interpreted  # noqa: F401

pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore:overflow encountered in exp")]


@pytest.mark.thinned(5)
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("name", [name for name in CASES if name != "tall"])
def test_by_definition(name, between):
    compare("triton", *case(name, channels=2, batch=1), *BETWEEN[between])


@pytest.mark.thinned(2)
@pytest.mark.parametrize("between", ["lrelu clamped", "snake_beta", "softplus"])
@pytest.mark.parametrize("name", [name for name in EDGES if name != "bigvgan long"])
def test_edges_that_go_on(name, between):
    compare("triton", *edge_case(name, channels=2, batch=1), *BETWEEN[between])


@pytest.mark.parametrize("name", ["stylegan3", "line rests"])
def test_half(name):
    compare("triton", *case(name, torch.float16, channels=2, batch=1), *BETWEEN["lrelu"])


def test_many_channels_and_channels_last():
    x, bias, options = edge_case("short", channels=19)
    compare("triton", x, bias, options, *BETWEEN["snake_beta"])
    x, bias, options = case("same size", channels=3)
    run = lambda t: gradients(lambda *a, **k: filtered_act(*a, **k, backend="triton"), t, bias, options, "leaky_relu", {}, torch.float32)
    for got, want in zip(run(x.contiguous(memory_format=torch.channels_last)), run(x)):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ["same size", "line rests"])
def test_second_order_by_the_signs(name):
    x, bias, options = case(name, channels=2, batch=1)
    found = []
    for backend in ("triton", "reference"):
        leaf = x.clone().requires_grad_()
        y = filtered_act(leaf, bias, act="leaky_relu", alpha=0.2, clamp=1.1, **options, backend=backend)
        (gx,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
        found.append(torch.autograd.grad(gx.square().sum(), leaf)[0])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)
