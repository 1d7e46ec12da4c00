"""First and second derivatives through the public function, in float64."""

import pytest
import torch

from ganfast.functional import batch_norm_act
from ganfast.ops.batch_norm_act import autograd


def _double(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("act", ["linear", "leaky_relu", "tanh", "snake"])
@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
def test_gradcheck_and_gradgradcheck(backend, act, training):
    x, weight, bias, alpha = _double(3, 2, 2), _double(2), _double(2), (torch.rand(2).double() + 0.5).requires_grad_()
    running = (None, None) if training else (torch.randn(2).double(), torch.rand(2).double() + 0.5)
    learned = act == "snake"

    def call(x, weight, bias, *rest):
        return batch_norm_act(x, *running, weight, bias, training=training, act=act, alpha=rest[0] if rest else None, backend=backend)

    leaves = (x, weight, bias, *((alpha,) if learned else ()))
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def test_statistics_taken_as_constants_would_be_caught(monkeypatch):
    """The mistake of a double backward that forgets that mean and invstd depend on x."""
    right = autograd.gradients
    monkeypatch.setattr(autograd, "gradients", lambda *args: right(*args[:-1], None))
    call = lambda x: batch_norm_act(x, None, None, training=True, act="tanh", backend="reference")
    assert torch.autograd.gradcheck(call, (_double(3, 2, 2),))
    assert not torch.autograd.gradgradcheck(call, (_double(3, 2, 2),), raise_exception=False)


def test_backward_twice_and_two_forwards_before_it():
    """D(real), D(fake), backward: the second forward moves the running statistics, which nothing may have saved."""
    running, weight = [torch.zeros(3), torch.ones(3)], torch.ones(3, requires_grad=True)
    call = lambda x: batch_norm_act(x, *running, weight, training=True, act="leaky_relu", alpha=0.2)
    loss = call(torch.randn(4, 3, 5, 5)).square().sum() + call(torch.randn(4, 3, 5, 5)).sum()
    loss.backward(retain_graph=True)
    first = weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(weight.grad, 2 * first)
    eval_y = batch_norm_act(torch.randn(4, 3, 5, 5), *running, weight, act="relu")
    running[0].add_(1)
    eval_y.sum().backward()


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_what_is_wanted(wanted):
    x, weight, bias = (torch.randn(*s).requires_grad_(w) for s, w in zip([(4, 3, 5), (3,), (3,)], wanted, strict=True))
    batch_norm_act(x, None, None, weight, bias, training=True, act="relu").sum().backward()
    assert [t.grad is not None for t in (x, weight, bias)] == list(wanted)


def test_autocast_keeps_float32_vectors():
    x, weight = torch.randn(4, 3, 5, 5, dtype=torch.bfloat16, requires_grad=True), torch.rand(3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = batch_norm_act(x, None, None, weight, training=True, act="gelu")
    gx, gweight = torch.autograd.grad(y.float().square().sum(), (x, weight), create_graph=True)
    assert (y.dtype, gx.dtype, gweight.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    gweight.sum().backward()


def test_fullgraph_compile_and_opcheck():
    running = [torch.zeros(4), torch.ones(4)]

    def call(x, weight):
        return batch_norm_act(x, *running, weight, training=True, act="relu")

    x, weight = torch.randn(6, 4, 5, 5, requires_grad=True), torch.rand(4, requires_grad=True)
    want = torch.autograd.grad(call(x, weight).square().sum(), (x, weight))
    moved = [v.clone() for v in running]
    running[0].zero_(), running[1].fill_(1)
    got = torch.autograd.grad(torch.compile(call, fullgraph=True, backend="aot_eager")(x, weight).square().sum(), (x, weight))
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(running, moved)
    ops, mean, invstd = torch.ops.ganfast, torch.zeros(4), torch.ones(4)
    x = x.detach()
    for backend in ("reference", "torch"):
        torch.library.opcheck(ops.batch_norm_act_stats, (x, False, False, backend))
        torch.library.opcheck(ops.batch_norm_act_fwd, (x, mean, invstd, None, None, None, "relu", 0.0, False, backend))
        torch.library.opcheck(ops.batch_norm_act_bwd, (x, x, mean, invstd, None, None, None, "relu", 0.0, True, False, backend))
