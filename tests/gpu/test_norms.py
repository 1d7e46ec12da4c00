"""Group norm, and norms with scale and shift from outside and a residual, on a GPU: against the oracle, first and second order."""

import pytest
import torch

from ganfast.functional import batch_norm_act, group_norm_act, instance_norm_act
from ganfast.testing import assert_close_to_reference, nan_filled

pytestmark = pytest.mark.gpu
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
# name: (shape, groups)
GROUPS = {
    "small": ((3, 6, 7, 5), 2),
    "small rows": ((37, 48), 1),
    "small one image": ((1, 12, 9, 9), 3),
    "small many images": ((40, 16, 4, 4), 4),
    "block": ((16, 512, 16, 16), 32),
    "chunks": ((2, 64, 96, 96), 8),
    "layer": ((2048, 768), 1),
}


def in_layout(x, channels_last):
    return x.contiguous(memory_format=torch.channels_last) if channels_last and x.dim() == 4 else x


def over_image(v, x):
    return v.view(*v.shape, *[1] * (x.dim() - v.dim()))


def formula(z, scale, shift, residual, first, factor):
    """From the norm's output on, with silu."""
    if scale is not None:
        z = z * over_image(scale, z) + over_image(shift, z)
    if residual is None:
        return torch.nn.functional.silu(z)
    return torch.nn.functional.silu(z + residual) * factor if first else (torch.nn.functional.silu(z) + residual) * factor


def compare(fused, plain, tensors, gy, names, second=False):
    """y and the gradients of all tensors that are there, by the oracle's rule; with `second` those of a gradient penalty too."""

    def run(call, cast=None):
        leaves = [None if t is None else t.detach().to(cast or t.dtype).requires_grad_() for t in tensors]
        y = call(*leaves)
        return [y, *torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], gy.to(y.dtype))]

    with nan_filled():
        got = run(fused)
    names = ["y"] + [name for name, t in zip(names, tensors, strict=True) if t is not None]
    assert_close_to_reference(*zip(names, got, run(plain), run(plain, torch.float64), strict=True))
    if not second:
        return
    results = []
    for call, cast in ((fused, None), (plain, torch.float64)):
        leaves = [None if t is None else t.detach().to(cast or t.dtype).requires_grad_() for t in tensors]
        (gx,) = torch.autograd.grad(call(*leaves).square().sum(), leaves[0], create_graph=True)
        results.append(torch.autograd.grad(gx.square().sum(), leaves[:2]))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3 * b.abs().max().item())


@LAYOUTS
@pytest.mark.parametrize("modulated", [False, True], ids=["plain", "modulated"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ["torch", "triton", "cuda"])
@pytest.mark.parametrize("name", GROUPS)
def test_group_norm_act(name, backend, dtype, modulated, channels_last):
    """The images' means 5 apart."""
    shape, groups = GROUPS[name]
    far = 5 * torch.arange(shape[0], device="cuda").view(-1, *[1] * (len(shape) - 1)) % 50
    images = torch.randn(shape, device="cuda") * 2 + far, torch.randn(shape, device="cuda")
    x, gy = (in_layout(t.to(dtype), channels_last) for t in images)
    tensors = [x, torch.rand(shape[1], device="cuda") + 0.5, torch.randn(shape[1], device="cuda")]
    tensors += [torch.randn(shape[:2], device="cuda").to(dtype) for _ in range(2)] if modulated else [None, None]

    def fused(x, weight, bias, scale, shift):
        return group_norm_act(x, groups, weight, bias, act="silu", scale=scale, shift=shift, backend=backend)

    def plain(x, weight, bias, scale, shift):
        z = torch.nn.functional.group_norm(x.to(weight.dtype), groups, weight, bias).to(x.dtype)
        return formula(z, scale, shift, None, False, 1.0)

    small = dtype == torch.float32 and name.startswith("small")
    compare(fused, plain, tensors, gy, ("gx", "gweight", "gbias", "gscale", "gshift"), second=small)


# form: (shape of scale and shift, residual_first or None, factor)
FORMS = {
    "columns": ("columns", None, 1.0),
    "full": ("full", None, 1.0),
    "residual": (None, False, 0.5),
    "first": (None, True, 1.0),
    "full first": ("full", True, 0.7),
}


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ["torch", "triton", "cuda"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
@pytest.mark.parametrize("shape", [(3, 6, 7, 5), (16, 64, 32, 32), (40, 8, 3, 3)], ids=["small", "spade", "small many images"])
def test_modulated_norms(shape, norm, form, backend, dtype, channels_last):
    of_scale, first, factor = FORMS[form]
    image = lambda: in_layout(torch.randn(shape, device="cuda").to(dtype), channels_last)
    tensors = [image(), torch.rand(shape[1], device="cuda") + 0.5, torch.randn(shape[1], device="cuda"), None, None, None]
    if of_scale is not None:
        tensors[3:5] = [image() if of_scale == "full" else torch.randn(shape[:2], device="cuda") for _ in range(2)]
    tensors[5] = None if first is None else image()

    def fused(x, weight, bias, scale, shift, residual):
        options = {"act": "silu", "scale": scale, "shift": shift, "backend": backend}
        if residual is not None:
            options |= {"residual": residual, "residual_first": first, "factor": factor}
        if norm == "batch":
            return batch_norm_act(x, None, None, weight, bias, training=True, **options)
        return instance_norm_act(x, weight, bias, **options) if norm == "instance" else group_norm_act(x, 2, weight, bias, **options)

    def plain(x, weight, bias, scale, shift, residual):
        wide = x.to(weight.dtype)
        if norm == "batch":
            z = torch.nn.functional.batch_norm(wide, None, None, weight, bias, training=True)
        else:
            z = torch.nn.functional.group_norm(wide, x.shape[1] if norm == "instance" else 2, weight, bias)
        return formula(z.to(x.dtype), scale, shift, residual, first, factor).to(x.dtype)

    names = ("gx", "gweight", "gbias", "gscale", "gshift", "gresidual")
    compare(fused, plain, tensors, image(), names, second=dtype == torch.float32 and shape[2] < 32)


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_small_gradients_repeat_bit_for_bit(backend):
    x = torch.randn(40, 16, 4, 4, device="cuda", requires_grad=True)
    weight, scale, shift = (torch.randn(size, device="cuda", requires_grad=True) for size in ((16,), (40, 16), (40, 16)))
    runs = []
    for _ in range(3):
        y = group_norm_act(x, 4, weight, act="silu", scale=scale, shift=shift, backend=backend)
        runs.append(torch.autograd.grad(y.square().sum(), (x, weight, scale, shift)))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))
