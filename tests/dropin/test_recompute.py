"""What a forward keeps for its backward: no more than eager's with in-place activations, and about half of it with recompute=True."""

import gc
import weakref

import pytest
import torch
from torch import nn

import ganfast
from ganfast._memory import saved_bytes


def generator(norm=nn.BatchNorm2d, width=8) -> nn.Sequential:
    torch.manual_seed(0)
    sizes = [(20, 8 * width, 1, 0), (8 * width, 4 * width, 2, 1), (4 * width, 2 * width, 2, 1), (2 * width, width, 2, 1)]
    layers = [layer for i, o, s, p in sizes for layer in (nn.ConvTranspose2d(i, o, 4, s, p, bias=False), norm(o), nn.ReLU(True))]
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh())


def discriminator(norm=nn.BatchNorm2d, width=8) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    for c in (width, 2 * width, 4 * width):
        layers += [nn.Conv2d(c, 2 * c, 4, 2, 1, bias=False), norm(2 * c), nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4))


NETWORKS = {"generator": (generator, (2, 20, 1, 1)), "discriminator": (discriminator, (2, 3, 64, 64))}


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "autocast"])
def test_saved_activations(bf16):
    """DCGAN-64 of width 64."""
    kept = {}
    for name, (make, shape) in NETWORKS.items():
        x = torch.randn(shape)
        for who in ("eager", "ganfast", "recompute"):
            model = make(width=64)
            if who != "eager":
                ganfast.accelerate(model, recompute=who == "recompute")
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                kept[name, who] = saved_bytes(model, lambda model=model, x=x: model(x))
            if bf16:  # the casts of weights are no activations
                kept[name, who] -= 2 * sum(p.numel() for p in model.parameters() if p.dim() > 1)
    total = {who: sum(kept[name, who] for name in NETWORKS) for who in ("eager", "ganfast", "recompute")}
    assert total["recompute"] <= 0.65 * total["eager"]
    for name in NETWORKS:
        assert kept[name, "ganfast"] <= 1.005 * kept[name, "eager"]  # the statistics of norms are kept in float32
        assert kept[name, "recompute"] <= 0.72 * kept[name, "eager"]  # a discriminator's first layer has no norm


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d], ids=["batch", "instance"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_without_it(name, norm):
    make, shape = NETWORKS[name]
    if norm is nn.InstanceNorm2d:
        shape = {"generator": (2, 20, 2, 2)}.get(name, shape)
    x = torch.randn(shape)
    results = []
    for recompute in (False, True):
        model = ganfast.accelerate(make(norm), recompute=recompute)
        inputs = [x.clone().requires_grad_(), *model.parameters()]
        first = torch.autograd.grad(model(inputs[0]).square().sum(), inputs)
        (gx,) = torch.autograd.grad(model(inputs[0]).sum(), inputs[:1], create_graph=True)
        second = torch.autograd.grad(gx.square().sum(), inputs, materialize_grads=True)
        results.append((*first, *second))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item() + 1e-7)


def test_the_norms_output_is_freed():
    outputs = []
    model = ganfast.accelerate(
        nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()), nn.Conv2d(4, 2, 1)), recompute=True
    )
    model[0].register_forward_hook(lambda m, i, o: outputs.append(weakref.ref(o)))
    y = model(torch.randn(2, 3, 5, 5))
    gc.collect()
    assert outputs[0]() is None
    y.sum().backward()
    whole = weakref.ref(y)
    del y
    assert whole() is None  # without the help of the garbage collector: no cycle


def test_a_changed_output_is_kept_as_it_is():
    """A dropout in place after the norm: what the norm saved no longer gives it."""
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5, True), nn.Conv2d(4, 2, 1))
        ganfast.accelerate(model, recompute=recompute)
        torch.manual_seed(1)
        model(torch.randn(2, 3, 5, 5)).square().sum().backward()
        results.append([p.grad for p in model.parameters()])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


def test_the_users_own_hooks_still_see_what_is_saved():
    model = ganfast.accelerate(generator(), recompute=True)
    x = torch.randn(4, 20, 1, 1)
    wanted = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    with torch.autograd.graph.save_on_cpu():
        got = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    for a, b in zip(got, wanted):
        torch.testing.assert_close(a, b)


def test_checkpointing_and_a_change_without_gradients():
    x = torch.randn(2, 20, 2, 2)
    model = ganfast.accelerate(generator(), recompute=True)
    wanted = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    for reentrant in (False, True):
        y = torch.utils.checkpoint.checkpoint(model, x.clone().requires_grad_(), use_reentrant=reentrant)
        for a, b in zip(torch.autograd.grad(y.square().sum(), list(model.parameters())) if not reentrant else wanted, wanted):
            torch.testing.assert_close(a, b)
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        blocks = [
            ganfast.accelerate(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()), recompute=recompute) for _ in range(2)
        ]
        y = blocks[0](torch.ones(2, 3, 4, 4).cumsum(2))
        with torch.no_grad():
            y.mul_(3)
        results.append(torch.autograd.grad(blocks[1](y).square().sum(), list(blocks[1].parameters())))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)
