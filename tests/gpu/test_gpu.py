"""What only a GPU can show: every backend there against the oracle, first and second order, both layouts, every dtype."""

import pytest
import torch

from ganfast.functional import batch_norm_act, bias_act, conv_transpose_act, discriminator_loss, generator_loss, instance_norm_act
from ganfast.ops.bias_act import kernels as bias_kernels
from ganfast.ops.bias_act import reference as bias_reference
from ganfast.ops.conv_transpose_act import reference
from ganfast.testing import assert_close_to_reference, nan_filled

pytestmark = pytest.mark.gpu
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# name: n, c_in, c_out, size, kernel, stride, padding, output_padding, dilation, groups
CONV = {
    "small 1-D": (2, 6, 10, (9,), (5,), 3, 2, 1, 1, 2),
    "small odd": (3, 7, 5, (5, 7), (3, 3), 2, 1, 1, 1, 1),
    "small one pixel": (5, 20, 24, (1, 1), (4, 4), 1, 0, 0, 1, 1),
    "small dilated": (2, 8, 16, (5, 4), (3, 3), 4, 1, 2, 2, 1),
    "small rgb": (2, 16, 3, (8, 8), (4, 4), 2, 1, 0, 1, 1),
    "small 3-D": (1, 4, 6, (3, 2, 4), (3, 2, 3), 2, 1, 1, 1, 1),
    "small rgb, odd": (1, 11, 3, (7, 13), (5, 5), 2, 2, 1, 1, 1),
    "small rgb, tiles": (2, 72, 3, (20, 24), (4, 4), 2, 1, 0, 1, 1),
    "rgb": (16, 64, 3, (32, 32), (4, 4), 2, 1, 0, 1, 1),
    "rgb groups": (4, 128, 8, (40, 36), (3, 3), 1, 1, 0, 1, 2),
    "one channel, 1-D": (4, 32, 1, (5000,), (16,), 8, 4, 0, 1, 1),
    "dcgan": (16, 256, 128, (8, 8), (4, 4), 2, 1, 0, 1, 1),
}


@pytest.fixture(autouse=True)
def exact_float32():
    """The oracle's float64 reference wants float32 without TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def conv_leaves(row, dtype, channels_last):
    n, c_in, c_out, size, kernel, *_, groups = row
    taps = torch.tensor(kernel).prod().item()
    x, weight, bias = torch.randn(n, c_in, *size), torch.randn(c_in, c_out // groups, *kernel) / (c_in * taps) ** 0.5, torch.randn(c_out)
    if channels_last and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    return [t.to("cuda", dtype).requires_grad_() for t in (x, weight, bias)]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ["reference", "torch", "triton", "cuda"])
@pytest.mark.parametrize("row", CONV)
def test_conv_transpose_act(row, backend, dtype, channels_last):
    *_, stride, padding, output_padding, dilation, groups = CONV[row]
    options = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation, "groups": groups}
    leaves = conv_leaves(CONV[row], dtype, channels_last)
    dims = leaves[0].dim() - 2
    lists = [[v] * dims for v in (stride, padding, output_padding, dilation)]
    fused = lambda *t, b: conv_transpose_act(*t, **options, act="silu", backend=b, return_partials=True)
    with nan_filled():
        y, partials = fused(*leaves, b=backend)
        gy = torch.randn_like(y)
        got = [y, *torch.autograd.grad(y, leaves, gy)]
    plain_y = torch.nn.functional.silu((None, torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)[dims](
        *leaves, stride, padding, output_padding, groups, dilation))  # fmt: skip
    plain = [plain_y, *torch.autograd.grad(plain_y, leaves, gy)]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    exact_y = reference.conv_transpose_act(*exact, *lists, groups, "silu", None, 0.0)
    want = [exact_y, *torch.autograd.grad(exact_y, exact, gy.double())]
    assert_close_to_reference(*zip(("y", "gx", "gweight", "gbias"), got, plain, want, strict=True))
    flat = y.detach().double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(partials[0, 1].double(), flat.mean(1), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(partials[0, 2].double(), flat.var(1, correction=0) * flat.shape[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("row", ["small odd", "small rgb", "small rgb, odd", "small rgb, tiles", "rgb"])
def test_few_channels_triton(row, dtype, channels_last):
    """Every configuration of the kernel for few output channels, which the launcher takes for large images only."""
    from ganfast.ops.conv_transpose_act import triton_few

    x, weight, bias = (t.detach() for t in conv_leaves(CONV[row], dtype, channels_last))
    *_, stride, padding, output_padding, dilation, groups = CONV[row]
    lists = [[v] * 2 for v in (stride, padding, output_padding, dilation)]
    plain = torch.nn.functional.conv_transpose2d(x, weight, bias, *lists[:3], groups, lists[3])
    exact = reference.conv_transpose_act(x.double(), weight.double(), bias.double(), *lists, groups, "linear", None, 0.0)
    for config in triton_few.few_configurations(x, weight, *lists, groups, channels_last):
        y, _, _ = triton_few.conv_transpose_act_fwd_few_triton(
            x, weight, bias.float(), None, *lists, groups, "linear", 0.0, channels_last, False, False, config=config
        )
        assert_close_to_reference(("y", y, plain, exact))


@pytest.mark.parametrize("backend", ["torch", "triton", "cuda"])
def test_small_second_order(backend):
    """A gradient penalty through the op, against the float64 formula."""
    leaves = [t.detach().requires_grad_() for t in conv_leaves(CONV["small odd"], torch.float32, False)]
    double = [t.detach().double().requires_grad_() for t in leaves]
    fused = conv_transpose_act(*leaves, stride=2, padding=1, output_padding=1, act="tanh", backend=backend)
    exact = reference.conv_transpose_act(*double, [2, 2], [1, 1], [1, 1], [1, 1], 1, "tanh", None, 0.0)
    results = []
    for y, inputs in ((fused, leaves), (exact, double)):
        (gx,) = torch.autograd.grad(y.square().sum(), inputs[0], create_graph=True)
        results.append(torch.autograd.grad(gx.square().sum(), inputs))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("shape", [(3, 5, 7, 6), (16, 64, 32, 32), (2, 700, 3, 3)], ids=["small", "dcgan", "small wide"])
def test_batch_norm_act(shape, backend, dtype, training, channels_last):
    x = torch.randn(shape, device="cuda").to(dtype) * 2 + 1
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    vectors = [torch.rand(shape[1], device="cuda") + 0.5, torch.randn(shape[1], device="cuda")]
    gy = torch.randn(shape, device="cuda").to(dtype)

    def run(call, cast=None):
        leaves = [v.detach().to(cast or v.dtype).requires_grad_() for v in (x, *vectors)]
        running = [torch.zeros(shape[1], device="cuda", dtype=cast), torch.ones(shape[1], device="cuda", dtype=cast)]
        y = call(leaves, running)
        return [y, *running, *torch.autograd.grad(y, leaves, gy.to(y.dtype))]

    def plain(leaves, running):
        return torch.nn.functional.batch_norm(leaves[0], *running, *leaves[1:], training=training).relu()

    def fused(leaves, running):
        return batch_norm_act(leaves[0], *running, *leaves[1:], training=training, act="relu", backend=backend)

    with nan_filled():
        got = run(fused)
    names = ("y", "running_mean", "running_var", "gx", "gweight", "gbias")
    assert_close_to_reference(*zip(names, got, run(plain), run(plain, torch.float64), strict=True))


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ["torch", "triton", "cuda"])
@pytest.mark.parametrize(("act", "learned"), [("leaky_relu", False), ("tanh", False), ("silu", False), ("prelu", True), ("snake", True)])
@pytest.mark.parametrize(("gain", "clamp"), [(1.0, None), (2**0.5, 1.0)], ids=["plain", "clamped"])
@pytest.mark.parametrize("shape", [(3, 5, 7, 6), (16, 64, 32, 32), (2, 700, 3, 3)], ids=["small", "dcgan", "small wide"])
def test_bias_act(shape, gain, clamp, act, learned, backend, dtype, channels_last):
    x, gy = (torch.randn(shape, device="cuda").to(dtype) for _ in range(2))
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    vectors = [torch.randn(shape[1], device="cuda"), *([torch.rand(shape[1], device="cuda") + 0.5] if learned else [])]
    column = vectors[0].double().view(1, -1, 1, 1)
    alpha = vectors[1].double() if learned else None
    value = 0.0 if learned else 0.01
    exact_y = bias_reference.bias_act(x.double(), vectors[0].double(), alpha, act, value, gain, None)
    near = 4 * torch.finfo(dtype).eps  # of a kink or the bound: the side an element falls on is nobody's error
    edge = (x.double() + column).abs() < near * 4
    gy = gy.masked_fill(edge | ((exact_y.abs() - (clamp or float("inf"))).abs() < near), 0)

    def run(call, cast=None):
        leaves = [v.detach().to(cast or v.dtype).requires_grad_() for v in (x, *vectors)]
        y = call(*leaves)
        return [y, *torch.autograd.grad(y, leaves, gy.to(y.dtype))]

    def fused(x, bias, alpha=None):
        return bias_act(x, bias, act=act, alpha=alpha, gain=gain, clamp=clamp, backend=backend)

    def plain(x, bias, alpha=None):
        return bias_reference.bias_act(x, bias, alpha, act, value, gain, clamp)

    with nan_filled():
        got = run(fused)
    names = ("y", "gx", "gbias", "galpha")
    assert_close_to_reference(*zip(names, got, run(plain), run(plain, torch.float64)))
    overwritten = x.clone()
    args = (vectors[0], vectors[1] if learned else None, act, value, gain, clamp, channels_last, backend)
    assert torch.equal(bias_kernels.fwd_(overwritten, *args)[0], got[0])


INSTANCE = {"small": (3, 5, 7, 6), "small 2x2": (5, 36, 2, 2), "small one image": (1, 12, 9, 9), "cyclegan": (2, 64, 128, 128)}


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ["reference", "torch", "triton", "cuda"])
@pytest.mark.parametrize("name", INSTANCE)
def test_instance_norm_act(name, backend, dtype, channels_last):
    """The images' means 5 apart; first order against the oracle, second against the float64 formula."""
    shape = INSTANCE[name]
    x = (torch.randn(shape, device="cuda") * 2 + 5 * torch.arange(shape[0], device="cuda").view(-1, 1, 1, 1)).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    vectors = [torch.rand(shape[1], device="cuda") + 0.5, torch.randn(shape[1], device="cuda")]
    gy = torch.randn(shape, device="cuda").to(dtype)
    plain = lambda x, w, b: torch.nn.functional.instance_norm(x, None, None, w, b).relu()
    fused = lambda x, w, b: instance_norm_act(x, w, b, act="relu", backend=backend)

    def run(call, cast=None):
        leaves = [v.detach().to(cast or v.dtype).requires_grad_() for v in (x, *vectors)]
        y = call(*leaves)
        return [y, *torch.autograd.grad(y, leaves, gy.to(y.dtype))]

    with nan_filled():
        got = run(fused)
    names = ("y", "gx", "gweight", "gbias")
    assert_close_to_reference(*zip(names, got, run(plain), run(plain, torch.float64), strict=True))
    assert got[0].is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    if dtype == torch.float32 and name.startswith("small"):
        results = []
        for call, cast in ((fused, None), (plain, torch.float64)):
            leaves = [v.detach().to(cast or v.dtype).requires_grad_() for v in (x, *vectors)]
            (gx,) = torch.autograd.grad(call(*leaves).square().sum(), leaves[0], create_graph=True)
            results.append(torch.autograd.grad(gx.square().sum(), leaves[:2]))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3 * b.abs().max().item())


@pytest.mark.parametrize("count", [7, 900, 200_001], ids=["small", "patch", "many"])
@pytest.mark.parametrize("kind", ["minimax", "nonsaturating", "hinge", "lsgan", "wasserstein", "relativistic", "relativistic_average"])
@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_gan_loss(kind, backend, count):
    real, fake = (torch.randn(count, device="cuda").requires_grad_() for _ in range(2))
    double = [t.detach().double().requires_grad_() for t in (real, fake)]
    smoothing = 0.1 if kind in ("minimax", "nonsaturating", "lsgan") else 0.0
    loss, stats = discriminator_loss(real, fake, kind=kind, smoothing=smoothing, return_stats=True, backend=backend)
    want, want_stats = discriminator_loss(*double, kind=kind, smoothing=smoothing, return_stats=True, backend="reference")
    torch.testing.assert_close(loss.double(), want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.stack(list(stats)).double(), torch.stack(list(want_stats)).double(), rtol=1e-5, atol=1e-6)
    for got, exact in zip(torch.autograd.grad(loss, (real, fake)), torch.autograd.grad(want, double), strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=1e-5 / count)
    other = {"real_logits": real} if kind.startswith("relativistic") else {}
    other64 = {"real_logits": double[0]} if kind.startswith("relativistic") else {}
    torch.testing.assert_close(
        generator_loss(fake, **other, kind=kind, backend=backend).double(),
        generator_loss(double[1], **other64, kind=kind, backend="reference"), rtol=1e-5, atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_small_gradients_repeat_bit_for_bit(backend):
    leaves = conv_leaves(CONV["small rgb"], torch.float32, True)
    runs = []
    for _ in range(3):
        y, partials = conv_transpose_act(*leaves, stride=2, padding=1, act="tanh", backend=backend, return_partials=True)
        runs.append((y, partials))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_auto_follows_the_tf32_switch_and_alignment(monkeypatch, tmp_path):
    """A tile that was chosen for TF32, or for aligned memory, must not meet a call that it does not fit."""
    monkeypatch.setenv("GANFAST_TUNE", "1")
    monkeypatch.setenv("GANFAST_CACHE", str(tmp_path))
    x = torch.randn(8, 128, 8, 8, device="cuda").contiguous(memory_format=torch.channels_last)
    weight = torch.randn(128, 64, 4, 4, device="cuda") / 45
    want = torch.conv_transpose2d(x.double(), weight.double(), None, 2, 1).relu()
    for tf32, tolerance in ((True, 5e-3), (False, 1e-4), (True, 5e-3)):
        torch.backends.cudnn.allow_tf32 = tf32
        got = conv_transpose_act(x, weight, stride=2, padding=1, act="relu")
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)
    half, memory = x.bfloat16(), torch.empty(x.numel() + 1, device="cuda", dtype=torch.bfloat16)
    shifted = memory[1:].as_strided(x.shape, x.stride()).copy_(half)
    for source in (half, shifted, half):
        got = conv_transpose_act(source, weight.bfloat16(), stride=2, padding=1, act="relu")
        torch.testing.assert_close(got.double(), want, rtol=0.05, atol=0.05)
