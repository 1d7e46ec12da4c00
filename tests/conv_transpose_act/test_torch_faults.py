"""Shapes that torch 2.13 computes wrong in 16 bits where the processor has AMX: ganfast's are right there, on every backend.

A processor without AMX runs the same tests; `avoided` plants the probe's answer, so that the float32 path is tested on every machine.
"""

import copy
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ganfast
import ganfast.functional as GF
from ganfast import _tune, cli
from ganfast.ops.conv_transpose_act import kernels, torch_backend, torch_faults
from ganfast.ops.conv_transpose_act.reference import CONV
from ganfast.testing import Case, named

TRANSPOSED = (None, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@dataclass(frozen=True)
class Row(Case):
    """An ordinary convolution x [2, groups * c, *size] -> c_out, and the transposed one that leads back."""

    c: int
    c_out: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    options: dict = field(default_factory=dict, hash=False)

    def lists(self) -> tuple:
        dims = len(self.size)
        own = {"stride": 1, "padding": 0, "dilation": 1, **self.options}
        spread = lambda value: list(value) if isinstance(value, tuple) else [value] * dims
        return spread(own["stride"]), spread(own["padding"]), spread(own["dilation"]), own.get("groups", 1)

    def out(self, size) -> list[int]:
        stride, padding, dilation, _ = self.lists()
        return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, s, p, d, k in zip(size, stride, padding, dilation, self.kernel)]

    def tensors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """(x, weight, an output's gradient)"""
        groups = self.lists()[3]
        weight = torch.randn(self.c_out, self.c, *self.kernel)
        weight /= weight[0].numel() ** 0.5
        x, gy = torch.randn(2, self.c * groups, *self.size), torch.randn(2, self.c_out, *self.out(self.size))
        return x.to(dtype), weight.to(dtype), gy.to(dtype)


# The first is HiFi-GAN's upsampling, seen from its gradient.
ROWS = named(
    Row("hifigan", 4, 8, (128,), (16,), {"stride": 8, "padding": 4}),
    Row("wide-kernel", 8, 8, (40,), (16,), {"stride": 4}),
    Row("square", 4, 8, (32, 32), (16, 16), {"stride": 8, "padding": 4}),
    Row("width-alone", 12, 5, (6, 24), (3, 8), {"padding": (1, 2)}),
    Row("groups", 6, 6, (40,), (16,), {"groups": 3, "padding": 8}),
    Row("patches", 16, 8, (3, 36), (2, 4), {"stride": (1, 4)}),
    Row("patches-1d", 22, 4, (64,), (16,), {"stride": 8}),
    Row("one-column", 12, 2, (22, 1), (2, 5), {"stride": (3, 2), "padding": (0, 2)}),
    Row("one-column-1d", 9, 34, (4,), (15,), {"stride": 14, "padding": 7}),
    Row("one-slice", 6, 8, (1, 3, 11), (3, 2, 16), {"stride": (4, 1, 3), "padding": (1, 0, 7)}),
)  # fmt: skip
rows = pytest.mark.parametrize("row", ROWS, ids=str)
backends = pytest.mark.parametrize("backend", ["reference", "torch", "cpu", None])


def has_the_fault() -> bool:
    """By the processor's flags: an AMX machine, and the torch that the map in README.md was made with."""
    flags = Path("/proc/cpuinfo")
    return (
        flags.exists()
        and "amx_bf16" in flags.read_text()
        and torch.__version__.startswith("2.13.")
        and "ONEDNN_MAX_CPU_ISA" not in os.environ
    )


@pytest.fixture(params=["as-it-is", "avoided"])
def probe(request, monkeypatch):
    if request.param == "avoided":
        monkeypatch.setattr(torch_faults, "wrong_in", lambda dtype: True)


def assert_right(got, want) -> None:
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.dtype == torch.bfloat16
        error, scale = (a.double() - b).abs().max().item(), b.abs().max().item()
        # Rounded right it is 0.004; wrong ones are 0.3 and more.
        assert error < 0.03 * scale, f"result {i}: off by {error:.3g} of {scale:.3g}"


def two_orders(f, *leaves: Tensor, gy: Tensor) -> list[Tensor]:
    """[y, first gradients, gradients of the first's weighted sum], as losses with a penalty have them."""
    leaves = [t.clone().requires_grad_() for t in leaves]
    y = f(*leaves)
    first = torch.autograd.grad(y, leaves, gy.to(y.dtype), create_graph=True)
    weighted = sum((g * torch.linspace(-1, 1, g.numel(), dtype=torch.float64).view(g.shape).to(g.dtype)).sum() for g in first)
    return [t.detach() for t in (y, *first, *torch.autograd.grad(weighted, leaves))]


def lay_out(layout: str, *tensors: Tensor) -> list[Tensor]:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return [t.contiguous(memory_format=formats[t.dim()]) if layout == "nhwc" and t.dim() in formats else t for t in tensors]


@rows
@backends
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_right_to_second_order(row, backend, layout, probe):
    if layout == "nhwc" and len(row.size) == 1:
        return  # 1-D tensors have one layout
    x, weight, gy = lay_out(layout, *row.tensors(torch.bfloat16))
    stride, padding, dilation, groups = row.lists()
    exact = lambda x, w: CONV[len(stride)](x, w, None, stride, padding, dilation, groups)
    ours = lambda x, w: GF.conv_act(x, w, **row.options, backend=backend)
    assert_right(two_orders(ours, x, weight, gy=gy), two_orders(exact, x.double(), weight.double(), gy=gy))
    covered = kernels.output_size(gy.shape[2:], row.kernel, stride, padding, [0] * len(stride), dilation)
    left = [n - c for n, c in zip(row.size, covered)]
    back = lambda g, w: TRANSPOSED[len(stride)](g, w, None, stride, padding, left, groups, dilation)
    ours = lambda g, w: GF.conv_transpose_act(g, w, **row.options, output_padding=tuple(left), backend=backend)
    assert_right(two_orders(ours, gy, weight, gy=x), two_orders(back, gy.double(), weight.double(), gy=x))


@rows
def test_autocast(row, probe):
    x, weight, gy = row.tensors(torch.float32)
    stride, padding, dilation, groups = row.lists()
    for backend in ("reference", "torch", None):
        with torch.autocast("cpu", torch.bfloat16):
            got = [f(t, weight, **row.options, backend=backend) for f, t in ((GF.conv_act, x), (GF.conv_transpose_act, gy))]
        want = CONV[len(stride)](x.double(), weight.double(), None, stride, padding, dilation, groups)
        back = TRANSPOSED[len(stride)](gy.double(), weight.double(), None, stride, padding, 0, groups, dilation)
        assert_right(got, [want, back])


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_torch_in_a_layout_of_its_own(layout, probe):
    for row in ROWS:
        x, weight, _ = row.tensors(torch.bfloat16)
        args = row.lists()
        want = CONV[len(row.size)](x.double(), weight.double(), None, *args)
        assert_right([torch_backend.conv_torch(x, weight, None, *args, layout if x.dim() > 3 else "")], [want])


def test_the_shuffle(probe):
    """A transposed convolution to few channels as an ordinary one, whose kernel is narrower."""
    x, weight = torch.randn(2, 8, 6, 6).bfloat16(), (torch.randn(8, 3, 32, 32) / 16).bfloat16()
    want = F.conv_transpose2d(x.double(), weight.double(), None, 4, 14)
    assert_right([torch_backend.shuffled(x, weight, None, (4, 4), (14, 14))], [want])


def test_upsampling(probe):
    x, weight = torch.randn(2, 8, 6, 10).bfloat16(), (torch.randn(4, 8, 3, 8) / 14).bfloat16()
    want = F.conv2d(F.interpolate(x.double(), scale_factor=2), weight.double(), padding=1)
    for backend in ("reference", "torch", None):
        assert_right([GF.upsample_conv_act(x, weight, padding=1, backend=backend)], [want])


@pytest.mark.parametrize("autocast", [False, True])
def test_chains_do_not_choose_torchs_layers(autocast, monkeypatch, probe):
    """Where they are wrong; elsewhere the tuner's answer stands, and they are right."""

    def choose(question, candidates, *_, **__):
        return ("layers" if "layers" in candidates else next(iter(candidates))), True

    monkeypatch.setattr(_tune, "choose", choose)
    monkeypatch.setattr(_tune, "off_reason", lambda: "")
    stored, made = torch.float32 if autocast else torch.bfloat16, lambda: nn.Conv1d(4, 8, 16, 8, 4).bfloat16()
    x = torch.randn(2, 4, 128).bfloat16()
    for layers in (nn.Sequential(made(), nn.LeakyReLU(0.2)), made()):
        want = copy.deepcopy(layers).double()(x.double()).detach()
        model = ganfast.accelerate(layers.to(stored))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert_right([model(x.to(stored)).detach()], [want])


@pytest.mark.parametrize("dtype", torch_faults.HALF)
def test_the_probe_is_quiet_inside_anything(dtype):
    """It asks in a thread of its own: no mode of the caller's sees it, no random number is drawn."""
    state = torch.get_rng_state()
    torch_faults._probed.cache_clear()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), torch.device("meta"):
        inside = torch_faults.wrong_in(dtype)
    torch_faults._probed.cache_clear()
    assert inside == torch_faults.wrong_in(dtype)
    assert torch.equal(state, torch.get_rng_state())


def test_the_probe_sees_the_fault_where_the_processor_has_it():
    if has_the_fault():
        assert torch_faults.wrong_in(torch.bfloat16)
    assert not torch_faults.wrong_in(torch.float32)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not torch_faults.wrong_in(torch.bfloat16)


def test_the_float32_path_is_taken_only_there(monkeypatch):
    """DCGAN's layers stay in 16 bits."""
    monkeypatch.setattr(torch_faults, "wrong_in", lambda dtype: True)
    x, one = torch.empty(2, 64, 16, 16, dtype=torch.bfloat16), (1, 1)
    assert not torch_faults.conv(x, torch.empty(128, 64, 4, 4), (2, 2), one, one, 1)
    assert not torch_faults.conv(x[..., :4, :4], torch.empty(1, 64, 4, 4), one, (0, 0), one, 1)
    assert not torch_faults.conv(x.float(), torch.empty(8, 4, 16, 16), one, one, one, 16)
    assert not torch_faults.conv_transpose(x)
    assert not torch_faults.weight_grad(x, 16, (2, 2)) and torch_faults.weight_grad(x, 1, (2, 2))


@pytest.mark.parametrize("dtype", torch_faults.HALF)
@pytest.mark.parametrize("size", [(8,), (6, 5), (4, 5, 6)], ids=str)
def test_without_kernels_for_the_dtype_it_is_float32_rounded_once(size, dtype, monkeypatch):
    monkeypatch.setattr(torch_faults, "lacks_kernels", lambda asked: asked == dtype)
    x, weight, dims = torch.randn(2, 8, *size).to(dtype), torch.randn(8, 16, *[4] * len(size)).to(dtype), len(size)
    y, *_ = torch_backend.conv_transpose_act_fwd_torch(
        x, weight, None, None, [2] * dims, [1] * dims, [0] * dims, [1] * dims, 1, "linear", 0.0, False, False, False
    )
    assert torch.equal(y, TRANSPOSED[dims](x.float(), weight.float(), None, 2, 1).to(dtype))
    back = torch_backend.conv_torch(y, weight, None, [2] * dims, [1] * dims, [1] * dims, 1)
    assert torch.equal(back, CONV[dims](y.float(), weight.float(), None, 2, 1).to(dtype))


def _layer(x, weight, stride, dtype, padding=0, transposed=False, learns=True) -> bool:
    """torch_faults.layer of random-looking sizes, x [*x], weight [*weight]."""
    dims = len(x) - 2
    stride, padding, one = (stride,) * dims, (padding,) * dims, (1,) * dims
    x, weight = torch.empty(x, dtype=dtype), torch.empty(weight, dtype=dtype)
    call = getattr(torch.nn.functional, f"conv{'_transpose' * transposed}{dims}d")
    z = call(x.float(), weight.float(), None, stride, padding).to(dtype)
    return torch_faults.layer(x, z, weight, stride, padding, one, 1, transposed, learns)


def test_torchs_layers_that_are_wrong_without_amx(monkeypatch):
    monkeypatch.setattr(torch_faults, "wrong_in", lambda dtype: False)
    half = torch.bfloat16
    assert _layer((1, 16, 8, 4), (16, 16, 4, 4), 2, half)  # one column
    assert not _layer((1, 16, 8, 4), (16, 16, 4, 4), 2, half, learns=False) and not _layer((1, 16, 8, 4), (16, 16, 4, 4), 2, torch.float32)
    assert _layer((1, 16, 4, 1), (16, 16, 4, 4), 2, half, padding=1, transposed=True)
    assert _layer((1, 4, 5, 5, 5), (4, 4, 3, 3, 3), 1, torch.float32, padding=2) and not _layer(
        (1, 4, 5, 5), (4, 4, 3, 3), 1, torch.float32, 1
    )
    assert _layer((1, 4, 2, 4, 4), (4, 4, 3, 3, 3), 1, half, padding=1) and _layer((1, 4, 4, 4), (4, 4, 1, 1), 2, torch.float32)
    assert _layer((1, 16, 2, 2), (16, 16, 4, 4), 2, half, padding=1) and not _layer((1, 16, 4, 4), (16, 16, 4, 4), 1, half)


def test_torchs_layers_that_are_wrong_with_amx(monkeypatch):
    """DCGAN's are not. What is wrong in one direction is wrong in the other's gradient."""
    monkeypatch.setattr(torch_faults, "wrong_in", lambda dtype: dtype == torch.bfloat16)
    half = torch.bfloat16
    assert not _layer((2, 64, 16, 16), (128, 64, 4, 4), 2, half, padding=1)
    assert not _layer((2, 64, 16, 16), (64, 32, 4, 4), 2, half, padding=1, transposed=True)
    patches, upsampling = ((1, 16, 8, 36), (16, 16, 4, 4), 4), ((1, 8, 32), (8, 4, 16), 8)
    assert _layer(*patches, half, learns=False) and not _layer(*patches, torch.float16)
    assert _layer(*upsampling, half, padding=4, transposed=True)
    assert not _layer(*upsampling, half, padding=4, transposed=True, learns=False)


@pytest.mark.parametrize("wrong", [False, True])
def test_doctor_says_what_to_set(wrong, monkeypatch, capsys):
    monkeypatch.setattr(torch_faults, "wrong_in", lambda dtype: wrong and dtype == torch.bfloat16)
    cli.main(["doctor"])
    said = capsys.readouterr().out
    assert "float16: right" in said
    assert ("bfloat16: WRONG" in said and torch_faults.CURE in said) == wrong
