"""What `conv_act` leaves to torch in one call, and the strides of what comes out."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad

from ganfast._activations import act_fwd
from ganfast.functional import conv_act
from ganfast.ops.conv_transpose_act import kernels

ALL = ["reference", "torch", "cpu", "auto"]


@pytest.mark.parametrize("act, bias", [("linear", True), ("linear", False), ("relu", True), ("silu", True)])
@pytest.mark.parametrize("kernel, stride, calls", [(3, 1, 1), (3, 2, 1), (1, 2, 0)])
def test_both_gradients_by_one_call_of_torchs(monkeypatch, act, bias, kernel, stride, calls):
    """But not of a layer whose own gradients torch may not be trusted with: one tap with a stride."""
    seen, real = [], kernels.both_grads
    monkeypatch.setattr(kernels, "both_grads", lambda *args: seen.append(args) or real(*args))
    monkeypatch.delenv("GANFAST_BACKEND", raising=False)
    leaves = [torch.randn(2, 12, 9, 8), torch.randn(10, 12, kernel, kernel), *([torch.randn(10)] if bias else [])]

    def gradients(call, kind):
        own = [t.to(kind).requires_grad_() for t in leaves]
        return torch.autograd.grad(call(*own, stride=stride).square().sum(), own)

    found = gradients(lambda *args, **more: conv_act(*args, act=act, **more), torch.float32)
    want = gradients(lambda *args, **more: act_fwd(F.conv2d(*args, **more), act, None, 0.0), torch.float64)
    assert len(seen) == calls
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-3)
    seen.clear()
    x, weight = (t.clone().requires_grad_() for t in leaves[:2])
    torch.autograd.grad(conv_act(x, weight, stride=stride, act=act).square().sum(), x)  # the weight's is not wanted
    assert not seen


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("shape, kernel", [((1, 12, 5, 4), 1), ((1, 12, 5, 4), 3), ((1, 4, 3, 5, 4), 3), ((2, 12, 5, 4), 3)])
def test_the_strides_of_channels_last(backend, shape, kernel):
    """Of one image too, whose own stride names no other element: torch tells formats apart by it."""
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = torch.randn(shape).contiguous(memory_format=last).requires_grad_()
    weight = torch.randn(6, shape[1], *[kernel] * (len(shape) - 2))
    y = conv_act(x, weight, padding=kernel // 2, backend=backend)
    (gx,) = grad(y.square().sum(), x)
    for t in (y, gx):
        assert t.stride() == torch.empty_like(t, memory_format=last).stride()
