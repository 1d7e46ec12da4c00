"""`setup_filter`: what people write as a filter, made one that `upfirdn` takes."""

import math

import torch
from torch import Tensor

from ganfast import _checks

_OP = "setup_filter"
_LONG = 8  # taps from which on two passes of a vector are kept, where nobody says


def setup_filter(
    f: object,
    *,
    device: torch.device | str | None = None,
    normalize: bool = True,
    flip: bool = False,
    gain: float = 1.0,
    separable: bool | None = None,
) -> Tensor:
    """A filter as `upfirdn` takes it, made of a number, taps or a matrix; None is the identity.

    Shapes:
        f None or a number (one tap), taps [taps], a matrix [h, w]: a tensor, an array or lists. The result is [taps] where it is
        ``separable``, else [h, w]; without ``separable`` eight taps or more stay [taps], fewer become their matrix [taps, taps], and a
        matrix stays one. x of one dimension wants ``separable=True``.
    Dtypes: float32, of any real f.
    Layout: contiguous, memory of its own; on ``device``, where f lies unless given: the CPU, if f is no tensor.
    Grads: none; the filter is a constant.
        ``normalize`` makes the sum 1, ``flip`` turns it round, ``gain`` multiplies what it does to an image, so taps, which are met once in
        each of two dimensions, have its square root.
    Raises: TypeError, ValueError for what the shapes above forbid, for values that are not finite, for a sum of 0 that is to become 1, for
        a negative gain of taps, for an f that requires grad.
    Source: the published interface's setup_filter, of Karras et al. 2020 and 2021.
    """
    for name, value in (("normalize", normalize), ("flip", flip), *([] if separable is None else [("separable", separable)])):
        if not isinstance(value, bool):
            _checks.fail(_OP, f"{name} is {value!r}, wants a bool", error=TypeError)
    gain = _checks.check_number(_OP, "gain", gain)
    taps = _taps(f)
    if separable is None:
        separable = taps.dim() == 1 and len(taps) >= _LONG
    if separable and taps.dim() == 2:
        _checks.fail(_OP, f"separable is True, f has shape {tuple(taps.shape)}", "A matrix is not taken apart: pass the taps [taps]")
    if taps.dim() == 1 and not separable:
        taps = taps.outer(taps)
    if separable and gain < 0:
        _checks.fail(_OP, f"gain is {gain}, wants no negative number for taps", "Both dimensions share it; separable=False can have one")
    if normalize:
        if (total := taps.sum()) == 0:
            _checks.fail(_OP, "the sum of f is 0, and normalize makes it 1", "A filter without a mean wants normalize=False")
        taps = taps / total
    if flip:
        taps = taps.flip(tuple(range(taps.dim())))
    return (taps * (math.sqrt(gain) if separable else gain)).to(device)


def _taps(f: object) -> Tensor:
    """f as float32, [taps] or [h, w]."""
    if isinstance(f, Tensor) and f.requires_grad:
        _checks.fail(_OP, "f requires grad, and is a constant here", "Pass f.detach(), or learn it as a convolution's weight")
    try:
        taps = torch.as_tensor(1.0 if f is None else f)
    except (TypeError, ValueError, RuntimeError) as error:
        wants = "None, a number, taps [taps] or a matrix [h, w]"
        _checks.fail(_OP, f"f is {f!r}, wants {wants}", f"torch.as_tensor says: {str(error).rstrip('.')}", TypeError)
    if taps.is_meta:
        _checks.fail(_OP, "f is on meta, wants values")
    if taps.is_complex():
        _checks.fail(_OP, f"f has dtype {taps.dtype}, wants real numbers", error=TypeError)
    if taps.dim() > 2 or taps.numel() == 0:
        _checks.fail(_OP, f"f has shape {tuple(taps.shape)}, wants [], [taps] or [h, w] of at least one tap")
    taps = taps.to(torch.float32)
    if not taps.isfinite().all():
        _checks.fail(_OP, "f has values that are not finite")
    return taps.reshape(1) if taps.dim() == 0 else taps
