"""What a penalty's second backward runs: the convolutions that it needs, one fused pass an activation, and nothing beside; by ops written
with ganfast in the way of R3GAN: convolution, bias, leaky ReLU, residual."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import ganfast.functional as GF
from ganfast.ops.bias_act import kernels
from ganfast.penalties import r1_penalty

BLOCKS, WIDTH, INNER = 2, 6, 8
FP64 = torch.float64
# A network's convolutions and activations, here and below in numbers: the first and the last layer, three a block, two of them activated.
CONVOLUTIONS, ACTIVATIONS = 3 * BLOCKS + 2, 2 * BLOCKS
MOVED = ("aten.add.Tensor", "aten.add_.Tensor")  # of gradients where branches meet


def parameters(dtype=torch.float32):
    torch.manual_seed(0)
    block = [(INNER, WIDTH, 1, 1), (INNER,), (INNER, 2, 3, 3), (INNER,), (WIDTH, INNER, 1, 1)]
    shapes = [(WIDTH, 3, 1, 1), *block * BLOCKS, (1, WIDTH, 6, 6)]
    return [(torch.randn(shape, dtype=FP64) / max(1, torch.Size(shape[1:]).numel()) ** 0.5).to(dtype).requires_grad_() for shape in shapes]


def fused(own, how="convolution"):
    """How bias and activation are written: in the convolution, or as R3GAN's own class, after it."""

    def layer(x, weight, bias, **geometry):
        if how == "convolution":
            return GF.conv_act(x, weight, bias, act="leaky_relu", alpha=0.2, **geometry)
        return GF.bias_act(GF.conv_act(x, weight, **geometry), bias, act="leaky_relu", alpha=0.2, gain=1.3)

    def discriminator(x):
        x = GF.conv_act(x, own[0])
        for i in range(1, 5 * BLOCKS, 5):
            y = layer(x, own[i], own[i + 1])
            y = layer(y, own[i + 2], own[i + 3], padding=1, groups=4)
            x = GF.conv_act(y, own[i + 4], residual=x)
        return GF.conv_act(x, own[-1]).flatten()

    return discriminator


def plain(own, how="convolution"):
    gain = 1.3 if how == "bias_act" else 1.0

    def discriminator(x):
        x = F.conv2d(x, own[0])
        for i in range(1, 5 * BLOCKS, 5):
            y = F.leaky_relu(F.conv2d(x, own[i], own[i + 1]), 0.2) * gain
            y = F.leaky_relu(F.conv2d(y, own[i + 2], own[i + 3], padding=1, groups=4), 0.2) * gain
            x = x + F.conv2d(y, own[i + 4])
        return F.conv2d(x, own[-1]).flatten()

    return discriminator


def turn(discriminator, images, learns=True):
    """R3GAN's loss with R1 and R2, real and fake images in one batch; `learns` False: the penalties alone."""
    penalty, logits = r1_penalty(discriminator, images, return_logits=True)
    real, fake = logits.chunk(2)
    return penalty * 2 + (F.softplus(fake - real).mean() if learns else 0.0)


class Passes(TorchDispatchMode):
    """Ops by name: ganfast's, and torch's on tensors as large as a layer's."""

    def __init__(self, least):
        super().__init__()
        self.least, self.ran = least, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name, first = str(func), result[0] if isinstance(result, (tuple, list)) else result
        if name.startswith("ganfast.") or (not func.is_view and isinstance(first, torch.Tensor) and first.numel() >= self.least):
            self.ran[name.removeprefix("ganfast.").removesuffix(".default")] += 1
        return result


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("learns", [True, False], ids=["with the loss", "alone"])
@pytest.mark.parametrize("how", ["convolution", "bias_act"])
def test_no_pass_beyond_those_needed(how, learns, channels_last):
    own = parameters()
    images = torch.randn(4, 3, 6, 6)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with Passes(4 * WIDTH * 36) as first:
        loss = turn(fused(own, how), images, learns)
    with Passes(4 * WIDTH * 36) as second:
        torch.autograd.grad(loss, own, allow_unused=True)
    forward, backward = Counter(first.ran), Counter(second.ran)
    for found in (forward, backward):
        for name in MOVED:
            found.pop(name, None)
    assert forward.pop("bias_act_fwd", 0) == (ACTIVATIONS if how == "bias_act" else 0)
    assert forward == {"conv_transpose_act_conv": CONVOLUTIONS, "conv_transpose_act_fwd": CONVOLUTIONS, "bias_act_bwd": ACTIVATIONS}
    # Of the penalty: every layer but the last has a cotangent to pass on, every weight a gradient. Of the loss: the same, the other way.
    assert backward == {
        "conv_transpose_act_data_grad": CONVOLUTIONS - 1,
        "conv_transpose_act_weight_grad": CONVOLUTIONS * (2 if learns else 1),
        **({"conv_transpose_act_fwd": CONVOLUTIONS - 1} if learns else {}),
        "bias_act_bwd": ACTIVATIONS * (2 if learns else 1),
    }
    assert sum(second.ran[name] for name in MOVED) <= BLOCKS * (3 if learns else 1)


@pytest.mark.parametrize("how", ["convolution", "bias_act"])
@pytest.mark.parametrize("learns", [True, False], ids=["with the loss", "alone"])
def test_gradients_are_autograds(learns, how):
    images, exact = torch.randn(4, 3, 6, 6), parameters(FP64)
    want = torch.autograd.grad(turn(plain(exact, how), images.double(), learns), exact, allow_unused=True)
    for dtype, near in ((FP64, 1e-11), (torch.float32, 2e-5)):
        own = parameters(dtype)
        found = torch.autograd.grad(turn(fused(own, how), images.to(dtype), learns), own, allow_unused=True)
        for a, b in zip(found, want, strict=True):
            assert (a is None) == (b is None)
            torch.testing.assert_close(a.double(), b, rtol=near, atol=near * b.abs().max().item())


@pytest.mark.parametrize(
    ("act", "gain", "clamp", "from_y"),
    [("leaky_relu", 1.4, None, True), ("relu", 1.0, 0.7, True), ("linear", 0.5, 0.4, True), ("leaky_relu", -2.0, 1.0, False)],
)
@pytest.mark.parametrize("signs", [False, True], ids=["y", "signs"])
def test_slopes_are_their_own_derivative(signs, act, gain, clamp, from_y):
    if signs and not from_y:
        pytest.skip("signs stand for y")
    x, bias = torch.randn(2, 3, 4, dtype=FP64), torch.randn(3, dtype=FP64)
    saved, kept = kernels.fwd(x, bias, None, act, 0.2, gain, clamp, False, "cpu", None, False, 1.0, signs)
    saved, bias = (kept if signs else saved, None) if from_y else (x, bias)
    slopes = lambda gy: kernels.slopes(gy, saved, bias, act, 0.2, gain, clamp, from_y, False, "cpu")
    gy = torch.randn_like(x).requires_grad_()
    assert gradcheck(slopes, (gy,)) and gradgradcheck(slopes, (gy,))
    torch.testing.assert_close(torch.autograd.grad(slopes(gy)[0].sum(), gy)[0], slopes(torch.ones_like(gy))[0])
