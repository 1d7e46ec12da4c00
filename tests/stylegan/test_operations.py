"""Each published function by its meaning, its signature, and its words."""

import inspect

import pytest
import torch
import torch.nn.functional as F

from ganfast import _backends
from ganfast.stylegan import (
    bias_act,
    conv2d_gradfix,
    conv2d_resample,
    filtered_lrelu,
    fma,
    grid_sample_gradfix,
    upfirdn2d,
)
from tests.stylegan import plain

IMPLS = ["cuda", "ref"]
TAPS, MATRIX = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8, torch.tensor([[1.0, 2.0, 0.0], [0.5, 1.0, 3.0]])
SIGNATURES = {
    bias_act.bias_act: "x, b=None, dim=1, act='linear', alpha=None, gain=None, clamp=None, impl='cuda'",
    upfirdn2d.setup_filter: "f, device=device(type='cpu'), normalize=True, flip_filter=False, gain=1, separable=None",
    upfirdn2d.upfirdn2d: "x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl='cuda'",
    upfirdn2d.filter2d: "x, f, padding=0, flip_filter=False, gain=1, impl='cuda'",
    upfirdn2d.upsample2d: "x, f, up=2, padding=0, flip_filter=False, gain=1, impl='cuda'",
    upfirdn2d.downsample2d: "x, f, down=2, padding=0, flip_filter=False, gain=1, impl='cuda'",
    filtered_lrelu.filtered_lrelu: "x, fu=None, fd=None, b=None, up=1, down=1, padding=0, gain=1.4142135623730951, slope=0.2, clamp=None, "
    "flip_filter=False, impl='cuda'",
    conv2d_gradfix.conv2d: "input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1",
    conv2d_gradfix.conv_transpose2d: "input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1",
    conv2d_gradfix.no_weight_gradients: "disable=True",
    conv2d_resample.conv2d_resample: "x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False",
    fma.fma: "a, b, c",
    grid_sample_gradfix.grid_sample: "input, grid",
}


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def images(*size, channels=3):
    return torch.randn(2, channels, *size or (6, 7))


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__name__)
def test_signatures(function):
    found = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in inspect.signature(function).parameters.values()]
    assert ", ".join(map(str, found)) == SIGNATURES[function]


@pytest.mark.parametrize("act", plain.ACTS)
@pytest.mark.parametrize("impl", IMPLS)
def test_bias_act(impl, act):
    x, b = images(), torch.randn(3)
    close(bias_act.bias_act(x, b, act=act, impl=impl), plain.bias_act(x, b, act=act))
    close(bias_act.bias_act(x, None, 1, act, 0.1, 2, 0.3, impl), plain.bias_act(x, None, act=act, alpha=0.1, gain=2, clamp=0.3))
    line = torch.randn(4, 5)
    close(bias_act.bias_act(line, torch.ones(4), 0, act, impl=impl), plain.bias_act(line, torch.ones(4), 0, act))
    close(bias_act.bias_act(line[0], act=act, impl=impl), plain.bias_act(line[0], act=act))


def test_the_table_of_activations():
    found = bias_act.activation_funcs
    assert list(found) == list(plain.ACTS) and [entry.cuda_idx for entry in found.values()] == list(range(1, 10))
    x = torch.randn(20)
    for act, entry in found.items():
        close(entry.func(x, alpha=entry.def_alpha), plain.ACTS[act][0](x, None))
        assert entry["def_gain"] == entry.def_gain == plain.ACTS[act][1] and entry.def_alpha == (0.2 if act == "lrelu" else 0)
        bend = torch.autograd.functional.hessian(lambda t, act=act: plain.ACTS[act][0](t, None).sum(), torch.tensor([-0.3]))
        assert entry.has_2nd_grad == bool(bend.abs() > 1e-3)


def test_a_linear_result_may_be_changed_in_place():
    x = images().requires_grad_()
    for clamp in (None, 0.5):
        y = bias_act.bias_act(x, gain=2, clamp=clamp).add_(1)
        want = (2 * x if clamp is None else (2 * x).clamp(-0.5, 0.5)).sum()
        close(torch.autograd.grad(y.sum(), x), torch.autograd.grad(want, x))


@pytest.mark.parametrize("f", [TAPS, MATRIX, None], ids=["taps", "matrix", "none"])
@pytest.mark.parametrize("impl", IMPLS)
def test_upfirdn2d(impl, f):
    x = images(9, 8)
    for options in ({}, {"flip_filter": True, "gain": 3}):
        got = upfirdn2d.upfirdn2d(x, f, [2, 1], [1, 2], [3, 1, 2, 2], **options, impl=impl)
        close(got, plain.upfirdn2d(x, f, [2, 1], [1, 2], [3, 1, 2, 2], **options))
        close(upfirdn2d.filter2d(x, f, [1, 0], **options, impl=impl), plain.filter2d(x, f, [1, 0], **options))
        close(upfirdn2d.upsample2d(x, f, **options, impl=impl), plain.upsample2d(x, f, **options))
        close(upfirdn2d.downsample2d(x, f, [2, 3], 1, **options, impl=impl), plain.downsample2d(x, f, [2, 3], 1, **options))


def test_the_helpers_of_upfirdn2d():
    assert upfirdn2d._parse_scaling(2) == (2, 2) and upfirdn2d._parse_scaling([2, 3]) == (2, 3)
    assert upfirdn2d._parse_padding(1) == (1, 1, 1, 1) and upfirdn2d._parse_padding([1, 2]) == (1, 1, 2, 2)
    assert upfirdn2d._parse_padding([1, -2, 3, 4]) == (1, -2, 3, 4)
    assert [upfirdn2d._get_filter_size(f) for f in (None, TAPS, MATRIX)] == [(1, 1), (4, 4), (3, 2)]
    close(upfirdn2d.setup_filter([1, 3, 3, 1], "cpu", True, True, 4), 4 * TAPS.outer(TAPS))
    close(upfirdn2d.setup_filter(TAPS, separable=True, normalize=False), TAPS)


@pytest.mark.parametrize("impl", IMPLS)
def test_filtered_lrelu(impl):
    x, b = images(8, 9), torch.randn(3)
    close(filtered_lrelu.filtered_lrelu(x, impl=impl), plain.filtered_lrelu(x))
    options = {"up": 2, "down": 2, "padding": [3, 2, 4, 3], "gain": 1.5, "slope": 0.1, "clamp": 0.4, "flip_filter": True}
    close(filtered_lrelu.filtered_lrelu(x, TAPS, MATRIX, b, **options, impl=impl), plain.filtered_lrelu(x, TAPS, MATRIX, b, **options))


# up, down, kernel, padding, groups, flip_weight, flip_filter, f: each way that the convolution goes
RESAMPLED = [
    (1, 1, (3, 3), 1, 1, True, False, TAPS), (1, 1, (3, 4), [2, 1], 1, True, False, None), (1, 1, (3, 3), -1, 1, True, False, None),
    (1, 1, (2, 3), [1, 2, 0, 1], 2, False, False, TAPS), (1, 2, (1, 1), 0, 2, True, True, MATRIX), (2, 1, (1, 1), 0, 1, True, False, None),
    (2, 1, (1, 1), [1, 0], 1, True, True, MATRIX), (1, 2, (3, 3), 1, 1, False, False, TAPS), (2, 1, (3, 3), 1, 1, False, False, TAPS),
    (2, 1, (2, 4), [0, 1, 2, 3], 2, True, True, MATRIX), (3, 2, (3, 3), 1, 2, True, False, TAPS), (2, 3, (1, 1), 0, 1, True, False, TAPS),
    (2, 1, (5, 5), -2, 1, True, False, TAPS), (2, 1, (5, 5), [0, 5, 4, 0], 1, True, False, TAPS),
]  # fmt: skip


@pytest.mark.parametrize("case", RESAMPLED, ids=str)
def test_conv2d_resample(case):
    up, down, kernel, padding, groups, flip_weight, flip_filter, f = case
    x, w = images(7, 8, channels=4), torch.randn(6, 4 // groups, *kernel)
    options = {"f": f, "up": up, "down": down, "padding": padding, "groups": groups, "flip_weight": flip_weight, "flip_filter": flip_filter}
    got, want = conv2d_resample.conv2d_resample(x, w, **options), plain.conv2d_resample(x, w, **options)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_convolutions():
    x, w, b = images(), torch.randn(4, 3, 3, 3), torch.randn(4)
    close(conv2d_gradfix.conv2d(x, w, b, 2, 1, 1, 1), F.conv2d(x, w, b, 2, 1))
    close(conv2d_gradfix.conv_transpose2d(x, w.transpose(0, 1), b, 2, 1, 1, 1, 1), F.conv_transpose2d(x, w.transpose(0, 1), b, 2, 1, 1))


def test_no_weight_gradients():
    x, w = images().double().requires_grad_(), torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)

    def gradients(disable):
        with conv2d_gradfix.no_weight_gradients(disable):
            assert conv2d_gradfix.weight_gradients_disabled is disable
            conv2d_gradfix.conv2d(x, w).square().sum().backward()
        assert not conv2d_gradfix.weight_gradients_disabled
        found = x.grad, w.grad
        x.grad = w.grad = None
        return found

    with_it, without = gradients(True), gradients(False)
    assert with_it[1] is None and without[1] is not None and torch.equal(with_it[0], without[0])
    with conv2d_gradfix.no_weight_gradients():
        (gx,) = torch.autograd.grad(conv2d_gradfix.conv2d(x, w).square().sum(), x, create_graph=True)
    gx.square().sum().backward()  # outside, the graph that was made inside has them all
    (wanted,) = torch.autograd.grad(F.conv2d(x, w).square().sum(), x, create_graph=True)
    close(w.grad, torch.autograd.grad(wanted.square().sum(), w)[0])


def test_fma():
    a, b, c = (torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((2, 3, 4, 4), (2, 3, 1, 1), (4, 4)))
    close(fma.fma(a, b, c), a * b + c)
    assert torch.autograd.gradcheck(fma.fma, (a, b, c)) and torch.autograd.gradgradcheck(fma.fma, (a, b, c))


@pytest.mark.parametrize("wants", [(True, False), (False, True), (True, True)], ids=["images", "grid", "both"])
def test_grid_sample(wants):
    x, grid = torch.randn(2, 2, 3, 4, dtype=torch.float64), torch.rand(2, 2, 2, 2, dtype=torch.float64) * 3 - 1.5
    torchs = lambda x, grid: F.grid_sample(x, grid, align_corners=False)
    close(grid_sample_gradfix.grid_sample(x, grid), torchs(x, grid))
    inputs = [tensor.requires_grad_(want) for tensor, want in zip((x, grid), wants)]
    wanted = [tensor for tensor, want in zip(inputs, wants) if want]
    again = lambda x, grid: grid_sample_gradfix.grid_sample(x * 1, grid * 1)  # which are no leaves
    assert torch.autograd.gradcheck(grid_sample_gradfix.grid_sample, inputs) and torch.autograd.gradgradcheck(again, inputs)

    y, want = grid_sample_gradfix.grid_sample(x, grid), torchs(x, grid)
    gy = torch.randn_like(y).requires_grad_()
    for graph in (False, True):
        found = torch.autograd.grad(y, wanted, gy, create_graph=graph, retain_graph=True)
        close(found, torch.autograd.grad(want, wanted, gy, retain_graph=True))
    assert not any("GridSampler" in type(gradient.grad_fn).__name__ for gradient in found)  # torch's, which older ones have not


def test_grid_sample_of_images_to_third_order():
    grid, gy = torch.rand(1, 2, 2, 2, dtype=torch.float64), torch.randn(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    first = lambda gy: torch.autograd.grad(grid_sample_gradfix.grid_sample(x, grid), x, gy, create_graph=True)[0]
    assert torch.autograd.gradcheck(first, gy) and torch.autograd.gradgradcheck(first, gy)


def test_grid_sample_keeps_nothing_of_images_whose_grid_is_fixed():
    x, grid, saved = images().requires_grad_(), torch.zeros(2, 3, 3, 2), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        y = grid_sample_gradfix.grid_sample(x, grid)
    assert saved == [grid.shape]
    with torch.autocast("cpu", torch.bfloat16):
        assert grid_sample_gradfix.grid_sample(x.bfloat16(), grid).dtype == torch.float32
    assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape


def test_what_runs():
    x = images()
    for impl, reference in (("ref", True), ("cuda", False)):
        calls = {
            "bias_act": lambda impl=impl: bias_act.bias_act(x, impl=impl),
            "upfirdn": lambda impl=impl: upfirdn2d.filter2d(x, TAPS, impl=impl),
        }
        for op, call in calls.items():
            call()
            assert (_backends.ran[op] == "reference") is reference


X = torch.randn(1, 2, 4, 4)
WRONG = {
    "bias_act impl": (lambda: bias_act.bias_act(X, impl="torch"), ValueError, "bias_act: impl='torch' is unknown; valid: cuda, ref"),
    "bias_act act": (lambda: bias_act.bias_act(X, act="leaky"), ValueError, "bias_act: act='leaky' is unknown.*lrelu"),
    "bias_act x": (lambda: bias_act.bias_act(None), TypeError, "x is a builtins.NoneType"),
    "bias_act acts": (lambda: bias_act.bias_act(X, act=["relu"]), ValueError, r"act=\['relu'\] is unknown"),
    "bias_act gain": (lambda: bias_act.bias_act(X, gain="2"), TypeError, "bias_act: gain is '2', wants a number"),
    "filtered_lrelu slope": (lambda: filtered_lrelu.filtered_lrelu(X, slope=None), TypeError, "slope is None, wants a number"),
    "upfirdn2d gain": (lambda: upfirdn2d.upfirdn2d(X, None, gain=[1]), TypeError, r"upfirdn2d: gain is \[1\], wants a number"),
    "filter size": (lambda: upfirdn2d._get_filter_size([1, 2]), TypeError, "f is a builtins.list"),
    "upfirdn2d impl": (lambda: upfirdn2d.upfirdn2d(X, None, impl="reference"), ValueError, "upfirdn2d: impl=.*Did you mean 'ref'"),
    "filter2d impl": (lambda: upfirdn2d.filter2d(X, None, impl=None), ValueError, "filter2d: impl=None"),
    "upsample2d impl": (lambda: upfirdn2d.upsample2d(X, None, impl=""), ValueError, "upsample2d: impl=''"),
    "downsample2d impl": (lambda: upfirdn2d.downsample2d(X, None, impl="gpu"), ValueError, "downsample2d: impl='gpu'"),
    "filtered_lrelu impl": (lambda: filtered_lrelu.filtered_lrelu(X, impl="slow"), ValueError, "filtered_lrelu: impl='slow'"),
    "a line": (lambda: upfirdn2d.upfirdn2d(X[0], None), ValueError, r"x has shape \(2, 4, 4\), wants \[N, C, H, W\]"),
    "scaling": (lambda: upfirdn2d._parse_scaling(0), ValueError, "scaling is 0, wants positive"),
    "resample up": (lambda: conv2d_resample.conv2d_resample(X, torch.ones(2, 2, 3, 3), up=[2, 2]), ValueError, r"up is \[2, 2\]"),
    "resample w": (lambda: conv2d_resample.conv2d_resample(X, torch.ones(2, 3, 3)), ValueError, r"w has shape \(2, 3, 3\), wants \[Cout"),
    "resample groups": (lambda: conv2d_resample.conv2d_resample(X, torch.ones(4, 2, 1, 1), groups=2), ValueError, "x has 2 channels"),
}


@pytest.mark.parametrize("name", WRONG)
def test_words(name):
    call, error, words = WRONG[name]
    with pytest.raises(error, match=words):
        call()
