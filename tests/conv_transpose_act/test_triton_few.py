"""The few-channel kernel of conv_transpose_act in Triton, interpreted, against plain torch in float64."""

import importlib

import pytest
import torch
import torch.nn.functional as F

from tests.conv_transpose_act.test_triton import assert_partials, convolve
from tests.triton_interpreter import assert_close, assert_layout, in_layout, interpreted  # noqa: F401

pytestmark = pytest.mark.triton

# name: (x, c_out, kernel, stride, padding, output_padding, dilation, groups)
CASES = {
    "rgb": ((2, 16, 8, 8), 3, (4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 1),
    "several_tiles": ((1, 16, 19, 37), 3, (4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 1),
    "channel_blocks": ((1, 70, 3, 9), 1, (4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 1),
    "tap_blocks": ((2, 37, 5, 7), 3, (5, 5), (2, 2), (2, 2), (1, 1), (1, 1), 1),
    "kernel_7": ((1, 8, 9, 6), 3, (7, 7), (1, 1), (3, 3), (0, 0), (1, 1), 1),
    "kernel_1": ((2, 9, 3, 5), 2, (1, 1), (1, 1), (0, 0), (0, 0), (1, 1), 1),
    "eight": ((1, 5, 6, 5), 8, (3, 4), (1, 2), (1, 1), (0, 1), (1, 1), 1),
    "groups": ((2, 12, 3, 4), 10, (4, 3), (2, 1), (1, 1), (0, 0), (1, 1), 2),
    "stride_over_kernel": ((2, 4, 3, 2), 3, (2, 1), (3, 4), (0, 0), (2, 0), (1, 1), 1),
    "padding_over_input": ((1, 4, 4, 5), 3, (5, 4), (2, 1), (4, 3), (0, 0), (1, 1), 1),
    "dilation": ((2, 4, 3, 4), 5, (3, 3), (2, 3), (1, 2), (0, 1), (3, 2), 1),
    "dilation_shares_factor": ((1, 4, 3, 3), 6, (3, 2), (2, 4), (1, 0), (1, 1), (2, 6), 1),
    "1d": ((2, 5, 90), 2, (4,), (2,), (1,), (0,), (1,), 1),
    "1d_dilated": ((1, 6, 7), 4, (5,), (3,), (2,), (1,), (2,), 2),
}
LAYOUTS = [(name, last) for name, case in CASES.items() for last in (False, True) if len(case[0]) > 3 or not last]


def few():
    return importlib.import_module("ganfast.ops.conv_transpose_act.triton_few")


def make(name, dtype, channels_last, weight_last):
    shape, c_out, kernel, *rest, groups = CASES[name]
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    x = in_layout(torch.randn(shape, generator=generator).to(dtype), channels_last)
    weight = torch.randn(shape[1], c_out // groups, *kernel, generator=generator).to(dtype)
    weight = weight.movedim(1, -1).contiguous().movedim(-1, 1) if weight_last else weight
    return x, weight, torch.randn(c_out, generator=generator), tuple(map(list, rest)), groups


@pytest.mark.parametrize("config", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("name, channels_last", LAYOUTS)
def test_forward(name, channels_last, config, monkeypatch):
    from ganfast import _triton

    if config:
        monkeypatch.setattr(_triton, "wide_from", 0)
    x, weight, bias, geometry, groups = make(name, torch.float32, channels_last, weight_last=channels_last)
    assert few().few_reason(x, weight, *geometry, groups, channels_last) is None
    chosen = few().few_configurations(x, weight, *geometry, groups, channels_last)[config]
    alpha = torch.linspace(0.1, 0.5, len(bias))
    y, z, stats = few().conv_transpose_act_fwd_few_triton(
        x, weight, bias, alpha, *geometry, groups, "prelu", 0.0, channels_last, True, True, config=chosen
    )
    want = convolve(x, weight, bias, geometry, groups)
    assert_close(z, want, "z")
    assert_close(y, F.prelu(want, alpha.double()), "y")
    assert_layout(y, channels_last)
    assert_layout(z, channels_last)
    assert_partials(stats, y)


@pytest.mark.parametrize("name", ["rgb", "several_tiles", "tap_blocks", "1d"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_forward_fp16_without_extras(name, channels_last):
    """The weight in the other layout than x, no bias, nothing saved, every configuration."""
    channels_last = channels_last and len(CASES[name][0]) > 3
    x, weight, _, geometry, groups = make(name, torch.float16, channels_last, weight_last=not channels_last)
    for config in few().few_configurations(x, weight, *geometry, groups, channels_last):
        y, z, stats = few().conv_transpose_act_fwd_few_triton(
            x, weight, None, None, *geometry, groups, "tanh", 0.0, channels_last, False, False, config=config
        )
        assert_close(y, convolve(x, weight, None, geometry, groups).tanh(), "y")
        assert_layout(y, channels_last)
        assert y.dtype == torch.float16 and z.shape == stats.shape == (0,)


def test_partials_are_of_the_rounded_values():
    x, weight, bias, geometry, groups = make("rgb", torch.float16, False, False)
    y, _, stats = few().conv_transpose_act_fwd_few_triton(x, weight, bias + 500, None, *geometry, groups, "linear", 0.0, False, False, True)
    assert_partials(stats, y)  # at 500 half a unit in fp16's last place is 0.125: unrounded values have another variance


REFUSED = {
    "output channels": ((1, 4, 5, 5), 9, (3, 3), 1, 1, 1),
    "3-D": ((1, 4, 5, 5, 5), 3, (3, 3, 3), 1, 1, 1),
    "one input pixel": ((1, 4, 1, 1), 3, (4, 4), 1, 0, 1),
    "outputs an input position": ((1, 4, 5, 5), 8, (4, 4), 4, 0, 1),
    "past the largest tile": ((1, 4, 90, 90), 3, (9, 9), 1, 0, 4),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refusals(why):
    shape, c_out, kernel, stride, padding, dilation = REFUSED[why]
    rank = len(kernel)
    x, weight = torch.empty(shape, device="meta"), torch.empty(shape[1], c_out, *kernel, device="meta")
    reason = few().few_reason(x, weight, [stride] * rank, [padding] * rank, [0] * rank, [dilation] * rank, 1, False)
    assert reason is not None and why in reason


def test_every_input_is_read_once_where_the_image_fits():
    """DCGAN's last layer: whole rows, and no tile row but the border ones is read twice."""
    x, weight = torch.empty(64, 64, 32, 32, device="meta", dtype=torch.bfloat16), torch.empty(64, 3, 4, 4, device="meta")
    _, _, _, _, _, axes = few()._geometry(x, weight, [2, 2], [1, 1], [0, 0], [1, 1], 1)
    tile, valid, _, tiles = few()._tile(256, axes, (32, 32))
    assert tile == (8, 32) and valid == (6, 32) and tiles == 6
