"""What test_families.py would notice: planted errors, each in a network that is accelerated after it was spoiled."""

import pytest
import torch
from torch import nn

from ganfast import accelerate
from tests.families import hifigan, oracle
from tests.families.registry import FAMILIES

ROWS = {row.name: row for row in FAMILIES}
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def each(kind, change):
    """Spoils every module of a kind."""

    def spoil(model):
        found = [module for module in model.modules() if isinstance(module, kind)]
        assert found
        for module in found:
            change(module)

    return spoil


def one(path, change):
    return lambda model: change(model.get_submodule(path))


def setting(name, factor):
    return lambda module: setattr(module, name, getattr(module, name) * factor)


@torch.no_grad()
def scale(parameter, factor):
    parameter.mul_(factor)


def skip(module):
    module.register_forward_hook(lambda module, args, y: args[0])


class _Slope(torch.autograd.Function):
    """x, with a derivative of `first`, and of `first * second` where that derivative is differentiated."""

    @staticmethod
    def forward(ctx, x, first, second):
        ctx.factors = first, second
        return x.clone()

    @staticmethod
    def backward(ctx, gy):
        first, second = ctx.factors
        return (first * gy if second == 1 else _Slope.apply(gy, second, 1)), None, None


def derivative(first, second):
    # A Function in another's backward has no second derivative in a graph: it stays out of it.
    slope = _Slope.apply if second == 1 else torch.compiler.disable(_Slope.apply)
    return lambda module: module.register_forward_hook(lambda module, args, y: slope(y, first, second))


def once_more(model):
    """Whatever a forward leaves behind, it leaves twice."""
    with torch.no_grad():
        model(torch.rand(3, 3, 32, 32))


# What is planted, where, in train mode or not, and the kind of result that shows it first.
PLANTS = {
    "a slope 5 % off": ("dcgan-flat-d", True, each(nn.LeakyReLU, setting("negative_slope", 1.05)), "output"),
    "a slope 5 % off before an instance norm": ("cyclegan-d", False, one("model.1", setting("negative_slope", 1.05)), "output"),
    "a slope 5 % off, in place": ("pix2pix-unet", True, one("model.model.1.model.0", setting("negative_slope", 1.05)), "output"),
    "a learned slope 1 % off": ("srgan-g", True, one("conv1.1", lambda m: scale(m.weight, 1.01)), "output"),
    "an ELU's alpha": ("resize-g", True, one("body.6", setting("alpha", 1.01)), "output"),
    "softplus for another beta": ("gan3d-upsample-g", True, one("decode.6", setting("beta", 1.01)), "output"),
    "gelu by tanh": ("vae-decoder", True, each(nn.GELU, lambda m: setattr(m, "approximate", "tanh")), "output"),
    "a snake's frequency": ("bigvgan-log-g", True, one("resblocks.0.activations.1", lambda m: scale(m.alpha, 1.01)), "output"),
    "nearest and bilinear": ("lsgan-g", True, one("conv_blocks.4", lambda m: setattr(m, "mode", "bilinear")), "output"),
    "eps": ("cyclegan-g", True, each(nn.InstanceNorm2d, setting("eps", 10)), "output"),
    "a momentum": ("dcgan-flat-g", True, each(nn.BatchNorm2d, setting("momentum", 1.01)), "buffer"),
    "a batch not counted": ("gan3d-g", True, one("layer1.1", lambda m: m.num_batches_tracked.add_(1)), "buffer"),
    "statistics of the past": ("vae", True, each(_BATCH_NORMS, nn.Module.eval), "buffer"),
    "statistics of the batch": ("stackgan-stage1-g", False, each(_BATCH_NORMS, nn.Module.train), "buffer"),
    "a bias left out": ("srgan-g", True, one("conv3.0", lambda m: scale(m.bias, 0)), "output"),
    "a bias left out before a norm": ("dcgan-functional-g", True, one("deconv2", lambda m: scale(m.bias, 0)), "buffer"),
    "a norm left out": ("sngan-resnet-g", True, one("model.1.bn2", skip), "gradient"),
    "an activation left out": ("stackgan-stage1-d", False, one("encode_img.1", setting("negative_slope", 5)), "output"),
    "a weight's length": ("hifigan-old-g", True, one("ups.1", lambda m: scale(m.weight_g, 1.0001)), "output"),
    "one power iteration too many": ("sngan-resnet-old-d", True, once_more, "output"),
    "another dtype": ("dcgan-flat-g", False, one("main.10", lambda m: m.register_forward_hook(lambda m, a, y: y.double())), "output"),
    "no gradient": ("dcgan-flat-d", True, one("main.0", lambda m: m.register_forward_hook(lambda m, a, y: y.detach())), "gradient"),
    "a gradient 0.1 % off": ("gan3d-d", True, one("layer2.1", derivative(1.001, 1)), "gradient"),
    "a second derivative 0.1 % off": ("dcgan-flat-d", True, one("main.3", derivative(1, 1.001)), "second"),
    "a gain": ("r3gan-g", True, one("stages.1.1.act1", setting("gain", 1.01)), "output"),
    "a bias of a user's own left out": ("stylegan2-d", True, one("convs.1.conv1.1", lambda m: scale(m.bias, 0)), "output"),
    "a noise's strength": ("stylegan2-g", False, one("convs.0.noise", lambda m: scale(m.strength, 1.01)), "output"),
    "a scripted snake's frequency": ("codec-decoder-block", True, one("block.0", lambda m: scale(m.alpha, 1.01)), "output"),
    "a length that is divided by": ("biggan-g", False, one("blocks.1.conv1", lambda m: m.u.mul_(torch.arange(1.0, 9))), "output"),
    "statistics kept by hand": ("biggan-g", True, one("blocks.0.bn2", lambda m: scale(m.stored_mean, 1.01)), "buffer"),
    "a second derivative of an upsampling 0.1 % off": ("lsgan-g", False, one("conv_blocks.1", derivative(1, 1.001)), "second"),
}  # fmt: skip

# bfloat16 hides more: errors of 2 % in the outputs and of 15 % in this critic's gradients are its own.
PLANTS_BFLOAT16 = {
    "a slope doubled": ("dcgan-flat-d", True, each(nn.LeakyReLU, setting("negative_slope", 2)), "output"),
    "a bias left out": ("srgan-g", True, one("conv3.0", lambda m: scale(m.bias, 0)), "output"),
    "a bias left out before a norm": ("dcgan-functional-g", True, one("deconv2", lambda m: scale(m.bias, 0)), "buffer"),
    "a norm left out": ("sngan-resnet-g", True, one("model.1.bn2", skip), "gradient"),
    "an activation left out": ("stackgan-stage1-d", False, one("encode_img.1", setting("negative_slope", 5)), "output"),
    "a momentum": ("dcgan-flat-g", True, each(nn.BatchNorm2d, setting("momentum", 3)), "buffer"),
    "a gradient 50 % off": ("dcgan-flat-d", True, one("main.6", derivative(1.5, 1)), "gradient"),
}  # fmt: skip


def planted(plant, dtype):
    name, training, spoil, kind = plant

    def change(model):
        spoil(model)
        return accelerate(model)

    found = oracle.judge(ROWS[name], training, dtype, change)
    assert found and found[0].startswith(kind), found


@pytest.mark.parametrize("name", PLANTS)
@pytest.mark.thinned(3)
def test_planted_errors_are_found(name):
    planted(PLANTS[name], torch.float32)


@pytest.mark.parametrize("name", PLANTS_BFLOAT16)
def test_planted_errors_are_found_in_bfloat16(name):
    planted(PLANTS_BFLOAT16[name], torch.bfloat16)


def test_a_slope_in_forward_is_found(monkeypatch):
    row = ROWS["hifigan-new-g"]
    oracle.untouched(row, True, torch.float32)
    monkeypatch.setattr(hifigan, "LRELU_SLOPE", 0.105)
    found = oracle.judge(row, True, torch.float32)
    assert found and found[0].startswith("output"), found


OTHERS = ["sngan-resnet-new-d", "pix2pix-unet-instance", "bigvgan-log-g", "gan3d-d"]


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["dcgan-flat-g", "vae", *(pytest.param(name, marks=pytest.mark.prove) for name in OTHERS)])
def test_the_rounding_of_other_kernels_is_not(name, dtype):
    """torch's own convolutions without oneDNN are another implementation."""
    oracle.untouched(ROWS[name], True, dtype)
    with torch.backends.mkldnn.flags(enabled=False):
        assert oracle.judge(ROWS[name], True, dtype, lambda model: model) == []
