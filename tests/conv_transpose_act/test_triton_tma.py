"""The copy-engine kernel of conv_transpose_act, interpreted, against plain torch in float64; its guards; configurations by name."""

import pytest
import torch
import torch.nn.functional as F

from ganfast import _activations
from tests.triton_interpreter import assert_close, assert_layout, assert_partials, backend, in_layout, interpreted  # noqa: F401

pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore:overflow encountered in exp")]

HOPPER = (9, 0)
BLOCKS = "tma-2x4x4x64x16-w4s2"


@pytest.fixture(autouse=True)
def tf32(interpreted):  # noqa: F811 - after it: it sets exact float32, and sets back what it found
    """The kernel has no exact float32. Inputs here hold 11 significant bits, so that TF32 is exact."""
    torch.backends.cudnn.conv.fp32_precision = "tf32"


def make(n, c_in, c_out, h, w, kernel, dtype=torch.float32):
    generator = torch.Generator().manual_seed(n * h + w)
    x = torch.randn(n, c_in, h, w, generator=generator).half().to(dtype)
    weight = (torch.randn(c_in, c_out, *kernel, generator=generator) * 0.1).half().to(dtype)
    return in_layout(x, True), in_layout(weight, True), torch.randn(c_out, generator=generator)


def run(x, weight, bias, stride, padding, output_padding, act="leaky_relu", alpha=None, value=0.2, z=False, partials=False, config=BLOCKS):
    return backend("conv_transpose_act").conv_transpose_act_fwd_triton(
        x, weight, bias, alpha, stride, padding, output_padding, [1, 1], 1, act, value, True, z, partials, config
    )


def convolve(x, weight, bias, stride, padding, output_padding):
    bias = None if bias is None else bias.double()
    return F.conv_transpose2d(x.double(), weight.double(), bias, stride, padding, output_padding)


# n, c_in, c_out, h, w, kernel, stride, padding, output_padding: odd sizes and several images a tile on purpose
GEOMETRIES = [
    (2, 32, 64, 8, 8, (4, 4), (2, 2), (1, 1), (0, 0)),
    (5, 48, 128, 4, 4, (4, 4), (2, 2), (1, 1), (0, 0)),
    (3, 16, 64, 7, 5, (3, 3), (2, 2), (1, 1), (1, 1)),
    (2, 16, 64, 6, 9, (5, 5), (2, 2), (2, 2), (1, 1)),
    (1, 16, 64, 5, 5, (2, 2), (2, 2), (0, 0), (0, 0)),
    (2, 16, 64, 5, 6, (3, 3), (1, 1), (1, 1), (0, 0)),
    (1, 16, 64, 3, 4, (6, 6), (3, 3), (2, 2), (1, 1)),
    (2, 24, 64, 3, 5, (5, 3), (3, 1), (1, 1), (0, 0)),  # differs by dimension; a tail of input channels
    (1, 40, 192, 1, 7, (3, 4), (1, 2), (1, 1), (0, 0)),  # a row; three blocks of channels
    (1, 16, 64, 2, 3, (1, 1), (2, 3), (0, 0), (1, 2)),  # phases without a tap
    (3, 8, 64, 1, 2, (8, 8), (2, 2), (3, 3), (0, 0)),  # every tap but a few beside the image
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
def test_geometry(case, dtype):
    n, c_in, c_out, h, w, kernel, *geometry = case
    x, weight, bias = make(n, c_in, c_out, h, w, kernel, dtype)
    y, z, stats = run(x, weight, bias, *geometry, z=True, partials=True)
    want = convolve(x, weight, bias, *geometry)
    assert_close(z, want, "z")
    assert_close(y, F.leaky_relu(want, 0.2), "y")
    assert_layout(y, True)
    assert_layout(z, True)
    assert_partials(stats, y)


# Images x rows x columns of a box: the epilogue's 2 or 4 slices cut images, rows, columns, and images then rows; every one is clipped.
@pytest.mark.parametrize("box", ["8x4x4", "1x8x16", "1x1x128", "4x8x8", "1x16x16", "1x2x128", "2x2x64", "2x128x1"])
@pytest.mark.parametrize("act, save_z, dtype", [("silu", True, torch.float32), ("relu", False, torch.float16)])
def test_slices(box, act, save_z, dtype):
    geometry = ([2, 2], [1, 1], [0, 0])
    x, weight, bias = make(5, 16, 64, 3, 11, (4, 4), dtype)
    y, z, stats = run(x, weight, bias + 3, *geometry, act, z=save_z, partials=True, config=f"tma-{box}x64x16-w4s2")
    want = convolve(x, weight, bias + 3, *geometry)
    if save_z:
        assert_close(z, want, "z")
    assert_close(y, getattr(F, act)(want), "y")
    assert_partials(stats, y)


def test_partials_are_of_the_rounded_values():
    x, weight, bias = make(2, 16, 64, 5, 5, (4, 4), torch.float16)
    y, z, stats = run(x, weight, bias + 500, [2, 2], [1, 1], [0, 0], "linear", partials=True)
    assert_partials(stats, y)  # at 500 half a unit in fp16's last place is 0.125: unrounded values have another variance
    assert z.shape == (0,)


ALPHAS = {"leaky_relu": 0.2, "prelu": 0.3, "elu": 1.3, "softplus": 1.5, "snake": 0.7}
ACTS = [(act, tensor) for act in _activations.ACTIVATIONS for tensor in (False, True) if not tensor or act in ALPHAS]


@pytest.mark.parametrize("act, tensor", ACTS)
def test_activation(act, tensor):
    x, weight, _ = make(2, 16, 64, 4, 3, (4, 4))
    alpha = torch.linspace(0 if act == "snake" else 0.1, 2, 64) if tensor else None
    y, _, stats = run(x * 2, weight, None, [2, 2], [1, 1], [0, 0], act, alpha, ALPHAS.get(act, 0.0))
    z = convolve(x * 2, weight, None, [2, 2], [1, 1], [0, 0])
    want = _activations.act_fwd(z, act, None if alpha is None else alpha.double(), ALPHAS.get(act, 0.0))
    assert_close(y, want, act, scale=z.abs().max().item())
    assert stats.shape == (0,) and stats.dtype == torch.float32


@pytest.mark.parametrize("with_bias, tensor", [(True, False), (False, True)])
def test_scale_and_shift(with_bias, tensor):
    """What folds an eval-mode batch norm in; the saved z is what the activation saw."""
    from ganfast.ops.conv_transpose_act import triton_configs, triton_tma

    x, weight, bias = make(2, 16, 64, 5, 3, (4, 4))
    bias, scale, shift = bias if with_bias else None, torch.linspace(-1, 2, 64), torch.linspace(3, -1, 64)
    alpha = torch.linspace(-1, 1, 64) if tensor else None
    p = backend("conv_transpose_act")._problem(x, weight, [2, 2], [1, 1], [0, 0], [1, 1], 1, True, True, None)
    y, z = (torch.full((2, 64, 10, 6), float("nan")).contiguous(memory_format=torch.channels_last) for _ in range(2))
    stats = triton_tma.conv_transpose_act_fwd_tma(
        p, triton_configs.parse(BLOCKS), x, weight, bias, alpha, "prelu", 0.3, y, z, True, scale, shift
    )
    want = convolve(x, weight, bias, [2, 2], [1, 1], [0, 0]) * scale.double().view(-1, 1, 1) + shift.double().view(-1, 1, 1)
    assert_close(z, want, "z")
    assert_close(y, torch.where(want > 0, want, want * (0.3 if alpha is None else alpha.double().view(-1, 1, 1))), "y")
    assert_partials(stats, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_any_weight_any_strides_of_one(dtype, monkeypatch):
    """The weight is read in place where the engine can, else copied once; a lone image may have any stride, odd too."""
    from ganfast.ops.conv_transpose_act import triton_tma

    x, weight, bias = make(1, 16, 64, 4, 6, (4, 4), dtype)
    want = F.relu(convolve(x, weight, bias, [2, 2], [1, 1], [0, 0]))
    read = []
    plain = triton_tma._describe
    monkeypatch.setattr(triton_tma, "_describe", lambda tensor, *args: read.append(tensor.data_ptr()) or plain(tensor, *args))
    odd = in_layout(
        torch.cat([weight.flatten()[:1], weight.permute(0, 2, 3, 1).flatten()])[1:].view(16, 4, 4, 64).permute(0, 3, 1, 2), True
    )
    k_last = weight.permute(2, 3, 1, 0)  # as the kernel reads float32: contiguous, so only its address asks for a copy
    flat = torch.cat([weight.flatten()[:1], k_last.flatten()])[1:].view(k_last.shape).permute(3, 2, 0, 1)
    assert odd.data_ptr() % 16 and flat.data_ptr() % 16 and torch.equal(flat, weight)
    lone = x.as_strided(x.shape, (3, *x.stride()[1:]))
    for image, kernel in ((x, weight), (x, weight.contiguous()), (x, odd), (x, flat), (lone, weight)):
        read.clear()
        y, _, _ = run(image, kernel, bias, [2, 2], [1, 1], [0, 0], "relu")
        assert_close(y, want, "y")
        assert (kernel.data_ptr() in read) == (kernel is weight and dtype == torch.float16)
        assert image.data_ptr() in read and not any(pointer % 16 for pointer in read)


def test_float32_is_rounded_not_truncated():
    from ganfast.ops.conv_transpose_act import triton_tma

    if not triton_tma._ROUNDS:
        pytest.skip("this Triton's copy engine leaves float32 as it is")
    x = in_layout(torch.full((1, 16, 4, 4), 1 + 2**-11 + 2**-12), True)  # rounds up to 1 + 2^-10, truncates to 1
    weight = torch.zeros(16, 64, 2, 2)
    weight[0] = 1.0
    y, _, _ = run(x, in_layout(weight, True), None, [2, 2], [0, 0], [0, 0], "linear")
    assert (y == 1 + 2**-10).all()


def arguments(
    shape=(2, 64, 8, 8), c_out=128, kernel=(4, 4), dtype=torch.float16, stride=2, padding=1, output_padding=0, dilation=1, groups=1
):
    x, rank = torch.zeros(shape, dtype=dtype), len(shape) - 2
    x = in_layout(x, True) if rank == 2 else x
    weight = torch.zeros((), dtype=dtype).expand(shape[1], c_out // groups, *kernel)  # of any size
    return [x, weight, *([v] * rank for v in (stride, padding, output_padding, dilation)), groups, rank == 2]


REFUSALS = {
    "unknown": (arguments(), None, "capability unknown"),
    "ampere": (arguments(), (8, 9), "made for 9.x"),
    "consumer_blackwell": (arguments(), (12, 0), "made for 9.x"),
    "1d": (arguments((2, 64, 8), kernel=(4,)), HOPPER, "1-D input"),
    "3d": (arguments((2, 64, 4, 4, 4), kernel=(4, 4, 4)), HOPPER, "3-D input"),
    "groups": (arguments(groups=2), HOPPER, "groups is 2"),
    "dilation": (arguments(dilation=2), HOPPER, "dilation is"),
    "output": (arguments(padding=0), HOPPER, "is not stride 2"),
    "few_outputs": (arguments(c_out=3), HOPPER, "Cout is 3"),
    "channels": (arguments((2, 4, 8, 8)), HOPPER, "Cin is 4"),
    "extent": (arguments((2, 64, 8, 8), c_out=2**27, kernel=(4, 4)), HOPPER, "32-bit"),
    "contiguous": (arguments(), HOPPER, "not dense"),
    "sliced": (arguments(), HOPPER, "not dense"),
    "expanded": (arguments(), HOPPER, "not dense"),
    "misaligned": (arguments(), HOPPER, "multiple of 16 bytes"),
    "exact": (arguments(dtype=torch.float32), HOPPER, "exact float32"),
    "1x1": (arguments((2, 64, 1, 1)), HOPPER, "one GEMM"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name):
    """Each guard gives its reason, and the call goes to another kernel, by name."""
    op = backend("conv_transpose_act")
    args, capability, reason = REFUSALS[name]
    args = list(args)
    x = args[0]
    if name == "contiguous":
        args[0], args[-1] = x.contiguous(), False
    elif name == "sliced":
        args[0] = in_layout(torch.zeros(2, 64, 8, 16, dtype=x.dtype), True)[..., ::2]
    elif name == "expanded":
        args[0] = x[:1].expand_as(x)
    elif name == "misaligned":
        args[0] = torch.zeros(x.numel() + 1, dtype=x.dtype)[1:].view(2, 8, 8, 64).permute(0, 3, 1, 2)
    elif name == "exact":
        torch.backends.cudnn.conv.fp32_precision = "ieee"
    p = op._problem(*args, False, capability)._replace(capability=capability)
    why = op._KERNELS["tma"].refusal(p, args[0])
    assert why and reason in why
    if capability is None:
        return  # the interpreter stands for a Hopper where none is named
    names = op.configurations(*args, capability=capability)
    assert names and all(n.startswith("gemm-" if name == "1x1" else "ptr-") for n in names)
    x, weight, *geometry, groups, last = args
    with pytest.raises(ValueError, match="does not fit this call"):
        op.conv_transpose_act_fwd_triton(
            x, weight, None, None, *geometry, groups, "relu", 0.0, last, False, False, "tma-2x8x8x64x16-w4s3", capability
        )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("tma", "wants kernel-sizes"),
        ("tma-2x8x8x128x64", "wants kernel-sizes"),
        ("cute-2x8x8x128x64-w8s4", "names no kernel"),
        ("tma-128x64x64-w4s3", "5 sizes"),
        ("tma-3x8x8x128x64-w8s3", "powers of 2"),
        ("tma-2x8x8x128x64-w2s3", "warps are 4 or 8"),
        ("tma-1x1x512x64x64-w8s3", "at most 256"),
        ("tma-2x16x16x64x64-w8s3", "a box of 512"),
        ("tma-2x8x8x32x64-w4s3", "channels a block"),
        ("tma-2x8x8x256x64-w8s3", "divide Cout=128"),
        ("tma-2x8x8x128x128-w8s3", "bytes of them"),
        ("tma-2x8x8x128x64-w8s1", "2 stages"),
        ("tma-4x8x8x64x64-w8s3", "8 warps"),
        ("tma-4x8x8x128x64-w4s3", "accumulators"),
        ("tma-4x8x8x128x64-w8s5", "shared memory"),
        ("gemm-64x64x64-w4s3", "more than one pixel"),
        ("ptr-128x128x64-w4s3", "would spill"),
        ("ptr-128x128x64-w8s4", "shared memory"),
        ("ptr-8x64x64-w4s3", "under 16"),
        ("ptr-256x16x64-w4s3", "would spill"),
    ],
)
def test_bad_configurations(config, reason):
    *args, last = arguments()
    x, weight, *geometry, groups = args
    with pytest.raises(ValueError, match=reason):
        backend("conv_transpose_act").conv_transpose_act_fwd_triton(
            x, weight, None, None, *geometry, groups, "relu", 0.0, last, False, False, config
        )


def test_consumer_of_partials_at_10_0_has_smaller_boxes():
    *args, last = arguments()
    x, weight, *geometry, groups = args
    with pytest.raises(ValueError, match="wants 16 to 128"):
        backend("conv_transpose_act").conv_transpose_act_fwd_triton(
            x, weight, None, None, *geometry, groups, "relu", 0.0, last, False, False, "tma-4x8x8x128x64-w8s3", (10, 0)
        )


@pytest.mark.parametrize("size", [4, 7, 16, 64, 256])
@pytest.mark.parametrize("c_out", [64, 192, 512])
def test_offers_fit(size, c_out):
    """At most 6, the copy engine's first and the pointer kernel's too; each is taken by the launcher's own check."""
    op = backend("conv_transpose_act")
    for n in (1, 3, 64):
        for dtype in (torch.float16, torch.float32):
            x = torch.empty(n, 100 - size % 4 * 4, size, size, dtype=dtype, device="meta").contiguous(memory_format=torch.channels_last)
            weight = torch.empty(x.shape[1], c_out, 4, 4, dtype=dtype, device="meta")
            for capability in (HOPPER, (10, 0), (8, 0)):
                args = (x, weight, [2, 2], [1, 1], [0, 0], [1, 1], 1, True)
                names = op.configurations(*args, capability=capability)
                assert 2 <= len(names) <= 6 and len(set(names)) == len(names)
                assert names[0].startswith("ptr" if capability == (8, 0) or x.shape[1] * x.itemsize % 16 else "tma"), names
                assert any(name.startswith("ptr") for name in names)
                p = op._problem(*args, False, capability)
                for name in names:
                    assert op._named(name, p, x).name == name


def test_every_offer_runs():
    op = backend("conv_transpose_act")
    x, weight, bias = make(3, 16, 64, 6, 5, (4, 4), torch.float16)
    want = convolve(x, weight, bias, [2, 2], [1, 1], [0, 0])
    names = op.configurations(x, weight, [2, 2], [1, 1], [0, 0], [1, 1], 1, True)
    assert {name.split("-")[0] for name in names} == {"tma", "ptr"}
    for name in ("", *names):
        assert_close(run(x, weight, bias, [2, 2], [1, 1], [0, 0], "linear", config=name)[0], want, name)
