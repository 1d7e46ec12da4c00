"""Every Triton kernel, in the configurations its launcher picks for real layers, compiled for compute capability 8.0, 9.0 and 10.0."""

import re

import pytest
import torch

triton = pytest.importorskip("triton")

from tests import triton_aot  # noqa: E402
from tests.triton_aot import meta, op  # noqa: E402
from tests.triton_aot_convs import conv, conv_tma, conv_tma_scaled, epilogue, few  # noqa: E402
from tests.triton_aot_norms import group_norm, modulated, norm  # noqa: E402
from tests.triton_aot_resampling import between, modulated_conv, resampled  # noqa: E402

ARCHITECTURES = (80, 90, 100)
SNAKE_STACK = 32  # the exact sine of a huge argument keeps a small table in local memory, untouched below 1e5


def loss(n, kind, dtype, generator=False):
    op("gan_loss").gan_loss_fwd_triton(meta(n, dtype=dtype), meta(n, dtype=dtype), kind, generator, 0.0)


def gather(shape, dtype, images_last, last, flip=True, index=torch.int64):
    images, mirrored = meta(50_000, *shape, dtype=torch.uint8, channels_last=images_last), meta(64, dtype=torch.bool)
    op("gather_images").gather_images_fwd_triton(images, meta(64, dtype=index), mirrored if flip else None, dtype, images_last, last)


def normalised(columns, dtype):
    weights, flats = op("normalised_weights"), lambda *sizes: [meta(size, dtype=dtype) for size in sizes]
    v, g, norms = [meta(512, columns, dtype=dtype), meta(64, columns, dtype=dtype)], flats(512, 64), meta(576)
    weights.weight_norms_fwd_triton(v, g)
    weights.weight_norms_bwd_triton(v, v, g, norms)
    for iterations in (0, 1):
        weights.spectral_norms_fwd_triton(v, g, flats(columns, columns), iterations, 1e-12, True)
    weights.spectral_norms_bwd_triton(v, v, norms, meta(2 * columns), meta(2))


BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
RGB = (64, 64, 32, 32)
DCGAN = ((64, 512, 8, 8), 256, 4, 2, 1)
# name: (launch, float32 precision of convolutions, tensor cores wanted, stack allowed)
CASES = {
    "conv_bf16_last": (lambda: conv(*DCGAN, BF16, True), "tf32", True, 0),
    "conv_bf16": (lambda: conv(*DCGAN, BF16, False, act="gelu", save_z=True), "tf32", True, 0),
    "conv_tf32_last": (lambda: conv(*DCGAN, FP32, True, act="silu", save_z=True), "tf32", True, 0),
    "conv_exact": (lambda: conv(*DCGAN, FP32, False), "ieee", False, 0),
    "conv_added": (lambda: conv(*DCGAN, BF16, True, act="leaky_relu", residual="last", signs=True), "tf32", True, 0),
    "conv_added_z": (lambda: conv(*DCGAN, BF16, False, act="gelu", save_z=True, residual="first"), "tf32", True, 0),
    "1x1_added_z": (lambda: conv((64, 100, 1, 1), 512, 4, 1, 0, FP16, False, act="gelu", save_z=True, residual="first"), "tf32", True, 0),
    "conv_added_exact": (lambda: conv(*DCGAN, FP32, True, act="silu", save_z=True, residual="last"), "ieee", False, 0),
    "1x1_added": (lambda: conv((64, 100, 1, 1), 512, 4, 1, 0, BF16, True, act="relu", residual="first"), "tf32", True, 0),
    "few_added": (lambda: conv(RGB, 3, 4, 2, 1, BF16, True, act="leaky_relu", residual="last", signs=True), "tf32", True, 0),
    "few_added_widest": (lambda: conv(RGB, 3, 4, 2, 1, BF16, True, act="silu", save_z=True, residual="first"), "tf32", True, 0),
    "few_added_z": (lambda: conv(RGB, 3, 4, 2, 1, FP32, False, act="tanh", save_z=True, residual="first"), "ieee", False, 0),
    "conv_rgb": (lambda: conv((64, 64, 32, 32), 3, 4, 2, 1, BF16, True, act="tanh"), "tf32", True, 0),
    "conv_snake_1d": (lambda: conv((16, 256, 500), 128, 16, 8, 4, BF16, False, act="snake", alpha=True), "tf32", True, SNAKE_STACK),
    "conv_dilated_groups_3d": (lambda: conv((4, 60, 9, 9, 9), 90, 3, 2, 1, BF16, True, dilation=2, groups=2), "tf32", True, 0),
    "1x1_bf16": (lambda: conv((64, 100, 1, 1), 512, 4, 1, 0, BF16, False), "tf32", True, 0),
    "1x1_tf32_last": (lambda: conv((256, 512, 1, 1), 1024, 4, 1, 0, FP32, True), "tf32", True, 0),
    "few_bf16_last": (lambda: few(RGB, 3, 4, 2, 1, BF16, True, partials=False), "tf32", True, 0),
    "few_bf16": (lambda: few(RGB, 3, 4, 2, 1, BF16, False, save_z=True, alpha=True), "tf32", True, 0),
    "few_tf32_last": (lambda: few(RGB, 3, 4, 2, 1, FP32, True), "tf32", True, 0),
    "few_exact": (lambda: few(RGB, 3, 4, 2, 1, FP32, False), "ieee", False, 0),
    "few_kernel_7": (lambda: few((1, 64, 256, 256), 3, 7, 1, 3, BF16, False), "tf32", True, 0),
    "few_1d": (lambda: few((16, 32, 4096), 1, 16, 8, 4, BF16, False), "tf32", True, 0),
    "bias_bf16_last": (lambda: epilogue((64, 256, 16, 16), BF16, True, "gelu"), "tf32", False, 0),
    "bias_alpha": (lambda: epilogue((64, 256, 16, 16), FP32, False, "prelu", alpha=True), "tf32", False, 0),
    "bias_clamp": (lambda: epilogue((64, 256, 16, 16), FP32, False, "softplus", alpha=True, gain=0.5, clamp=1.0), "tf32", False, 0),
    "bias_stylegan": (lambda: epilogue((8, 512, 32, 32), FP16, True, "leaky_relu", False, True, 2**0.5, 256.0), "tf32", False, 0),
    "bias_snake_clamp": (lambda: epilogue((4, 96, 999), BF16, False, "snake", True, False, 2.0, 1.0), "tf32", False, SNAKE_STACK),
    "bias_added": (lambda: epilogue((64, 256, 16, 16), BF16, True, "silu", residual="first"), "tf32", False, 0),
    "bias_added_signs": (lambda: epilogue((64, 256, 16, 16), FP16, False, "leaky_relu", residual="last", signs=True), "tf32", False, 0),
    "bias_signs_clamp": (lambda: epilogue((8, 512, 32, 32), FP32, True, "relu", clamp=2.0, signs=True), "tf32", False, 0),
    "bias_rows": (lambda: epilogue((64, 512), FP32, False, "tanh", from_y=True), "tf32", False, 0),
    "norm_bf16_last": (lambda: norm((64, 256, 16, 16), BF16, True, "relu"), "tf32", False, 0),
    "norm_alpha": (lambda: norm((64, 256, 16, 16), FP32, False, "softplus", alpha=True), "tf32", False, 0),
    "instance_bf16_last": (lambda: norm((16, 256, 64, 64), BF16, True, "relu", per_image=True), "tf32", False, 0),
    "instance_odd_last": (lambda: norm((16, 3, 64, 64), FP32, True, "silu", alpha=True, per_image=True), "tf32", False, 0),
    "instance_alpha": (lambda: norm((16, 512, 2, 2), FP32, False, "softplus", alpha=True, per_image=True), "tf32", False, 0),
    "spade_bf16_last": (lambda: modulated((8, 256, 32, 32), BF16, True, "leaky_relu", 0, full=True), "tf32", False, 0),
    "resnet_fp32": (lambda: modulated((32, 256, 14, 14), FP32, False, "relu", 0, first=True, alpha=False), "tf32", False, 0),
    "modulated_group": (lambda: modulated((8, 320, 64, 64), FP16, False, "silu", 32, first=False, factor=0.7), "tf32", False, 0),
    "modulated_all": (lambda: modulated((3, 96, 9, 7), FP32, True, "softplus", 96, True, True, True), "tf32", False, 0),
    "group_bf16": (lambda: group_norm((8, 320, 32, 32), BF16, False, "silu", 32, backward=False), "tf32", False, 0),
    "group_largest": (lambda: group_norm((64, 512, 16, 16), FP32, False, "softplus", 32, alpha=True, scale=True), "tf32", False, 0),
    "group_last": (lambda: group_norm((8, 512, 16, 16), FP16, True, "gelu", 32, scale=True), "tf32", False, 0),
    "layer_rows": (lambda: group_norm((4096, 768), BF16, False, "gelu", 1), "tf32", False, 0),
    "layer_rows_largest": (lambda: group_norm((4096, 4096), FP32, False, "softplus", 1, alpha=True), "tf32", False, 0),
    "loss_bf16": (lambda: loss(64, "nonsaturating", BF16), "tf32", False, 0),
    "loss_average": (lambda: loss(1000, "relativistic_average", FP32), "tf32", False, 0),
    "loss_large": (lambda: loss(10**6, "hinge", FP32), "tf32", False, 0),
    "loss_large_average": (lambda: loss(10**6, "relativistic_average", BF16, generator=True), "tf32", False, 0),
    "gather": (lambda: gather((3, 64, 64), FP32, False, False, flip=False), "tf32", False, 0),
    "gather_bf16": (lambda: gather((3, 64, 64), BF16, False, False), "tf32", False, 0),
    "gather_last": (lambda: gather((3, 256, 256), FP16, True, True, index=torch.int32), "tf32", False, 0),
    "gather_to_last": (lambda: gather((3, 64, 64), BF16, False, True), "tf32", False, 0),
    "gather_from_last": (lambda: gather((3, 64, 64), FP32, True, False), "tf32", False, 0),
    "gather_grey": (lambda: gather((1, 28, 28), FP32, False, False), "tf32", False, 0),
    "normalised": (lambda: normalised(512 * 3, FP32), "tf32", False, 0),
    "normalised_bf16": (lambda: normalised(512 * 11, BF16), "tf32", False, 0),
    "normalised_odd": (lambda: normalised(27, FP16), "tf32", False, 0),
    "upfirdn_up_last": (lambda: resampled((4,), 2, 1, BF16, True), "tf32", False, 0),
    "upfirdn_down": (lambda: resampled((4,), 1, 2, FP32, False), "tf32", False, 0),
    "upfirdn_full": (lambda: resampled((12, 12), 1, 1, FP16, False), "tf32", False, 0),
    "filtered_lrelu": (lambda: between((148, 148), (12,), 2, "leaky_relu", BF16, keep_signs=True), "tf32", True, 0),
    "filtered_lrelu_up4": (lambda: between((84, 84), (24,), 4, "leaky_relu", FP32), "tf32", True, 16),  # backward, on 10.0 alone
    "filtered_radial": (lambda: between((52, 52), (12, 12), 2, "leaky_relu", FP16, keep_signs=True), "tf32", True, 0),
    "filtered_line": (lambda: between((8192,), (12,), 2, "snake_beta", BF16, replicate=True), "tf32", True, SNAKE_STACK),
    "filtered_line_fp32": (lambda: between((8192,), (12,), 2, "snake", FP32, learns=True, replicate=True), "tf32", True, SNAKE_STACK),
    "modulated_conv_bf16_last": (
        lambda: modulated_conv((32, 512, 32, 32), 512, (3, 3), BF16, True, "leaky_relu", 256.0, form=(True, True)), "tf32", False, 0),
    "modulated_conv": (lambda: modulated_conv((32, 128, 256, 256), 64, (3, 3), FP32, False, "leaky_relu"), "tf32", False, 0),
    "modulated_conv_rgb": (lambda: modulated_conv((32, 64, 64, 64), 3, (1, 1), FP16, False, "linear", 256.0, False), "tf32", False, 0),
    "modulated_conv_largest": (
        lambda: modulated_conv((4, 512, 16, 16), 512, (5, 5), FP32, True, "softplus", 1.0, alpha=True), "tf32", False, 0),
    "gather_odd": (lambda: gather((3, 5, 7), BF16, True, True), "tf32", False, 0),
}
# The widest accumulators, every output, the costliest activations, slices of 1, 2 and 4.
TMA = {
    "first": conv_tma((64, 512, 8, 8), 256, BF16, "linear"),
    "tf32": conv_tma((64, 512, 8, 8), 256, FP32, "relu"),
    "fp16_small": conv_tma((2, 64, 4, 4), 64, FP16, "tanh", save_z=True),
    "gelu_z": conv_tma((64, 512, 8, 8), 256, BF16, "gelu", "tma-2x8x8x256x64-w8s4", save_z=True),
    "softplus_z_alpha": conv_tma((64, 512, 8, 8), 256, BF16, "softplus", "tma-2x8x8x128x64-w8s3", save_z=True, alpha=True),
    "tf32_elu_z_alpha": conv_tma((64, 512, 8, 8), 256, FP32, "elu", "tma-2x8x8x128x32-w8s3", save_z=True, alpha=True),
    "snake_one_slice": conv_tma((64, 512, 8, 8), 256, BF16, "snake", "tma-1x8x8x64x64-w4s4", save_z=True, alpha=True),
    "added_signs": conv_tma((64, 512, 8, 8), 256, BF16, "leaky_relu", residual="last", signs=True),
    "added_widest": conv_tma((64, 512, 8, 8), 256, BF16, "relu", "tma-2x8x8x256x64-w8s4", residual="first"),
    "added_widest_z": conv_tma((64, 512, 8, 8), 256, BF16, "gelu", "tma-2x8x8x256x64-w8s4", save_z=True, residual="last"),
    "added_z_alpha": conv_tma((64, 512, 8, 8), 256, FP16, "softplus", "tma-2x8x8x128x64-w8s3", save_z=True, alpha=True, residual="last"),
    "added_tf32": conv_tma((64, 512, 8, 8), 256, FP32, "silu", "tma-2x8x8x128x32-w8s3", save_z=True, residual="first"),
    "scaled": conv_tma_scaled,
}


def launches(name):
    launch, precision, *_ = CASES[name]
    convolution = torch.backends.cudnn.conv
    before, convolution.fp32_precision = convolution.fp32_precision, precision
    try:
        return triton_aot.record(launch)
    finally:
        convolution.fp32_precision = before


# What `make test` compiles, each for one architecture: every kernel once or twice. `make prove` has all cases, on every architecture.
KEPT = ("conv_bf16_last", "conv_exact", "conv_added", "1x1_bf16", "few_bf16_last", "few_added_z", "bias_alpha", "bias_added_signs")
KEPT += ("norm_bf16_last", "instance_odd_last", "spade_bf16_last", "group_largest", "loss_bf16", "loss_large_average", "gather_bf16")
KEPT += ("normalised_bf16", "upfirdn_up_last", "filtered_radial", "filtered_line", "modulated_conv_bf16_last", "tf32", "gelu_z")
KEPT += ("added_signs",)


def in_turn(names, architectures):
    """Of the kept cases each for one of the architectures, in turn."""
    left = lambda place, turn, name: [] if place % len(architectures) == turn and name in KEPT else [pytest.mark.prove]
    every = ((name, a, left(place, turn, name)) for place, name in enumerate(names) for turn, a in enumerate(architectures))
    return pytest.mark.parametrize(("name", "architecture"), [pytest.param(name, a, marks=marks) for name, a, marks in every])


@in_turn(CASES, ARCHITECTURES)
def test_compiles_without_spills(name, architecture):
    _, _, tensor_core, stack = CASES[name]
    found = []
    for launch in launches(name):
        binary = triton_aot.compile_launch(launch, architecture)
        wanted = tensor_core and launch.kernel.__name__.startswith("conv_transpose_act_fwd")
        found += triton_aot.problems(binary, wanted, stack)
    assert not found, found


def tma_launch(name, capability):
    convolution = torch.backends.cudnn.conv
    before, convolution.fp32_precision = convolution.fp32_precision, "tf32"
    try:
        (launch,) = triton_aot.record(lambda: TMA[name](capability))
    finally:
        convolution.fp32_precision = before
    return launch


@in_turn(TMA, (90, 100))
def test_copy_engine_compiles(name, architecture):
    """No spills, matrix instructions, operands straight from shared memory, one loop, and the engine itself."""
    launch = tma_launch(name, divmod(architecture, 10))
    assert launch.kernel.__name__ == "conv_transpose_act_fwd_tma_kernel"
    binary = triton_aot.compile_launch(launch, architecture)
    found = triton_aot.problems(binary, True, SNAKE_STACK if "snake" in name else 0) + triton_aot.loop_problems(binary, True)
    assert not found, found
    assert binary.tma >= 3 and ("wgmma.mma_async" if architecture == 90 else "tcgen05.mma") in binary.ptx


@pytest.mark.parametrize("name", ["few_kernel_7", "few_1d"])
def test_the_widest_few_channel_tiles_fit_the_smaller_cards(name):
    """8.6 and 8.9 have 99 KB of shared memory a block. Of 26 calls over kernels, channels, dtypes and layouts a tile of 256 positions
    asks for 64 KB there, which `tl.gather` moves a product through; 80 KB at 9.0, which has 227."""
    for launch in launches(name):
        if launch.arguments["TILE"][0] * launch.arguments["TILE"][1] == 256:
            assert not triton_aot.problems(triton_aot.compile_launch(launch, 89), True)


def test_every_kernel_is_compiled():
    """A kernel that no case launches would be proved by nobody."""
    from ganfast import _triton
    from ganfast.ops.batch_norm_act import triton_modulated
    from ganfast.ops.conv_transpose_act import triton_few, triton_fwd, triton_tma

    ops = ("bias_act", "batch_norm_act", "group_norm_act", "gan_loss", "gather_images", "normalised_weights", "upfirdn", "filtered_act")
    ops += ("modulated_conv",)
    modules = (_triton, triton_fwd, triton_few, triton_tma, triton_modulated, *map(op, ops))
    every = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    compiled = {launch.kernel.__name__ for name in CASES for launch in launches(name)}
    assert compiled | {tma_launch("first", (9, 0)).kernel.__name__} == every
    assert set(KEPT) <= {*CASES, *TMA}
    kept = {launch.kernel.__name__ for name in set(KEPT) & set(CASES) for launch in launches(name)}
    assert kept == compiled, "`make test` compiles one case of each"


@pytest.mark.parametrize("kind", ["nonsaturating", "hinge", "relativistic_average"])
def test_a_batch_of_logits_is_one_launch(kind):
    """Loss, gradients and statistics of 128 logits a side: one program."""
    (launch,) = triton_aot.record(lambda: loss(128, kind, FP32))
    assert launch.kernel.__name__ == "gan_loss_fwd_kernel" and launch.grid == (1,)


@pytest.mark.parametrize(("name", "bits"), [("gather", 128), ("gather_bf16", 128), ("gather_last", 128), ("gather_from_last", 128)])
def test_a_gathered_image_moves_in_16_bytes(name, bits):
    """The dataset read, where images stay as they are, and the batch written, always."""
    (launch,) = launches(name)
    ptx = triton_aot.compile_launch(launch, 90).ptx
    wide = r"\.(v4\.b32|v2\.b64)"
    assert re.search(r"st\.global" + wide, ptx)
    assert bool(re.search(r"ld\.global" + wide, ptx)) == (name != "gather_from_last")


def shortened(names, kept):
    """All of them, those that are not kept for `make prove`."""
    return [pytest.param(name, marks=[] if name in kept else [pytest.mark.prove]) for name in names]


_ACTS = ["leaky_relu", "prelu", "tanh", "sigmoid", "elu", "selu", "silu", "gelu", "snake", "linear"]


@pytest.mark.parametrize("act", shortened(_ACTS, ("prelu", "tanh", "gelu", "snake")))
def test_every_activation_compiles(act):
    for launch in triton_aot.record(lambda: norm((8, 64, 8, 8), BF16, True, act, alpha=act in ("prelu", "elu", "snake"))):
        found = triton_aot.problems(triton_aot.compile_launch(launch, 90), False, SNAKE_STACK if act == "snake" else 0)
        assert not found, found


_WIDE = ["conv_bf16_last", "1x1_bf16", "bias_bf16_last", "norm_bf16_last", "instance_bf16_last", "instance_alpha"]


@pytest.mark.parametrize("name", shortened(_WIDE, ("conv_bf16_last", "bias_bf16_last", "norm_bf16_last")))
def test_wide_offsets_compile(monkeypatch, name):
    from ganfast import _triton

    monkeypatch.setattr(_triton, "wide_from", 0)
    for launch in launches(name):
        assert launch.arguments.get("WIDE", True)
        assert not triton_aot.problems(triton_aot.compile_launch(launch, 90), False)


def test_planted_failures_are_caught():
    """A tile too large for the registers, one too large for shared memory, and FMA where tensor cores are wanted."""
    (launch,) = launches("1x1_tf32_last")
    launch.arguments |= {"BLOCK_M": 128, "BLOCK_N": 256}
    launch.options |= {"num_warps": 4, "num_stages": 5}
    found = triton_aot.problems(triton_aot.compile_launch(launch, 80), True)
    assert any("stack" in problem for problem in found)
    assert any("shared" in problem for problem in found)
    (exact,) = launches("conv_exact")
    (problem,) = triton_aot.problems(triton_aot.compile_launch(exact, 90), True)
    assert "no tensor-core instruction" in problem
