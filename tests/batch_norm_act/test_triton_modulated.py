"""Norms with scale and shift from outside and a residual in Triton, interpreted, through the public functions: against plain torch in
float64."""

import pytest
import torch

from ganfast.functional import batch_norm_act, group_norm_act, instance_norm_act
from ganfast.ops.batch_norm_act import modulated_reference
from tests.triton_interpreter import assert_close, assert_layout, backend, in_layout, interpreted  # noqa: F401

pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore:overflow encountered in exp")]

# name: (shape, channels_last)
SHAPES = {
    "odd": ((3, 4, 3, 5), False),
    "odd_last": ((3, 6, 3, 5), True),
    "3d_last": ((2, 18, 2, 3, 1), True),
    "sequences": ((5, 4, 37), False),
    "one_image": ((1, 8, 3, 2), False),
}
# norm: groups of the reference, its own statistics
NORMS = {"batch": (0, True), "eval": (0, False), "instance": (-1, True), "group": (2, True)}
# form: (shape of scale and shift, residual_first or None, factor)
FORMS = {
    "columns": ("columns", None, 1.0),
    "full": ("full", None, 1.0),
    "residual": (None, False, 0.5),
    "residual_first": (None, True, 1.0),
    "columns_first": ("columns", True, 0.7),
    "full_first": ("full", True, 0.7),
    "full_after": ("full", False, 2.0),
}


@pytest.fixture(params=[False, True], ids=["one_block", "looping"])
def plan(request, monkeypatch):
    """`looping`: small tiles, several a program, several partials, 64-bit offsets."""
    if request.param:
        from ganfast import _triton

        op = backend("batch_norm_act")
        monkeypatch.setattr(op, "tile_shape", lambda rows, c, last: (8, 16))
        monkeypatch.setattr(op, "chunks", lambda rows, block, c_blocks: (-(-rows // (8 * 2)) + 1, 2))
        monkeypatch.setattr(_triton, "wide_from", 0)


def make(name, form, dtype):
    """x, weight, bias, alpha, scale, shift, residual, gy; None where the form has none."""
    shape, channels_last = SHAPES[name]
    scale_of, first, _ = FORMS[form]
    generator = torch.Generator().manual_seed(sum(map(ord, name + form)))
    image = lambda gain=1.0: in_layout((torch.randn(shape, generator=generator) * gain).to(dtype), channels_last)
    x = image(2.0) + 4 * torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1)).to(dtype)
    vectors = [torch.rand(shape[1], generator=generator) + 0.5 for _ in range(3)]
    modulation = [None, None]
    if scale_of is not None:
        modulation = [image() if scale_of == "full" else torch.randn(shape[:2], generator=generator) for _ in range(2)]
    return [x, *vectors, *modulation, None if first is None else image(), image()]


def call(norm, tensors, form, cast=None):
    """(y, gradients of everything that is there): ganfast's, or the formula's in float64."""
    *operands, gy = tensors
    leaves = [None if t is None else t.detach().to(cast or t.dtype).requires_grad_() for t in operands]
    x, weight, bias, alpha, scale, shift, residual = leaves
    _, first, factor = FORMS[form]
    groups, training = NORMS[norm]
    mean, var = (torch.linspace(at, at + 1, x.shape[1]) for at in (0.5, 2.0))
    if cast:
        groups = x.shape[1] if groups < 0 else groups
        if training:
            xhat = modulated_reference.normalised(x, groups, 1e-5)[0]
        else:
            xhat = modulated_reference.by_statistics(x, mean.to(cast), (var.to(cast) + 1e-5).rsqrt())[0]
        y = modulated_reference.modulated_norm_act(xhat, weight, bias, scale, shift, residual, alpha, "prelu", 0.0, bool(first), factor)
    else:
        options = {"act": "prelu", "alpha": alpha, "scale": scale, "shift": shift, "backend": "triton"}
        if residual is not None:
            options |= {"residual": residual, "residual_first": first, "factor": factor}
        if norm == "instance":
            y = instance_norm_act(x, weight, bias, **options)
        elif norm == "group":
            y = group_norm_act(x, groups, weight, bias, **options)
        else:
            y = batch_norm_act(x, mean, var, weight, bias, training=training, **options)
    there = [leaf for leaf in leaves if leaf is not None]
    return [y.detach(), *torch.autograd.grad(y, there, gy.to(y.dtype))]


@pytest.mark.pairs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.usefixtures("plan")
def test_forms(name, norm, form, dtype):
    tensors = make(name, form, dtype)
    names = ("gx", "gweight", "gbias", "galpha", "gscale", "gshift", "gresidual")
    names = ["y"] + [n for n, t in zip(names, tensors) if t is not None]
    got, want = call(norm, tensors, form), call(norm, tensors, form, torch.float64)
    for what, g, w in zip(names, got, want, strict=True):
        assert_close(g, w, what, floor=256.0)
        if g.shape == tensors[0].shape:
            assert_layout(g, SHAPES[name][1])


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_an_infinity_behind_a_relu_that_is_off(norm):
    """None of it may arrive, in gx or in any gradient."""
    x, weight, bias, _, scale, shift, _, gy = make("odd", "columns", torch.float32)
    options = {"act": "relu", "scale": scale.requires_grad_(), "shift": shift.requires_grad_(), "backend": "triton"}
    run = lambda x: batch_norm_act(x, None, None, weight, bias, training=True, **options) if norm == "batch" else (
        group_norm_act(x, 2, weight, bias, **options)
    )  # fmt: skip
    y = run(x.requires_grad_())
    gy = gy.masked_fill(y == 0, torch.inf)
    assert gy.isinf().any()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y, (x, scale, shift), gy))


def test_the_sums_are_folded_in_one_launch():
    """Of many images, groups and channels, more than one program's of each."""
    from ganfast.ops.batch_norm_act import triton_modulated

    n, c, groups = 70, 40, 5
    x, sums = torch.empty(n, c, 3, device="meta"), torch.randn(3, n * c)
    weight, bias, scale = torch.rand(c) + 0.5, torch.randn(c), torch.rand(n, c)
    h, product, slope = sums.double().view(3, n, c)
    by = scale.double()
    want = ((product * by).sum(0), (h * by).sum(0), slope.sum(0), product * weight + h * bias, h)
    for of_groups in (groups, 0, c):
        found = triton_modulated.fold(sums, torch.empty(n, c, 3), weight, bias, scale, torch.ones(c), of_groups, True)
        through, *rest = found
        for got, exact in zip(rest, want, strict=True):
            assert_close(got, exact.flatten(), "gradient")
        gained = torch.stack([h, product]) * by * weight
        if of_groups:
            sets = gained.view(2, n, of_groups, -1)
            means = (sets.sum(-1, keepdim=True) / (x.numel() // (n * of_groups))).expand_as(sets)
        else:
            means = (gained.sum(1, keepdim=True) / (n * 3)).expand_as(gained)
        assert_close(through, means.reshape(2, -1), "through")
