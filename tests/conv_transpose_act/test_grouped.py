"""Merged groups and flipped kernels: each equals the float64 reference in every pass; which of them the tuner is offered, and takes."""

import random
from types import SimpleNamespace

import pytest
import torch

import ganfast.functional as GF
from ganfast import _backends, _timing, _tune
from ganfast._memo import Memo
from ganfast.ops.conv_transpose_act import choice, grouped, kernels
from tests.tune.common import forget

WIDE = ["torch/wide8", "torch/wide16", "torch/wide3"]
FORMATS = {3: torch.contiguous_format, 4: torch.channels_last, 5: torch.channels_last_3d}
NEAR = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def problem(rng):
    """(x, weight, geometry of a transposed convolution, channels_last) of random groups; None where nothing comes out."""
    dims, groups = rng.choice([1, 2, 2, 2, 3]), rng.choice([2, 3, 4, 5, 6, 8, 12])
    kernel, dilation = [rng.randint(1, 4) for _ in range(dims)], [rng.choice([1, 1, 2]) for _ in range(dims)]
    stride = [rng.choice([1, 1, 2, 3]) for _ in kernel] if rng.random() < 0.6 else [1] * dims
    padding = [rng.randint(0, d * (k - 1)) for d, k in zip(dilation, kernel)]
    more = [rng.randint(0, max(s, d) - 1) if rng.random() < 0.4 else 0 for s, d in zip(stride, dilation)]
    size = [rng.randint(3, 6) for _ in kernel]
    if min(kernels.output_size(size, kernel, stride, padding, more, dilation)) < 1:
        return None
    dtype, channels_last = rng.choice(list(NEAR)), dims > 1 and rng.random() < 0.5
    x = torch.randn(2, groups * rng.choice([1, 2, 3, 4, 8]), *size, dtype=dtype)
    weight = torch.randn(x.shape[1], rng.choice([1, 2, 3, 4, 6]), *kernel, dtype=dtype)
    x = x.contiguous(memory_format=FORMATS[dims + 2 if channels_last else 3])
    weight = weight.contiguous(memory_format=FORMATS[dims + 2 if rng.random() < 0.5 else 3])
    return x, weight, (stride, padding, more, dilation, groups), channels_last


def passes(x, weight, geometry, channels_last, backend, gz=None):
    """[y of T, y of D, W]; D is the forward of the ordinary convolution."""
    stride, padding, _, dilation, groups = geometry
    y = kernels.fwd(x, weight, None, None, *geometry, "relu", 0.0, channels_last, False, False, backend)[0]
    if backend == "torch/flip":
        return [y]
    common = (stride, padding, dilation, groups)
    gz = y if gz is None else gz
    z = kernels.data_grad(gz, weight, *common, x.shape[2:], channels_last, backend)
    return [y, z, kernels.weight_grad(gz, x, weight, *common, channels_last, backend)]


@pytest.mark.parametrize("seed", range(4))
def test_every_configuration_equals_the_reference(seed):
    torch.manual_seed(seed)
    rng, seen = random.Random(seed), set()
    for x, weight, geometry, channels_last in filter(None, (problem(rng) for _ in range(30))):
        stride, padding, more, dilation, _ = geometry
        gz = passes(x, weight, geometry, channels_last, "torch")[0]
        exact = passes(x.double(), weight.double(), geometry, channels_last, "reference", gz.double())
        plain = passes(x, weight, geometry, channels_last, "torch", gz)
        for name in [*WIDE, *(["torch/flip"] if grouped.can_flip(weight.shape[2:], stride, padding, more, dilation) else [])]:
            seen.add(name)
            for got, like, want in zip(passes(x, weight, geometry, channels_last, name, gz), plain, exact):
                assert got.shape == want.shape and got.stride() == like.stride()
                off = (got.double() - want).abs().max() / want.abs().max().clamp(min=1e-3)
                assert off < NEAR[x.dtype], (name, geometry, x.shape, weight.shape, x.dtype)
    assert seen == {*WIDE, "torch/flip"}


@pytest.mark.parametrize(
    ("weight", "groups", "cpu", "half", "gpu"),
    [
        ((1536, 16, 3, 3), 96, [], [32], [32, 64, 128]),  # R3GAN's
        ((128, 4, 3, 3), 32, [8, 16], [16, 32], [32, 64, 128]),  # ResNeXt's
        ((768, 1, 4, 4), 768, [], [], []),  # depthwise
        ((64, 64, 3, 3), 1, [], [], []),
        ((256, 16, 3, 3), 4, [], [32], [32, 64]),  # the merged ones are all there is before 128
        ((97 * 4, 4, 3, 3), 97, [], [], []),  # no few of them
        ((18, 3, 3, 3), 6, [8, 16], [16], [32]),  # 3 of 6 groups are 9 channels, all of them 18
        ((256, 4, 41), 64, [], [], [32, 64, 128]),
    ],
)
def test_what_is_offered(weight, groups, cpu, half, gpu):
    weight = torch.empty(weight, device="meta")
    for itemsize, is_cuda, widths in ((4, False, cpu), (2, False, half), (2, True, gpu)):
        x = SimpleNamespace(is_cuda=is_cuda, itemsize=itemsize, dim=weight.dim)
        assert grouped.configurations(x, weight, groups) == [f"torch/wide{width}" for width in widths]


@pytest.fixture
def tuning(monkeypatch, tmp_path):
    monkeypatch.setenv("GANFAST_TUNE", "1")
    monkeypatch.setenv("GANFAST_CACHE", str(tmp_path))
    forget()
    yield
    forget()
    Memo.forget_all()


def _timed(monkeypatch, fastest):
    """The clock says that this way is the fastest, of all that are asked."""
    ran, real = [], {name: getattr(kernels, name) for name in ("fwd", "conv", "data_grad", "weight_grad")}
    for name, kernel in real.items():
        monkeypatch.setattr(kernels, name, lambda *args, kernel=kernel: ran.append(args[-1]) or kernel(*args))
    seconds = lambda call: (call(), 0.001 if ran[-1] == fastest else 0.002)[1]
    monkeypatch.setattr(_timing, "measure_once", seconds)
    return ran


def _layer(transposed=False):
    x, weight = torch.randn(2, 12, 5, 5, requires_grad=True), torch.randn(12, 4, 3, 3, requires_grad=True)
    call = GF.conv_transpose_act if transposed else GF.conv_act

    def results(x, weight):
        y = call(x, weight, padding=1, groups=3, act="tanh")
        return [y, *torch.autograd.grad(y.square().sum(), (x, weight))]

    def equal():
        exact = [t.detach().double().requires_grad_() for t in (x, weight)]
        with _backends.use_backend("reference"):
            want = results(*exact)
        for a, b in zip(results(x, weight), want, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4 * b.abs().max().item())

    return equal


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("fastest", ["torch/wide8", "torch"])
def test_the_tuner_takes_it_where_it_is_faster(fastest, transposed, tuning, monkeypatch):
    ran, equal = _timed(monkeypatch, fastest), _layer(transposed)
    equal()
    assert [choice.name for choice in _tune.chosen().values()] == [fastest] * 3  # a pass each
    ran.clear()
    equal()
    by_one_call = fastest == "torch" and not transposed  # both gradients of a layer that is torch's as it is
    assert [name for name in ran if name != "reference"] == [fastest] * (1 if by_one_call else 3)


@pytest.mark.parametrize("kernel", ["merge", "blocks"])
def test_a_wrong_merge_is_found(kernel, tuning, monkeypatch, capsys):
    """The weight's blocks in the wrong places: each a group further."""
    real = getattr(grouped, kernel)
    if kernel == "merge":
        planted = lambda weight, groups, layout: real(weight.roll(4, 0) if layout == "wide8" else weight, groups, layout)
    else:
        planted = lambda gweight, groups, merged: real(gweight.roll(4, 0) if merged < groups else gweight, groups, merged)
    monkeypatch.setattr(grouped, kernel, planted)
    _layer()()
    failed = {name for choice in _tune.chosen().values() for name in choice.failed}
    assert failed == {"torch/wide8"} and "torch/wide8 computes" in capsys.readouterr().err


def test_flipped_kernels_are_offered_to_wide_groups_alone():
    spec = choice.Spec((1, 1), (1, 1), (0, 0), (1, 1), 32, "linear", 0.0, True, False, False, "auto", "auto", "auto")
    weight = torch.empty(512, 16, 3, 3)
    assert choice._flip(weight, spec) == ["torch/flip"]
    for change in ({"groups": 1}, {"stride": (2, 2)}, {"output_padding": (0, 1)}, {"padding": (3, 1)}):
        assert choice._flip(weight, spec._replace(**change)) == []


def test_a_gpu_asks_for_narrow_groups_alone(monkeypatch):
    monkeypatch.setattr(_backends, "first_fused", lambda x: "triton")
    x = SimpleNamespace(is_cuda=True, itemsize=2, dim=lambda: 4)
    spec = SimpleNamespace(groups=96, channels_last=True)
    narrow, plain = torch.empty(1536, 16, 3, 3, device="meta"), torch.empty(64, 64, 3, 3, device="meta")
    assert choice._ways(x, narrow, (8, 8), True, spec) == ["torch", "torch/wide32", "torch/wide64", "torch/wide128"]
    assert choice._ways(x, plain, (8, 8), True, SimpleNamespace(groups=1, channels_last=True)) == ["torch"]
