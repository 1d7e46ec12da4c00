"""What a backward keeps, and whom a penalty alone reaches: an optimizer's step between two backwards, None or zeros, as torch's layers."""

import functools
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast.nn as gnn
from ganfast.functional import batch_norm_act, bias_act, conv_act, conv_transpose_act, instance_norm_act, upsample_conv_act
from ganfast.train.distributed.sync_batch_norm import synchronised_batch_norm_act
from tests.infinities import act_of_torch

WIDE = {"x": (2, 3, 5), "weight": (3, 3, 3), "bias": (3,)}
NORM = {"x": (4, 3, 5), "weight": (3,), "bias": (3,)}
RUNNING = torch.zeros(3), torch.ones(3)
# name -> (shapes of what may learn, torch's layer before the activation, ganfast's op)
OPS = {
    "conv": (WIDE, F.conv1d, conv_act),
    "conv_transpose": (WIDE, F.conv_transpose1d, conv_transpose_act),
    "upsample_conv": (WIDE, lambda x, w, b: F.conv1d(F.interpolate(x, scale_factor=2), w, b, padding=1), upsample_conv_act),
    "batch_norm": (NORM, lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
                   lambda x, w, b, **k: batch_norm_act(x, None, None, w, b, training=True, **k)),
    "batch_norm_eval": (NORM, lambda x, w, b: F.batch_norm(x, *RUNNING, w, b), lambda x, w, b, **k: batch_norm_act(x, *RUNNING, w, b, **k)),
    "sync_batch_norm": (NORM, lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
                        lambda x, w, b, act, alpha=None: synchronised_batch_norm_act(x, None, None, w, b, 0.1, 1e-5, act, alpha)),
    "instance_norm": (NORM, lambda x, w, b: F.instance_norm(x, None, None, w, b), instance_norm_act),
    "bias": ({"x": (2, 3, 5), "bias": (3,)}, lambda x, b: x + b[:, None], bias_act),
}  # fmt: skip
for name in ("conv", "conv_transpose", "upsample_conv", "bias"):
    OPS[f"{name}_open"] = (*OPS[name][:2], functools.partial(OPS[name][2], open_output=True))
ACTS = ["linear", "relu", "leaky_relu", "tanh", "elu", "silu", "prelu"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.setattr("ganfast.train.distributed.sync_batch_norm.summed", lambda x: x)


def outcome(call, leaves: dict, changed: str | None, twice: bool):
    """The gradients, or "raises", where `changed` is overwritten between the forward and the backward, or a backward and its own."""
    own = {name: v.detach().clone().requires_grad_(v.requires_grad) for name, v in leaves.items()}
    learning = [v for v in own.values() if v.requires_grad]
    y = call(**own)
    gy = torch.ones_like(y).requires_grad_()
    if twice:
        first = torch.autograd.grad(y, learning, gy, create_graph=True)
    if changed is not None:
        own[changed].detach().add_(1)
    try:
        if not twice:
            return torch.autograd.grad(y.square(), learning, torch.ones_like(y))
        first = [g for g in first if g.requires_grad]
        return torch.autograd.grad(first, (gy, *learning), [torch.ones_like(g) for g in first], allow_unused=True)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        return "raises"


@pytest.mark.parametrize("twice", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("name", OPS)
@pytest.mark.thinned(3)
def test_nothing_is_kept_that_torch_does_not_keep(name, act, twice):
    """For every tensor that could be overwritten and every choice of what learns. Where torch keeps only what comes before the
    activation (after a bias, and after a norm of which nothing learns), the fused passes keep x, and a norm's weight, to compute it."""
    shapes, layer, op = OPS[name]
    shapes = {**shapes, "alpha": (3,)} if act == "prelu" else shapes
    leaves = {n: torch.randn(s) for n, s in shapes.items()}
    if act == "prelu":
        leaves["alpha"] = torch.rand(3)

    def eager(alpha=None, **inputs):
        return act_of_torch(layer(*inputs.values()), act, {"leaky_relu": 0.2, "elu": 1.0}.get(act) if alpha is None else alpha)

    def fast(alpha=None, **inputs):
        return op(*inputs.values(), act=act, alpha=alpha if alpha is not None else {"leaky_relu": 0.2, "elu": 1.0}.get(act))

    for learns in itertools.product([True, False], repeat=len(leaves)):
        if not any(learns):
            continue
        for v, need in zip(leaves.values(), learns):
            v.requires_grad_(need)
        want = outcome(eager, leaves, None, twice)
        assert [g is None for g in outcome(fast, leaves, None, twice)] == [g is None for g in want], f"None or zeros, learns {learns}"
        for changed in leaves:
            instead_of_z = (
                name == "bias" or (name == "bias_open" and act not in ("relu", "leaky_relu")) or ("norm" in name and not any(learns[:3]))
            )
            if outcome(eager, leaves, changed, twice) == "raises" or (instead_of_z and changed in ("x", "weight")):
                continue
            got = outcome(fast, leaves, changed, twice)
            assert got != "raises", f"{changed} is kept, learns {learns}"
            for g, w in zip(got, want):
                torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-4, msg=f"{changed} overwritten, learns {learns}")


def networks(act: str):
    """(torch's, ganfast's) layers in places where only zeros lead to some parameter, by name."""
    alpha = {"alpha": 0.2} if act == "leaky_relu" else {}
    layer = {"relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.2), "tanh": nn.Tanh()}[act]
    conv, own = nn.Conv2d, lambda *sizes, **k: gnn.ConvAct2d(*sizes, **k)
    first, last, own_first, own_last = conv(3, 4, 3), conv(4, 1, 3), own(3, 4, 3), own(4, 1, 3)
    fused = {"act": act, **alpha}
    yield "norm", [first, nn.BatchNorm2d(4), layer, last], [own_first, gnn.BatchNormAct2d(4, **fused), own_last]
    yield "eval norm", [first, nn.BatchNorm2d(4).eval(), layer, last], [own_first, gnn.BatchNormAct2d(4, **fused).eval(), own_last]
    instance = nn.InstanceNorm2d(4, affine=True), gnn.InstanceNormAct2d(4, affine=True, **fused)
    yield "instance norm", [first, instance[0], layer, last], [own_first, instance[1], own_last]
    yield "two convolutions", [first, conv(4, 4, 3), layer, last], [own_first, own(4, 4, 3, **fused), own_last]
    between = nn.ConvTranspose2d(4, 4, 3), gnn.ConvTransposeAct2d(4, 4, 3, **fused)
    yield "something between", [first, nn.AvgPool2d(2), between[0], layer, last], [own_first, nn.AvgPool2d(2), between[1], own_last]
    chain = [own(3, 4, 3, **fused), nn.Dropout(0.0), own(4, 4, 3, **fused), own_last]
    yield "a chain", [first, layer, nn.Dropout(0.0), conv(4, 4, 3), layer, last], chain


@pytest.fixture(params=[False, True], ids=["closed", "open"])
def outputs(request, monkeypatch):
    """The layers as they are, and as they are where others may change what they return."""
    for op in (conv_act, conv_transpose_act) if request.param else ():
        monkeypatch.setattr(f"ganfast.nn.layers.{op.__name__}", functools.partial(op, open_output=True))


@pytest.mark.parametrize("frozen", [False, True], ids=["all learn", "weights frozen"])
@pytest.mark.parametrize("act", ["relu", "leaky_relu", "tanh"])
def test_a_penalty_alone_reaches_whom_torchs_does(act, frozen, outputs):
    for name, eager, fast in networks(act):
        eager, fast = nn.Sequential(*eager), nn.Sequential(*fast)
        results = []
        for own, torchs in zip(fast.parameters(), eager.parameters(), strict=True):
            own.requires_grad_().grad = torchs.requires_grad_().grad = None
            own.data.copy_(torchs.data)
        for net in (eager, fast):
            if frozen:
                for p in net.parameters():
                    p.requires_grad_(p.dim() == 1)
            x = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
            (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
            if g.requires_grad:
                g.square().sum().backward()
            results.append([p.grad for p in (*net.parameters(), x)])
        for i, (got, want) in enumerate(zip(*reversed(results))):
            assert (got is None) == (want is None), f"{name}: parameter {i} has {got}, torch's {want}"
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, msg=f"{name}: parameter {i}")


@pytest.mark.parametrize("frozen", [False, True], ids=["all learn", "weights frozen"])
@pytest.mark.parametrize("act", ["relu", "leaky_relu", "tanh"])
def test_a_penalty_on_the_gradient_of_a_hidden_layer_reaches_whom_torchs_does(act, frozen, outputs):
    """The backward of the layers before the hidden one does not run in the inner autograd.grad, so it cannot hand zeros on."""
    first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh() if act == "tanh" else nn.LeakyReLU(0.2))
    own_first = gnn.ConvAct2d(3, 4, 3, act="tanh") if act == "tanh" else gnn.ConvAct2d(3, 4, 3, act="leaky_relu", alpha=0.2)
    for name, eager, fast in networks("relu" if act == "tanh" else act):
        eager, fast = nn.Sequential(first, *eager[2 if name == "a chain" else 1 :]), nn.Sequential(own_first, *fast[1:])
        for own, torchs in zip(fast.parameters(), eager.parameters(), strict=True):
            torchs.requires_grad_().grad = own.grad = None
            torchs.requires_grad_(not frozen or torchs.dim() == 1)
            own.requires_grad_(torchs.requires_grad).data.copy_(torchs.data)
        for net in (eager, fast):
            hidden = net[0](torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1)))
            (g,) = torch.autograd.grad(net[1:](hidden).sum(), hidden, create_graph=True)
            if g.requires_grad:
                g.square().sum().backward()
        for i, (own, torchs) in enumerate(zip(fast.parameters(), eager.parameters())):
            assert (own.grad is None) == (torchs.grad is None), f"{name}: parameter {i} has {own.grad}, torch's {torchs.grad}"
            torch.testing.assert_close(own.grad, torchs.grad, rtol=1e-4, atol=1e-5, msg=f"{name}: parameter {i}")


def test_zeros_go_where_nothing_else_leads_and_not_through_every_convolution():
    """A chain of convolutions and activations: the double backward runs no node of the forward, as torch's would."""
    layers = [gnn.ConvAct2d(3, 3, 3, act="relu"), nn.Dropout(0.5), *(gnn.ConvAct2d(3, 3, 3, act="relu") for _ in range(2))]
    ran, x = [], torch.randn(1, 3, 10, 10, requires_grad=True)
    y, nodes = x, []
    for layer in layers:
        y = layer(y)
        nodes.append(y.grad_fn)
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    for node in nodes:
        node.register_hook(lambda *_: ran.append(1))
    g.square().sum().backward()
    assert not ran and all(p.grad is not None for p in nn.Sequential(*layers).parameters())
