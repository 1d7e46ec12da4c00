"""Autograd Functions in a graph, ganfast's ops among them: their second derivatives are right, or an error."""

import copy

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

import ganfast
import ganfast.functional as GF


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0].square() * g


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


class _Exponential(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        return ctx.saved_tensors[0] * g


class _Nested(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return _Straight.apply(g)


class _Between(nn.Module):
    """A Function between sines, in torch's checkpointing or not."""

    def __init__(self, function, again=False):
        super().__init__()
        self.weight, self.function, self.again = nn.Parameter(torch.tensor(0.7)), function, again

    def forward(self, x):
        y = torch.sin(x) * self.weight
        y = torch.utils.checkpoint.checkpoint(self.function, y, use_reentrant=False) if self.again else self.function(y)
        return torch.tanh(y).sum()


def penalised(model, x):
    (gx,) = torch.autograd.grad(model(x), x, create_graph=True)
    return gx, *torch.autograd.grad(gx.square().sum(), list(model.parameters()))


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TAPS, WEIGHT = torch.tensor([1.0, 3.0, 1.0]) / 5, torch.eye(3).view(3, 3, 1, 1)
REFUSED = {
    "downsample": lambda t: GF.downsample(t, TAPS),
    "conv_act": lambda t: GF.conv_act(t, WEIGHT, act="silu"),
    "what saves its result": _Exponential.apply,
    "one in another's backward": _Nested.apply,
}


@pytest.mark.parametrize("again", [False, True], ids=["", "checkpointed"])
@pytest.mark.parametrize("function", REFUSED.values(), ids=REFUSED)
def test_a_second_derivative_that_would_be_wrong_is_refused(function, again):
    model, x = _Between(function, again), IMAGE.clone().requires_grad_()
    compiled = torch.compile(model, backend="ganfast")
    torch.testing.assert_close(*(torch.autograd.grad(m(x), (x, model.weight)) for m in (model, compiled)))
    with pytest.raises(RuntimeError, match=r"differentiated a second time inside of a graph of torch.compile"):
        penalised(compiled, x)


@pytest.mark.parametrize("way", ["backend", "accelerate"])
@pytest.mark.parametrize("again", [False, True], ids=["", "checkpointed"])
@pytest.mark.parametrize("function", [_Cube.apply, _Straight.apply], ids=["cube", "straight through"])
def test_second_derivatives_of_a_users_function(function, again, way):
    plain, x = _Between(function, again), IMAGE.clone().requires_grad_()
    model = torch.compile(plain, backend="ganfast") if way == "backend" else ganfast.accelerate(copy.deepcopy(plain))
    for _ in range(2):
        torch.testing.assert_close(penalised(model, x), penalised(plain, x))


@pytest.mark.parametrize("function", [REFUSED["downsample"], REFUSED["conv_act"]], ids=["downsample", "conv_act"])
def test_accelerated_models_have_those_of_ganfasts_ops(function):
    plain, x = _Between(function), IMAGE.clone().requires_grad_()
    torch.testing.assert_close(penalised(ganfast.accelerate(copy.deepcopy(plain)), x), penalised(plain, x))


def test_a_gradient_may_be_changed_in_place():
    x = IMAGE.clone().requires_grad_()
    compiled = torch.compile(lambda t: GF.conv_act(t, WEIGHT, act="silu"), backend="ganfast")
    (gx,) = torch.autograd.grad(compiled(x).sum(), x, create_graph=True)
    want = 2 * gx.detach()
    torch.testing.assert_close(gx.mul_(2).detach(), want)
