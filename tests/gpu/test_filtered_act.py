"""filtered_act on a GPU: every backend there against float64, two orders, both layouts, every dtype."""

import pytest
import torch

from ganfast.functional import filtered_act
from ganfast.testing import nan_filled
from tests.filtered_act.common import CASES, case, edge_case, parameters
from tests.gpu.test_gpu import DTYPES

pytestmark = pytest.mark.gpu
ROWS = {"small planes": ("stylegan3", "leaky_relu"), "small up 4": ("stylegan3 up 4", "silu"), "small radial": ("radial", "leaky_relu"),
        "small line": ("line rests", "snake"), "small edges": ("bigvgan", "snake_beta")}  # fmt: skip


def on(device, value):
    return value.to(device) if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ["reference", "torch", "triton"])
@pytest.mark.parametrize("name", ROWS)
def test_two_orders(name, backend, dtype, channels_last):
    which, act = ROWS[name]
    x, bias, options = (case if which in CASES else edge_case)(which, dtype, channels=8)
    if channels_last and x.dim() == 3:
        pytest.skip("lines have one layout")
    results = []
    for device, kind, runs in (("cpu", torch.float64, "reference"), ("cuda", dtype, backend)):
        t = on(device, x.to(kind))
        t = t.contiguous(memory_format=torch.channels_last) if channels_last else t
        t.requires_grad_()
        given = {key: on(device, value) for key, value in (options | parameters(act, 8)).items()}
        with nan_filled():
            y = filtered_act(t, on(device, bias), act=act, **given, backend=runs)
            (gx,) = torch.autograd.grad(y.tanh().sum(), t, create_graph=True)
            (again,) = torch.autograd.grad(gx.square().sum(), t)
        results.append([v.detach().cpu().double() for v in (y, gx, again)])
    eps = torch.finfo(dtype).eps * (8 if backend == "torch" else 1)  # which rounds after each of its kernels
    for want, got in zip(*results, strict=True):
        scale = max(1.0, want.abs().max().item())
        wrong = ((got - want).abs() > 64 * eps * scale).double().mean().item()
        assert wrong < 0.02, f"{wrong:.1%} of the values are off"  # a sign at a kink is nobody's error


def test_offsets_beyond_32_bits():
    x = torch.zeros(1, 2**15 + 8, 256, 256, dtype=torch.bfloat16, device="cuda")
    x[:, -1] = 1
    taps = torch.ones(1, device="cuda")
    y = filtered_act(x, up_filter=taps, down_filter=taps, act="relu", backend="triton")
    assert (y[0, -1] == 1).all() and y[0, :-1].amax() == 0
