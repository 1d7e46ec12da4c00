"""Registration of the passes around the convolution: one signature for every backend, picked by the last argument.

style and d [N, C], noise [N, 1, H, W], bias, alpha, scale [C] and q [Cout, Cin] are of the accumulation dtype, bias and alpha of any, and
made contiguous here, as autograd hands on what lies anyhow; tensors of images are dense in one of the two layouts; a result that there is
nothing for is empty.
"""

import torch
from torch import Tensor

from ganfast import _native
from ganfast._layout import memory_format
from ganfast.ops.modulated_conv import reference, torch_backend

_SCALE = "(Tensor x, Tensor style, bool channels_last{}) -> Tensor"
_SCALE_BWD = "(Tensor g, Tensor x, Tensor style, bool channels_last{}) -> (Tensor, Tensor)"
_NUMBERS = (
    "Tensor? d, Tensor? noise, Tensor? bias, Tensor? alpha, str act, float alpha_value, float gain, float? clamp, bool channels_last{}"
)
_FINISH = f"(Tensor t, {_NUMBERS}) -> Tensor"
_FINISH_ = f"(Tensor(a!) t, {_NUMBERS}) -> ()"
_FINISH_BWD = f"(Tensor gy, Tensor t, {_NUMBERS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
# weight [Cout, Cin, kh, kw], dense, of the images' dtype or the accumulation dtype; times scale; `turn`: its taps from the end; dtype: the
# images'. The prepared weight is empty where it is the weight itself.
_PREPARE = "(Tensor weight, Tensor? scale, bool transposed, bool turn, ScalarType dtype{}) -> (Tensor, Tensor)"
_PREPARE_BWD = "(Tensor weight, Tensor? gw, Tensor? gq, Tensor? scale, bool transposed, bool turn{}) -> Tensor"
# x [N, C, H, W] times a matrix w [N, O, C] of each image's own, on a CPU; without x no gradient by w.
_FEW = "(Tensor x, Tensor w, bool channels_last) -> Tensor"
_FEW_BWD = "(Tensor g, Tensor? x, Tensor w, bool channels_last) -> (Tensor, Tensor)"
_BACKEND = ", str backend"

_native.define("modulated_conv_scale_fwd_native" + _SCALE.format(""))
_native.define("modulated_conv_scale_bwd_native" + _SCALE_BWD.format(""))
_native.define("modulated_conv_finish_fwd_native" + _FINISH.format(""))
_native.define("modulated_conv_finish_fwd_native_" + _FINISH_.format(""))
_native.define("modulated_conv_finish_bwd_native" + _FINISH_BWD.format(""))
_native.define("modulated_conv_prepare_fwd_native" + _PREPARE.format(""))
_native.define("modulated_conv_prepare_bwd_native" + _PREPARE_BWD.format(""))
_native.define("modulated_conv_few_fwd_native" + _FEW)
_native.define("modulated_conv_few_bwd_native" + _FEW_BWD)


def _compiled(backend: str, name: str, overwrites: str = ""):
    """The pass of a backend with kernels of its own; None of the others. overwrites: "_" where it does."""
    if backend == "cpu":
        return getattr(torch.ops.ganfast, f"modulated_conv_{name}_native{overwrites}")
    if backend != "triton":
        return None
    from ganfast.ops.modulated_conv import triton

    return getattr(triton, f"modulated_conv_{name}_triton{overwrites}")


def _vectors(t: Tensor, *vectors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Of images t what is not images, as the passes read it."""
    acc = torch.promote_types(t.dtype, torch.float32)
    return tuple(None if v is None else v.to(acc).contiguous() for v in vectors)


def _laid(t: Tensor, channels_last: bool) -> Tensor:
    return t.contiguous(memory_format=memory_format(t.dim(), channels_last))


def _scale_fwd(x, style, channels_last, backend):
    (style,) = _vectors(x, style)
    if (run := _compiled(backend, "scale_fwd")) is not None:
        return run(x, style, channels_last)
    return _laid(reference.scaled(x, style), channels_last)


def _scale_fwd_fake(x, style, channels_last, backend):
    return _laid(torch.empty_like(x), channels_last)


def _scale_bwd(g, x, style, channels_last, backend):
    (style,) = _vectors(x, style)
    if (run := _compiled(backend, "scale_bwd")) is not None:
        return run(g, x, style, channels_last)
    gx, gstyle = reference.scale_gradients(g, x, style)
    return _laid(gx, channels_last), gstyle


def _scale_bwd_fake(g, x, style, channels_last, backend):
    return _laid(torch.empty_like(x), channels_last), torch.empty_like(style)


def _finish_fwd(t, d, noise, bias, alpha, act, alpha_value, gain, clamp, channels_last, backend):
    args = (t, *_vectors(t, d, noise, bias, alpha), act, alpha_value, gain, clamp)
    if (run := _compiled(backend, "finish_fwd")) is not None:
        return run(*args, channels_last)
    if backend == "torch":
        return _laid(torch_backend.finish_fwd_torch(*args), channels_last)
    acc = torch.promote_types(t.dtype, torch.float32)
    y = reference.finished(t.to(acc), *args[1:]).to(t.dtype)
    return _laid(y.clone() if y is t else y, channels_last)


def _finish_fwd_fake(t, d, noise, bias, alpha, act, alpha_value, gain, clamp, channels_last, backend):
    return _laid(torch.empty_like(t), channels_last)


def _overwrite(t, d, noise, bias, alpha, act, alpha_value, gain, clamp, channels_last, backend):
    args = (*_vectors(t, d, noise, bias, alpha), act, alpha_value, gain, clamp, channels_last)
    if (run := _compiled(backend, "finish_fwd", "_")) is not None:
        run(t, *args)
    else:
        t.copy_(_finish_fwd(t, *args, backend))


def _finish_bwd(gy, t, d, noise, bias, alpha, act, alpha_value, gain, clamp, channels_last, backend):
    args = (gy, t, *_vectors(t, d, noise, bias, alpha), act, alpha_value, gain, clamp)
    if (run := _compiled(backend, "finish_bwd")) is not None:
        return run(*args, channels_last)
    gt, *others = torch_backend.finish_bwd_torch(*args)
    return _laid(gt, channels_last), *(gy.new_empty(0, dtype=others[2].dtype) if v is None else v for v in others)


def _finish_bwd_fake(gy, t, d, noise, bias, alpha, act, alpha_value, gain, clamp, channels_last, backend):
    acc = torch.promote_types(gy.dtype, torch.float32)
    like = lambda v: gy.new_empty(0, dtype=acc) if v is None else torch.empty_like(v, dtype=acc)
    return _laid(torch.empty_like(gy), channels_last), like(d), like(noise), gy.new_empty(gy.shape[1], dtype=acc), like(alpha)


def _prepare_fwd(weight, scale, transposed, turn, dtype, backend):
    itself = reference.is_itself(weight, scale, transposed, turn, dtype)
    weight, scale = weight if itself else weight.contiguous(), None if scale is None else scale.contiguous()
    if (run := _compiled(backend, "prepare_fwd")) is not None:
        return run(weight, scale, transposed, turn, dtype)
    w, q = reference.prepared(weight.to(torch.promote_types(dtype, torch.float32)), scale, transposed, turn)
    return weight.new_empty(0) if itself else w.to(dtype).contiguous(), q


def _prepare_fwd_fake(weight, scale, transposed, turn, dtype, backend):
    size = (0,) if reference.is_itself(weight, scale, transposed, turn, dtype) else reference.turned(weight, transposed, turn).shape
    q = weight.new_empty(weight.shape[:2], dtype=torch.promote_types(dtype, torch.float32))
    return weight.new_empty(size, dtype=dtype), q


def _prepare_bwd(weight, gw, gq, scale, transposed, turn, backend):
    like = weight
    gq, scale = (None if v is None else v.contiguous() for v in (gq, scale))
    # gw of the weight itself lies as that does, of another form both are contiguous
    if not reference.is_itself(weight, scale, transposed, turn, weight.dtype if gw is None else gw.dtype):
        gw, weight = None if gw is None else gw.contiguous(), weight.contiguous()
    elif gw is not None and gw.stride() != weight.stride():
        gw = torch.empty_like(weight).copy_(gw)
    if (run := _compiled(backend, "prepare_bwd")) is not None:
        found = run(weight, gw, gq, scale, transposed, turn)
    else:
        acc = torch.promote_types(weight.dtype, torch.float32)
        gw = None if gw is None else gw.to(acc)
        found = reference.prepare_gradient(gw, gq, weight.to(acc), scale, transposed, turn).to(like.dtype)
    return found if found.stride() == like.stride() else torch.empty_like(like).copy_(found)


def _prepare_bwd_fake(weight, gw, gq, scale, transposed, turn, backend):
    return torch.empty_like(weight)


def _few_fwd(x, w, channels_last):
    return torch.ops.ganfast.modulated_conv_few_fwd_native(x, w.contiguous(), channels_last)


def _few_fwd_fake(x, w, channels_last):
    return _images_like(x, w.shape[1], channels_last)


def _images_like(x, channels, channels_last):
    fmt = memory_format(4, channels_last)
    return torch.empty((x.shape[0], channels, *x.shape[2:]), dtype=x.dtype, device=x.device, memory_format=fmt)


def _few_bwd(g, x, w, channels_last):
    return torch.ops.ganfast.modulated_conv_few_bwd_native(g, x, w.contiguous(), channels_last)


def _few_bwd_fake(g, x, w, channels_last):
    return _images_like(g, w.shape[2], channels_last), torch.empty_like(w) if x is not None else w.new_empty(0)


def _register(name: str, schema: str, implementation, fake):
    return _native.register(f"modulated_conv_{name}" + schema.format(_BACKEND), implementation, fake)


scale_fwd = _register("scale_fwd", _SCALE, _scale_fwd, _scale_fwd_fake)
scale_bwd = _register("scale_bwd", _SCALE_BWD, _scale_bwd, _scale_bwd_fake)
finish_fwd = _register("finish_fwd", _FINISH, _finish_fwd, _finish_fwd_fake)
finish_bwd = _register("finish_bwd", _FINISH_BWD, _finish_bwd, _finish_bwd_fake)
prepare_fwd = _register("prepare_fwd", _PREPARE, _prepare_fwd, _prepare_fwd_fake)
few_fwd = _native.register("modulated_conv_few_fwd" + _FEW, _few_fwd, _few_fwd_fake)
few_bwd = _native.register("modulated_conv_few_bwd" + _FEW_BWD, _few_bwd, _few_bwd_fake)
prepare_bwd = _register("prepare_bwd", _PREPARE_BWD, _prepare_bwd, _prepare_bwd_fake)


def finish_fwd_(t: Tensor, *args) -> Tensor:
    """`finish_fwd` that overwrites t, a fresh result that no backward saved, where nothing has to see an op."""
    if not _native.is_plain(t):
        return finish_fwd(t, *args)
    _overwrite(t, *args)
    return t
