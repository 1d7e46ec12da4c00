"""Networks written against the official names: outputs and gradients of two orders, by ganfast's operations and in plain torch."""

import importlib

import pytest
import torch

import ganfast.stylegan
from tests.stylegan import plain


@pytest.fixture
def networks(standin):
    ganfast.stylegan.install()
    return importlib.import_module("networks_stylegan2"), importlib.import_module("networks_stylegan3")


def in_plain_torch(monkeypatch, networks, call):
    with monkeypatch.context() as patch:
        for module in networks:
            for name, operations in plain.MODULES.items():
                if hasattr(module, name):
                    patch.setattr(module, name, operations)
        return call()


def agree(got, want, tolerance=1e-9):
    for ours, theirs in zip(got, want, strict=True):
        scale = theirs.double().abs().max() + 1e-12
        assert (ours.double() - theirs.double()).abs().max() <= tolerance * scale


def everything(loss, network):
    return [loss.detach(), *torch.autograd.grad(loss, [*network.parameters()])]


@pytest.mark.parametrize("fused", [True, False])
def test_a_generator(networks, monkeypatch, fused):
    """Forward, backward, and the gradient of a path length."""
    generator = networks[0].Generator().double()
    w, noise = torch.randn(3, 5, dtype=torch.float64, requires_grad=True), torch.randn(3, 3, 8, 8, dtype=torch.float64)

    def call():
        images = generator(w, fused_modconv=fused)
        (gw,) = torch.autograd.grad((images * noise).sum(), w, create_graph=True)
        return [images.detach(), gw.detach(), *everything(images.square().mean() + gw.square().sum(1).sqrt().mean(), generator)]

    agree(call(), in_plain_torch(monkeypatch, networks, call))


def test_a_discriminator_and_its_r1(networks, monkeypatch):
    block = networks[0].DiscriminatorBlock(4).double()
    real = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    from torch_utils.ops import conv2d_gradfix

    def call():
        logits = block(real)
        with conv2d_gradfix.no_weight_gradients():
            (gx,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        return [gx.detach(), *everything(logits.square().mean() + gx.square().sum(), block)]

    agree(call(), in_plain_torch(monkeypatch, networks, call))


def test_a_layer_of_stylegan3(networks, monkeypatch):
    layer = networks[1].SynthesisLayer(3, 4).double()
    x, styles = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True), torch.randn(2, 3, dtype=torch.float64)

    def call():
        y = layer(x, styles)
        (gx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return [y.detach(), *everything(y.square().mean() + gx.square().sum(), layer)]

    agree(call(), in_plain_torch(monkeypatch, networks, call))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("fused", [True, False])
def test_16_bits(networks, dtype, fused):
    generator, block, layer = networks[0].Generator(), networks[0].DiscriminatorBlock(4), networks[1].SynthesisLayer(3, 3)
    w, styles = torch.randn(3, 5), torch.randn(3, 3)

    def call(dtype):
        images = generator(w, dtype, fused)
        logits = block(layer(images.to(dtype), styles))
        assert logits.dtype == dtype and images.dtype == torch.float32
        loss = logits.float().square().mean()
        parameters = [*generator.parameters(), *block.parameters(), *layer.parameters()]
        return [images.detach(), logits.detach(), *torch.autograd.grad(loss, parameters)]

    agree(call(dtype), call(torch.float32), tolerance=0.1 if dtype == torch.bfloat16 else 0.02)
