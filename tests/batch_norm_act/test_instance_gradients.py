"""instance_norm_act's derivatives, what traces it, its layers, planted errors, heap checking."""

import sys

import pytest
import torch
from torch import nn

import ganfast.nn as gnn
from benchmarks import prove_heap
from ganfast.functional import instance_norm_act
from ganfast.ops.batch_norm_act import autograd, kernels

BACKENDS = ["reference", "torch", "cpu"]
SHAPES = [(3, 2, 3), (2, 2, 2, 2), (1, 2, 2, 2), (3, 2, 1, 2), (2, 1, 2, 1, 2), (2, 3)]


def _double(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def _leaves(shape, channels_last=False):
    c = shape[0 if len(shape) == 2 else 1]
    x = _double(*shape)
    x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_() if channels_last else x
    return x, _double(c), _double(c), (torch.rand(c).double() + 0.5).requires_grad_()


def _call(act, backend):
    return lambda x, weight, bias, *alpha: instance_norm_act(x, weight, bias, act=act, alpha=alpha[0] if alpha else None, backend=backend)


@pytest.mark.parametrize("act", ["linear", "leaky_relu", "tanh", "snake"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradcheck_and_gradgradcheck(backend, act, channels_last):
    leaves = _leaves((3, 2, 2, 2), channels_last)[: 4 if act == "snake" else 3]
    assert torch.autograd.gradcheck(_call(act, backend), leaves)
    assert torch.autograd.gradgradcheck(_call(act, backend), leaves)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_second_order_of_every_rank(backend, shape):
    leaves = _leaves(shape)
    assert torch.autograd.gradcheck(_call("softplus", backend), leaves)
    assert torch.autograd.gradgradcheck(_call("softplus", backend), leaves)


def test_third_order():
    x, want = _double(2, 2, 3), None
    for backend in BACKENDS:
        y = instance_norm_act(x, act="tanh", backend=backend)
        for _ in range(3):
            (y,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        want = y if want is None else want
        torch.testing.assert_close(y, want)
    assert want.abs().max() > 1e-3


def test_planted_errors_would_be_caught(monkeypatch):
    """Statistics taken as constants in the second order; sums over the images where each image has its own."""
    right, call, x = autograd.gradients, lambda x: instance_norm_act(x, act="tanh", backend="reference"), _double(3, 2, 3)
    monkeypatch.setattr(autograd, "gradients", lambda *args: right(*args[:-1], None))
    assert torch.autograd.gradcheck(call, (x,))
    assert not torch.autograd.gradgradcheck(call, (x,), raise_exception=False)
    monkeypatch.undo()
    stats = kernels._stats
    monkeypatch.setattr(kernels, "stats", lambda x, per_image, *rest: [v.repeat(x.shape[0]) for v in stats(x, False, *rest)])
    assert not torch.autograd.gradcheck(call, (x,), raise_exception=False)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_what_is_wanted(wanted):
    x, weight, bias = (torch.randn(*s).requires_grad_(w) for s, w in zip([(4, 3, 5), (3,), (3,)], wanted, strict=True))
    instance_norm_act(x, weight, bias, act="relu").sum().backward()
    assert [t.grad is not None for t in (x, weight, bias)] == list(wanted)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_fullgraph_compile(channels_last, backend):
    x, weight = torch.randn(3, 4, 5, 5), torch.rand(4, requires_grad=True)
    x = (x.contiguous(memory_format=torch.channels_last) if channels_last else x).requires_grad_()

    def call(x, weight):
        return instance_norm_act(x, weight, act="relu", backend=backend)

    want = torch.autograd.grad(call(x, weight).square().sum(), (x, weight))
    y = torch.compile(call, fullgraph=True, backend="aot_eager")(x, weight)
    assert y.stride() == x.stride()
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), (x, weight)), want)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck(backend, channels_last):
    ops, mean, invstd, weight = torch.ops.ganfast, torch.zeros(12), torch.ones(12), torch.ones(4)
    x = torch.randn(3, 4, 5, 5)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    torch.library.opcheck(ops.batch_norm_act_stats, (x, True, channels_last, backend))
    torch.library.opcheck(ops.batch_norm_act_fwd, (x, mean, invstd, weight, None, None, "relu", 0.0, channels_last, backend))
    for alpha in (None, weight):
        args = (x, x, mean, invstd, weight, None, alpha, "prelu", 0.5, True, channels_last, backend)
        torch.library.opcheck(ops.batch_norm_act_bwd, args)


LAYERS = {
    1: (gnn.InstanceNormAct1d, nn.InstanceNorm1d, (3, 4, 7)),
    2: (gnn.InstanceNormAct2d, nn.InstanceNorm2d, (3, 4, 5, 6)),
    3: (gnn.InstanceNormAct3d, nn.InstanceNorm3d, (3, 4, 3, 2, 4)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dims", LAYERS)
def test_layers_against_torch(dims, affine, training):
    fused_class, plain_class, shape = LAYERS[dims]
    fused, plain = fused_class(4, affine=affine, act="leaky_relu", alpha=0.2).train(training), plain_class(4, affine=affine).train(training)
    assert isinstance(fused, plain_class) and list(fused.state_dict()) == list(plain.state_dict())
    for p in plain.parameters():
        nn.init.normal_(p)
    fused.load_state_dict(plain.state_dict())
    x = torch.randn(shape)
    for example in (x, x[0]):  # a batch, and an image alone
        torch.testing.assert_close(fused(example), nn.functional.leaky_relu(plain(example), 0.2), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert fused(x.bfloat16()).dtype == plain(x.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="expected"):
        fused(torch.randn(2, 3, 4, 5, 6, 7))


def test_layers_refuse_running_statistics_and_learn_alpha():
    with pytest.raises(ValueError, match=r"InstanceNormAct2d: track_running_stats=True.*nn\.InstanceNorm2d"):
        gnn.InstanceNormAct2d(4, track_running_stats=True)
    layer = gnn.InstanceNormAct2d(4, act="prelu", alpha=torch.full((4,), 0.1))
    layer(torch.randn(2, 4, 3, 3)).square().sum().backward()
    assert list(layer.state_dict()) == ["alpha"] and layer.alpha.grad.abs().min() > 0
    assert repr(layer).endswith("track_running_stats=False, act=prelu, alpha=learned (4,))")


def test_autocast_keeps_float32_vectors():
    x, weight = torch.randn(4, 3, 5, 5, dtype=torch.bfloat16, requires_grad=True), torch.rand(3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = instance_norm_act(x, weight, act="gelu")
    gx, gweight = torch.autograd.grad(y.float().square().sum(), (x, weight), create_graph=True)
    assert (y.dtype, gx.dtype, gweight.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    gweight.sum().backward()


def main(backend: str) -> None:
    """Values and both orders of shapes with few pixels, channels, images, in both layouts, under the checking malloc."""
    for n in (1, 2, 5):
        for c in (1, 3, 33):
            for size in ((2,), (33,), (1, 2), (3, 5), (2, 1, 3), (130,)):
                x = torch.randn(n, c, *size)
                for fmt in (torch.contiguous_format, {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())):
                    if fmt is None:
                        continue
                    leaf, vectors = x.contiguous(memory_format=fmt).requires_grad_(), [torch.ones(c, requires_grad=True) for _ in range(3)]
                    y = instance_norm_act(leaf, *vectors[:2], act="prelu", alpha=vectors[2], backend=backend)
                    first = torch.autograd.grad(y.square().sum(), [leaf, *vectors], create_graph=True)
                    sum(g.square().sum() for g in first).backward()
                    instance_norm_act(leaf.detach(), act="tanh", backend=backend)
                    torch.autograd.grad(instance_norm_act(leaf, vectors[0], act="relu", backend=backend).sum(), leaf)
    print("sound")


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_byte_outside(backend):
    if reason := prove_heap.refusal():
        pytest.skip(reason)
    done = prove_heap.checked("-m", "tests.batch_norm_act.test_instance_gradients", backend)
    assert done.returncode == 0 and done.stdout.endswith("sound\n"), f"{done.returncode} {done.stdout[-300:]} {done.stderr[-1000:]}"


if __name__ == "__main__":
    main(sys.argv[1])
