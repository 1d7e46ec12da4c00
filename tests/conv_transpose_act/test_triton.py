"""conv_transpose_act's Triton kernels, interpreted, against plain torch in float64."""

import pytest
import torch
import torch.nn.functional as F

from ganfast import _activations
from tests.triton_interpreter import (  # noqa: F401
    ACTS,
    ALPHAS,
    activation_input,
    assert_close,
    assert_layout,
    assert_partials,
    backend,
    in_layout,
    interpreted,
    relative,
)

# elu and selu take exp of large numbers in lanes that tl.where then drops; numpy, which interprets, says so.
pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore:overflow encountered in exp")]

# name: (x, c_out, kernel, stride, padding, output_padding, dilation, groups); c_in 40 takes several blocks with a tail
CASES = {
    "dcgan": ((2, 16, 4, 4), 16, (4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 1),
    "channel_blocks": ((1, 40, 3, 4), 18, (4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 1),
    "odd_prime": ((3, 7, 5, 3), 11, (3, 5), (2, 3), (1, 0), (0, 0), (1, 1), 1),
    "many_tiles": ((3, 3, 17, 11), 5, (3, 3), (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "one_output_pixel": ((2, 3, 2, 1), 4, (2, 3), (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "stride_over_kernel": ((2, 4, 3, 2), 6, (2, 1), (3, 4), (0, 0), (2, 0), (1, 1), 1),
    "output_padding": ((1, 5, 4, 3), 3, (3, 5), (2, 3), (1, 2), (1, 2), (1, 1), 1),
    "padding_over_input": ((1, 4, 4, 5), 3, (5, 4), (2, 1), (4, 3), (0, 0), (1, 1), 1),
    "dilation": ((2, 4, 3, 4), 6, (3, 3), (2, 3), (1, 2), (0, 1), (3, 2), 1),
    "dilation_shares_factor": ((1, 4, 3, 3), 6, (3, 2), (2, 4), (1, 0), (1, 1), (2, 6), 1),
    "dilation_over_stride_1": ((2, 3, 4, 5), 4, (3, 2), (1, 1), (2, 0), (0, 0), (2, 3), 1),
    "groups": ((2, 12, 3, 4), 10, (4, 3), (2, 1), (1, 1), (0, 0), (1, 1), 2),
    "depthwise": ((2, 6, 4, 3), 6, (4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 6),
    "1d": ((2, 5, 9), 7, (4,), (2,), (1,), (0,), (1,), 1),
    "1d_dilated_groups": ((1, 6, 7), 4, (5,), (3,), (2,), (1,), (2,), 2),
    "3d": ((1, 4, 2, 3, 2), 5, (3, 2, 4), (2, 1, 3), (1, 0, 2), (1, 0, 1), (1, 2, 1), 1),
    "3d_groups": ((2, 4, 2, 2, 3), 6, (2, 3, 2), (1, 2, 2), (0, 1, 0), (0, 1, 1), (1, 1, 1), 2),
    "1x1": ((5, 20, 1, 1), 9, (4, 4), (1, 1), (0, 0), (0, 0), (1, 1), 1),
    "1x1_padding": ((3, 17, 1, 1), 8, (5, 4), (2, 2), (2, 1), (1, 1), (1, 1), 1),
    "1x1_dilation_groups": ((35, 6, 1, 1), 8, (3, 2), (3, 4), (1, 2), (2, 3), (2, 4), 2),
    "1x1_1d": ((2, 5, 1), 3, (6,), (4,), (1,), (2,), (1,), 1),
    "1x1_3d": ((2, 5, 1, 1, 1), 3, (2, 3, 2), (1, 2, 3), (0, 1, 0), (0, 1, 2), (1, 1, 1), 1),
}
LAYOUTS = [(name, last) for name, case in CASES.items() for last in (False, True) if len(case[0]) > 3 or not last]


def make(name, dtype=torch.float32):
    shape, c_out, kernel, *rest, groups = CASES[name]
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    x = torch.randn(shape, generator=generator).to(dtype)
    weight = torch.randn(shape[1], c_out // groups, *kernel, generator=generator).to(dtype)
    return x, weight, torch.randn(c_out, generator=generator), tuple(map(list, rest)), groups


def convolve(x, weight, bias, geometry, groups):
    stride, padding, output_padding, dilation = geometry
    f = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[x.dim() - 3]
    return f(x.double(), weight.double(), bias.double() if bias is not None else None, stride, padding, output_padding, groups, dilation)


@pytest.mark.parametrize("name, channels_last", LAYOUTS)
def test_forward(name, channels_last):
    x, weight, bias, geometry, groups = make(name)
    memory = weight.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else weight
    y, z, stats = backend("conv_transpose_act").conv_transpose_act_fwd_triton(
        in_layout(x, channels_last), memory, bias, None, *geometry, groups, "leaky_relu", 0.2, channels_last, True, True
    )
    want = convolve(x, weight, bias, geometry, groups)
    assert_close(z, want, "z")
    assert_close(y, F.leaky_relu(want, 0.2), "y")
    assert_layout(y, channels_last)
    assert_layout(z, channels_last)
    assert_partials(stats, y)


@pytest.mark.parametrize("name", ["dcgan", "groups", "1x1_padding", "3d"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_forward_fp16_without_extras(name, channels_last):
    """The weight in the other layout than x, no bias, nothing saved."""
    x, weight, _, geometry, groups = make(name, torch.float16)
    y, z, stats = backend("conv_transpose_act").conv_transpose_act_fwd_triton(
        in_layout(x, channels_last),
        in_layout(weight, not channels_last),
        None,
        None,
        *geometry,
        groups,
        "tanh",
        0.0,
        channels_last,
        False,
        False,
    )
    assert_close(y, convolve(x, weight, None, geometry, groups).tanh(), "y")
    assert y.dtype == torch.float16 and z.shape == stats.shape == (0,)
    assert z.dtype == torch.float16 and stats.dtype == torch.float32


def test_partials_are_of_the_rounded_values():
    x, weight, bias, geometry, groups = make("dcgan", torch.float16)
    y, _, stats = backend("conv_transpose_act").conv_transpose_act_fwd_triton(
        x, weight, bias + 500, None, *geometry, groups, "linear", 0.0, False, False, True
    )
    assert_partials(stats, y)  # at 500 half a unit in fp16's last place is 0.125: unrounded values have another variance


@pytest.mark.parametrize("name", ["many_tiles", "1x1_dilation_groups"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_wide_offsets(name, channels_last, monkeypatch):
    from ganfast import _triton

    monkeypatch.setattr(_triton, "wide_from", 0)
    test_forward(name, channels_last)


def test_blocks_stay_inside_their_bounds():
    from ganfast.ops.conv_transpose_act import triton_configs as configs

    for m in (1, 17, 4096, 10**7):
        for columns in (1, 3, 64, 1000):
            for itemsize, exact, last, save_z in (
                (2, False, True, False),
                (2, False, True, True),
                (4, False, True, False),
                (4, True, False, False),
            ):
                p = configs.Problem(
                    (m, 112, 2, 2), (112, columns, 4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 1, itemsize, exact, last, save_z, None
                )
                first = configs.pointer_blocks("ptr", p, m, columns, 4)
                assert configs.pointer_fault(p, first) is None, first
                names = configs.pointer_configurations(p, first)
                assert names[0] == first.name and len(names) == len(set(names))


@pytest.mark.parametrize("act, tensor_alpha", ACTS)
def test_activation_forward(act, tensor_alpha):
    """Through an identity convolution, exact in float32, so that z is known to the bit."""
    z, alpha = activation_input(act, tensor_alpha)
    weight = torch.eye(4).view(4, 4, 1, 1)
    for value in (ALPHAS.get(act, 0.0), 0.0) if act == "snake" else (ALPHAS.get(act, 0.0),):
        y, _, _ = backend("conv_transpose_act").conv_transpose_act_fwd_triton(
            z, weight, None, alpha, [1, 1], [0, 0], [0, 0], [1, 1], 1, act, value, False, False, False
        )
        want = _activations.act_fwd(z.double(), act, None if alpha is None else alpha.double(), value)
        if act == "gelu":  # 1 + erf cancels below -5: absolute there, as in torch itself
            assert_close(y, want, act, floor=1.0)
        elif act in ("silu", "tanh", "sigmoid", "elu", "selu", "softplus"):
            relative(y, want, act)
        else:
            assert_close(y, want, act, floor=2.0)
    z[0, 0, 0, 0] = float("nan")
    y, _, _ = backend("conv_transpose_act").conv_transpose_act_fwd_triton(
        z, weight, None, alpha, [1, 1], [0, 0], [0, 0], [1, 1], 1, act, ALPHAS.get(act, 0.0), False, False, False
    )
    assert y[0, 0, 0, 0].isnan() and not y[0, :, 1:].isnan().any(), f"{act} swallowed a NaN"
