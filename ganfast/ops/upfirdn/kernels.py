"""Registration of the pass: one signature for every backend, picked by the last argument. Its gradient is the same pass."""

import torch

from ganfast import _backends, _native
from ganfast._autograd import no_autocast
from ganfast._layout import memory_format
from ganfast.ops.upfirdn import reference, torch_backend
from ganfast.ops.upfirdn.geometry import Geometry

# x [N, C, L] or [N, C, H, W], dense; filter [taps], of 2-D x along both dimensions, or [h, w]; geometry along L, or H and W.
_FWD = (
    "(Tensor x, Tensor filter, int[] up, int[] down, int[] before, int[] after, bool flip, float gain, bool channels_last{}) -> Tensor"
)

_native.define("upfirdn_fwd_native" + _FWD.format(""))


_ONE_PASS = 16  # products for a value of the result of a separable filter, at most: above, a pass a dimension takes less


def _fwd(x, filter, up, down, before, after, flip, gain, channels_last, backend):
    _backends.ran["upfirdn"] = backend
    args = (x, filter, up, down, before, after, flip, gain)
    if backend in ("torch", "reference"):
        run = torch_backend.upfirdn_fwd_torch if backend == "torch" else reference.upfirdn_fwd_reference
        with no_autocast(x):
            return run(*args).contiguous(memory_format=memory_format(x.dim(), channels_last))
    taps = filter.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
    native = torch.ops.ganfast.upfirdn_fwd_native
    if backend == "triton":
        from ganfast.ops.upfirdn.triton import upfirdn_fwd_triton as native
    run = native if backend == "cpu" else lambda *args: _in_planes(native, *args)
    return run(x, taps, up, down, before, after, flip, gain, channels_last)


def _in_planes(run, x, filter, up, down, before, after, flip, gain, channels_last):
    """By `run`, for [N, C, H, W] and, along both dimensions at once, short separable filters."""
    if x.dim() == 3:
        geometry = ((1, *up), (1, *down), (0, *before), (0, *after))
        return run(x.unsqueeze(2), filter.view(1, -1), *geometry, flip, gain, False).squeeze(2)
    if filter.dim() == 2 or len(filter) * len(filter) <= _ONE_PASS * up[0] * up[1]:
        return run(x, filter, up, down, before, after, flip, gain, channels_last)
    order = (0, 1) if down[0] >= up[0] else (1, 0)  # first the dimension whose result is written again: make it small early
    for dim in order:
        line = [[v if d == dim else none for d, v in enumerate(of)] for of, none in ((up, 1), (down, 1), (before, 0), (after, 0))]
        taps = filter.view(-1, 1) if dim == 0 else filter.view(1, -1)
        x = run(x, taps, *line, flip, gain if dim == order[1] else 1.0, channels_last)
    return x


def _fwd_fake(x, filter, up, down, before, after, flip, gain, channels_last, backend):
    dims = x.dim() - 2
    taps = filter.shape if filter.dim() == dims else filter.shape * dims
    size = Geometry(up, down, before, after, taps, flip).size(x.shape[2:])
    return x.new_empty(*x.shape[:2], *size).contiguous(memory_format=memory_format(x.dim(), channels_last))


fwd = _native.register("upfirdn_fwd" + _FWD.format(", str backend"), _fwd, _fwd_fake)
