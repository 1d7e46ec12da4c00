"""Registration of the passes: one signature for every backend, picked by the last argument."""

import torch

from ganfast import _backends, _native
from ganfast._autograd import no_autocast
from ganfast._layout import memory_format
from ganfast.ops.filtered_act import reference
from ganfast.ops.filtered_act.maps import Maps, Shape
from ganfast.ops.upfirdn.reference import upfirdn_fwd_reference
from ganfast.ops.upfirdn.torch_backend import upfirdn_fwd_torch

# x [N, C, L] or [N, C, H, W]; filters as `upfirdn` takes them; the integers along L, or H and W; alpha [C], or snake_beta's [2, C].
_MAPS = "Tensor up_filter, Tensor down_filter, int[] up, int[] down, int[] before, int[] after, bool flip, bool replicate"
_ACT = "Tensor? bias, Tensor? alpha, str act, float alpha_value, float gain, float? clamp"
# signs: two bits a value of the upsampled x, four to a byte, [N, C, (H,) ceil(W / 4)]; empty unless kept
_FWD = f"(Tensor x, {_MAPS}, {_ACT}, bool keep_signs{{}}) -> (Tensor, Tensor)"
_BWD = f"(Tensor gy, Tensor x, {_MAPS}, {_ACT}{{}}) -> (Tensor, Tensor, Tensor)"
_LINEAR = f"(Tensor v, Tensor signs, {_MAPS}, str act, float alpha_value, float gain, bool transposed, int[] size{{}}) -> Tensor"
_BACKEND = ", bool channels_last, str backend"

_native.define("filtered_act_fwd_native" + _FWD.format(""))
_native.define("filtered_act_bwd_native" + _BWD.format(""))
_native.define("filtered_act_linear_native" + _LINEAR.format(""))


def _maps(up_filter, down_filter, up, down, before, after, flip, replicate, backend) -> Maps:
    shape = Shape(tuple(up), tuple(down), tuple(before), tuple(after), flip, replicate)
    plain = upfirdn_fwd_torch if backend == "torch" else upfirdn_fwd_reference
    return Maps(shape, up_filter, down_filter, lambda x, f, g, gain: plain(x, f, g.up, g.down, g.before, g.after, g.flip, gain))


def _computed(x: torch.Tensor, backend: str) -> torch.Tensor:
    """As the plain passes take it: `reference` rounds once, `torch` after each of its kernels."""
    return x if backend == "torch" else x.to(torch.promote_types(x.dtype, torch.float32))


def _native_pass(name: str, backend: str):
    """Contiguous in, contiguous out: they go along rows of one channel."""
    if backend == "triton":
        from ganfast.ops.filtered_act import triton

        return getattr(triton, f"filtered_act_{name}_triton")
    return getattr(torch.ops.ganfast, f"filtered_act_{name}_native")


def _fwd(
    x, uf, df, up, down, before, after, flip, replicate, bias, alpha, act, alpha_value, gain, clamp, keep_signs, channels_last, backend
):
    _backends.ran["filtered_act"] = backend
    maps, numbers = (uf, df, up, down, before, after, flip, replicate), (bias, alpha, act, alpha_value, gain, clamp)
    fmt = memory_format(x.dim(), channels_last)
    if backend in ("torch", "reference"):
        z = _computed(x, backend)
        with no_autocast(x):
            y, signs = reference.forward(z, bias, alpha, _maps(*maps, backend), *numbers[2:], keep_signs)
        return y.to(x.dtype).contiguous(memory_format=fmt), signs
    y, signs = _native_pass("fwd", backend)(x.contiguous(), *maps, *numbers, keep_signs)
    return y.contiguous(memory_format=fmt), signs


def _bwd(gy, x, uf, df, up, down, before, after, flip, replicate, bias, alpha, act, alpha_value, gain, clamp, channels_last, backend):
    maps, numbers = (uf, df, up, down, before, after, flip, replicate), (bias, alpha, act, alpha_value, gain, clamp)
    fmt = memory_format(x.dim(), channels_last)
    if backend in ("torch", "reference"):
        g, z = _computed(gy, backend), _computed(x, backend)
        gx, gbias, galpha = reference.gradients(g, z, bias, alpha, _maps(*maps, backend), *numbers[2:])
        acc = torch.promote_types(gy.dtype, torch.float32)
        galpha = gy.new_empty(0, dtype=acc) if galpha is None else galpha.to(acc)
        return gx.to(gy.dtype).contiguous(memory_format=fmt), gbias.to(acc), galpha
    gx, gbias, galpha = _native_pass("bwd", backend)(gy.contiguous(), x.contiguous(), *maps, *numbers)
    return gx.contiguous(memory_format=fmt), gbias, galpha


def _linear(v, signs, uf, df, up, down, before, after, flip, replicate, act, alpha_value, gain, transposed, size, channels_last, backend):
    maps, rest = (uf, df, up, down, before, after, flip, replicate), (act, alpha_value, gain, transposed)
    fmt = memory_format(v.dim(), channels_last)
    if backend in ("torch", "reference"):
        y = reference.linear(_computed(v, backend), signs, _maps(*maps, backend), *rest, tuple(size)).to(v.dtype)
    else:
        y = _native_pass("linear", backend)(v.contiguous(), signs, *maps, *rest, size)
    return y.contiguous(memory_format=fmt)


def _sizes(uf, df, up, down, before, after, flip, replicate, size) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(of the upsampled x, of y)"""
    shape = Shape(tuple(up), tuple(down), tuple(before), tuple(after), flip, replicate)
    middle = shape.first(uf).size(tuple(size))
    return middle, shape.second(df).size(middle)


def _like(x, size, channels_last):
    return x.new_empty(*x.shape[:2], *size).contiguous(memory_format=memory_format(x.dim(), channels_last))


def _fwd_fake(
    x, uf, df, up, down, before, after, flip, replicate, bias, alpha, act, alpha_value, gain, clamp, keep_signs, channels_last, backend
):
    middle, size = _sizes(uf, df, up, down, before, after, flip, replicate, x.shape[2:])
    signs = (*x.shape[:2], *middle[:-1], (middle[-1] + 3) // 4) if keep_signs else (0,)
    return _like(x, size, channels_last), x.new_empty(signs, dtype=torch.uint8)


def _bwd_fake(gy, x, uf, df, up, down, before, after, flip, replicate, bias, alpha, act, alpha_value, gain, clamp, channels_last, backend):
    acc = torch.promote_types(gy.dtype, torch.float32)
    galpha = gy.new_empty(0 if alpha is None else alpha.shape, dtype=acc)
    return _like(x, x.shape[2:], channels_last), gy.new_empty(gy.shape[1], dtype=acc), galpha


def _linear_fake(
    v, signs, uf, df, up, down, before, after, flip, replicate, act, alpha_value, gain, transposed, size, channels_last, backend
):
    _, out = _sizes(uf, df, up, down, before, after, flip, replicate, size)
    return _like(v, size if transposed else out, channels_last)


fwd = _native.register("filtered_act_fwd" + _FWD.format(_BACKEND), _fwd, _fwd_fake)
bwd = _native.register("filtered_act_bwd" + _BWD.format(_BACKEND), _bwd, _bwd_fake)
linear = _native.register("filtered_act_linear" + _LINEAR.format(_BACKEND), _linear, _linear_fake)
