"""The cases' own arithmetic against torch's, and that the rows a goal speaks of exist."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import case_types, cases
from benchmarks.case_types import convolution_bytes, label, on
from benchmarks.modulated_cases import MODULATED_CONV
from ganfast.models.dcgan import DCGANGenerator
from tests.families.r3gan import ResidualBlock

_TORCH = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_EVERY = [
    cases.CONV, cases.BLOCK, cases.CONV_TRANSPOSE, cases.UPSAMPLE, cases.NORM, cases.INSTANCE_NORM, cases.BIAS, cases.LOSS, cases.GATHER,
]  # fmt: skip
_EVERY += [cases.WEIGHTS, cases.GROUP_NORM, cases.MODULATED, MODULATED_CONV]


@pytest.mark.parametrize("case", cases.CONV_TRANSPOSE, ids=lambda c: c.name)
def test_a_transposed_convolutions_numbers_are_torchs(case):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        sizes = (case.c_in, case.c_out, case.kernel, case.stride, case.padding, case.output_padding)
        layer = _TORCH[len(case.size)](*sizes, bias=False)
        x = torch.empty(case.batch, case.c_in, *case.size)
        y = layer(x)
    assert case.flops() == counter.get_total_flops()
    assert case.elements() == (x.numel(), layer.weight.numel(), y.numel())
    assert all(out == in_ * case.stride or in_ == 1 for out, in_ in zip(y.shape[2:], case.size)), "these layers double, or open a pixel"


@pytest.mark.parametrize("case", cases.CONV, ids=lambda c: c.name)
def test_a_convolutions_numbers_are_torchs(case):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        layer = nn.Conv2d(case.c_in, case.c_out, case.kernel, case.stride, case.padding, groups=case.groups)
        x = torch.empty(case.batch, case.c_in, *case.size)
        y = layer(x)
    assert case.flops() == counter.get_total_flops()
    assert case.elements() == (x.numel(), layer.weight.numel(), y.numel())
    tiny = case.tiny()
    assert (tiny.kernel, tiny.stride, tiny.act) == (case.kernel, case.stride, case.act) and tiny.flops() < 1e6


@pytest.mark.parametrize("case", MODULATED_CONV, ids=lambda c: c.name)
def test_a_modulated_convolutions_numbers_are_torchs(case):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        x, weight = torch.empty(case.batch, case.c_in, case.size, case.size), torch.empty(case.c_out, case.c_in, case.kernel, case.kernel)
        turned = weight.transpose(0, 1)
        y = nn.functional.conv_transpose2d(x, turned, stride=2) if case.up == 2 else nn.functional.conv2d(x, weight, padding="same")
    assert case.flops() == counter.get_total_flops()
    large = case.batch * case.c_out * (case.size * case.up) ** 2
    assert case.elements() == (x.numel(), weight.numel(), large) and y.shape[2] == case.size * case.up + (case.up == 2)


@pytest.mark.parametrize("case", cases.BLOCK, ids=lambda c: c.name)
def test_a_blocks_numbers_are_torchs(case):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        block = ResidualBlock(case.channels, case.inner // case.channels, case.inner // case.groups)
        block(torch.empty(case.batch, case.channels, *case.size))
    assert case.flops() == counter.get_total_flops() and block.mix.layer.groups == case.groups


@pytest.mark.parametrize("case", cases.UPSAMPLE, ids=lambda c: c.name)
def test_an_upsamplings_numbers_are_torchs_but_for_the_saved_taps(case):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        layer = nn.Conv2d(case.c_in, case.c_out, 3, padding=1, bias=False)
        x = torch.empty(case.batch, case.c_in, *case.size)
        y = layer(nn.functional.interpolate(x, scale_factor=2, mode="nearest"))
    assert case.flops() * 9 == counter.get_total_flops() * 4
    assert case.elements() == (x.numel(), layer.weight.numel(), y.numel())


def test_the_generators_flops_are_torchs():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        DCGANGenerator(64, 100, 64).eval()(torch.empty(64, 100))
    assert cases.GENERATOR.flops() == counter.get_total_flops()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_rows_have_names_of_their_own_and_a_source(device):
    for rows in _EVERY:
        chosen = on(device, rows)
        assert len({label(row) for row in chosen}) == len(chosen) > 0
        assert all(row.source and row.batch > 0 for row in chosen)


def test_batches_follow_the_device():
    case = cases.NORM[0]._replace(batch=4, cpu_batch=None, gpu_batches=())
    batches = lambda device, **changes: [row.batch for row in on(device, [case._replace(**changes)])]
    assert batches("cpu") == batches("cuda") == [4]
    assert batches("cpu", cpu_batch=2, gpu_batches=(8, 9)) == [2] and batches("cuda", cpu_batch=2, gpu_batches=(8, 9)) == [8, 9]
    assert batches("cpu", cpu_batch=0) == [] and batches("cuda", cpu_batch=0) == [4]


def test_a_gpu_has_the_rows_its_goals_are_about():
    rows = on("cuda", cases.CONV_TRANSPOSE)
    heavy = [row for row in rows if row.flops() >= 50e9 and row.c_in >= 256]
    assert len(heavy) >= 4 and len({row.name.split("-")[0] for row in heavy}) >= 2
    assert {1, 16} <= {row.batch for row in rows if row.name == "pix2pix-6"}
    assert [row.batch for row in on("cuda", cases.UPSAMPLE) if row.name == "stylegan2-256"] == [1, 16]
    assert 128 in [row.batch for row in on("cuda", cases.LOSS)] and any(row.batch >= 1 << 25 for row in on("cuda", cases.LOSS))


def test_the_networks_named_are_all_there():
    names = {case.name.rsplit("-", 1)[0] if "-" in case.name else case.name for rows in _EVERY for case in rows}
    wanted = {
        "dcgan64",
        "dcgan128",
        "wgan-gp",
        "sngan32",
        "pix2pix",
        "cyclegan",
        "srgan",
        "context-encoder",
        "hifigan",
        "3dgan",
        "stylegan2",
    }
    assert wanted <= names
    known = {case.name for rows in _EVERY for case in rows}
    assert known >= cases.SECOND_ORDER | cases.MAX_AUTOTUNE


def test_tiny_cases_keep_what_a_backend_is_chosen_by():
    by_name = {case.name: case for case in cases.CONV_TRANSPOSE}
    one_pixel, rgb, usual = (by_name[name].tiny() for name in ("dcgan64-1", "dcgan64-rgb", "3dgan-2"))
    assert one_pixel.size == (1, 1) and rgb.c_out == 3 and usual.size == (2, 2, 2)
    assert one_pixel.c_out == usual.c_out == 16 and usual.kernel == 4 and all(t.flops() < 1e6 for t in (one_pixel, rgb, usual))


def test_bytes_count_each_tensor_once_a_pass():
    assert convolution_bytes((10, 5, 20), "fwd", 4) == 35 * 4
    # forward x w y, backward gy y x w gx gw
    assert convolution_bytes((10, 5, 20), "fwd+bwd", 2) == 2 * (10 + 5 + 20 + 20 + 20 + 10 + 5 + 10 + 5)
    assert convolution_bytes((10, 5, 20), "second order", 2) is None
    assert case_types.label(cases.LOSS[0]) == "logits-64-b64"
