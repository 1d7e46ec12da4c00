"""`torch_utils.ops.conv2d_resample`: a convolution between an upsampling and a downsampling."""

from collections.abc import Sequence

from torch import Tensor

from ganfast import _checks
from ganfast.stylegan.conv2d_gradfix import conv2d, conv_transpose2d
from ganfast.stylegan.upfirdn2d import _get_filter_size, _parse_padding, upfirdn2d

__all__ = ["conv2d_resample"]

_OP = "conv2d_resample"


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> Tensor:
    """x upsampled by f, with `padding` of the upsampled image, convolved with w, downsampled by f; the mean kept. flip_weight: a
    correlation, as torch's convolutions are; else w is read from its end. f is read only where up or down is above 1.

    Filter and convolution change places where the convolution then sees a smaller image. Both are linear and move with the image, and
    beyond it are zeros, so the result is the same.
    """
    _check(x, w, up, down, groups)
    pads, widths = _parse_padding(padding), _get_filter_size(f)  # (left, right, top, bottom), (width, height)
    if up > 1:  # as upsample2d and downsample2d, which keep the image in its place
        pads = _more(pads, [((k + up - 1) // 2, (k - up) // 2) for k in widths])
    if down > 1:
        pads = _more(pads, [((k - down + 1) // 2, (k - down) // 2) for k in widths])
    turned = w.flip((2, 3))
    w, turned = (w, turned) if flip_weight else (turned, w)
    one = w.shape[2:] == (1, 1)

    if one and up == 1 and down > 1:
        return conv2d(upfirdn2d(x, f, down=down, padding=pads, flip_filter=flip_filter), w, groups=groups)
    if one and up > 1 and down == 1:
        return upfirdn2d(conv2d(x, w, groups=groups), f, up=up, padding=pads, gain=up**2, flip_filter=flip_filter)
    if up > 1:
        x = _upsampled(x, turned, f, up, pads, groups, flip_filter)
        return x if down == 1 else upfirdn2d(x, f, down=down, flip_filter=flip_filter)
    if down > 1:
        return conv2d(upfirdn2d(x, f, padding=pads, flip_filter=flip_filter), w, stride=down, groups=groups)
    left, right, top, bottom = pads
    if left == right >= 0 and top == bottom >= 0:
        return conv2d(x, w, padding=(top, left), groups=groups)
    return conv2d(upfirdn2d(x, None, padding=pads), w, groups=groups)


def _upsampled(x, w, f, up, pads, groups, flip_filter) -> Tensor:
    """A transposed convolution, which reaches kernel - 1 beyond the zeros between the pixels and leaves out the up - 1 after the last one;
    the filter's padding makes up for both. What it would cut off on both sides is not computed."""
    c_out, c_in, *kernel = w.shape
    pads = _more(pads, [(1 - k, up - k) for k in reversed(kernel)])
    left, right, top, bottom = pads
    cut_x, cut_y = max(min(-left, -right), 0), max(min(-top, -bottom), 0)
    w = w.reshape(groups, c_out // groups, c_in, *kernel).transpose(1, 2).reshape(groups * c_in, c_out // groups, *kernel)
    y = conv_transpose2d(x, w, stride=up, padding=(cut_y, cut_x), groups=groups)
    return upfirdn2d(y, f, padding=_more(pads, [(cut_x, cut_x), (cut_y, cut_y)]), gain=up**2, flip_filter=flip_filter)


def _more(pads: Sequence[int], by: Sequence[tuple[int, int]]) -> list[int]:
    """by: (before, after) along x, then along y."""
    return [pad + more for pad, more in zip(pads, (*by[0], *by[1]))]


def _check(x, w, up, down, groups) -> None:
    for name, value, wants in (("x", x, "[N, Cin, H, W]"), ("w", w, "[Cout, Cin / groups, h, w]")):
        _checks.check_tensor(_OP, name, value)
        if value.dim() != 4:
            _checks.fail(_OP, f"{name} has shape {tuple(value.shape)}, wants {wants}")
    for name, value in (("up", up), ("down", down), ("groups", groups)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            _checks.fail(_OP, f"{name} is {value!r}, wants a positive int")
    if w.shape[0] % groups or x.shape[1] != w.shape[1] * groups:
        _checks.fail(
            _OP, f"x has {x.shape[1]} channels, w has shape {tuple(w.shape)} for groups={groups}",
            "w is [Cout, Cin / groups, h, w], as torch's convolutions store it",
        )  # fmt: skip
