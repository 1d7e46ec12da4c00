"""`torch_utils.ops.upfirdn2d`: the published interface on `ganfast.functional.upfirdn` and its usual forms. A filter of None is one tap."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ganfast import _checks, functional
from ganfast.ops.upfirdn.op import check_padding
from ganfast.stylegan._impl import backend, number

__all__ = [
    "_get_filter_size", "_parse_padding", "_parse_scaling", "downsample2d", "filter2d", "setup_filter", "upfirdn2d", "upsample2d",
]  # fmt: skip

_Numbers = int | Sequence[int]


def setup_filter(
    f: object,
    device: torch.device | str = torch.device("cpu"),  # noqa: B008
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """`ganfast.functional.setup_filter`."""
    gain = number("setup_filter", "gain", gain)
    return functional.setup_filter(f, device=device, normalize=normalize, flip=flip_filter, gain=gain, separable=separable)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: _Numbers = 1,
    down: _Numbers = 1,
    padding: _Numbers = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """`ganfast.functional.upfirdn`."""
    f = _filter("upfirdn2d", x, f)
    options = {"flip": flip_filter, "gain": number("upfirdn2d", "gain", gain), "backend": backend("upfirdn2d", impl)}
    return functional.upfirdn(x, f, up=up, down=down, padding=padding, **options)


def filter2d(x: Tensor, f: Tensor | None, padding: _Numbers = 0, flip_filter: bool = False, gain: float = 1, impl: str = "cuda") -> Tensor:
    """`ganfast.functional.filter`."""
    options = {"flip": flip_filter, "gain": number("filter2d", "gain", gain), "backend": backend("filter2d", impl)}
    return functional.filter(x, _filter("filter2d", x, f), padding=padding, **options)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: _Numbers = 2,
    padding: _Numbers = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """`ganfast.functional.upsample`."""
    options = {"flip": flip_filter, "gain": number("upsample2d", "gain", gain), "backend": backend("upsample2d", impl)}
    return functional.upsample(x, _filter("upsample2d", x, f), up=up, padding=padding, **options)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: _Numbers = 2,
    padding: _Numbers = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """`ganfast.functional.downsample`."""
    options = {"flip": flip_filter, "gain": number("downsample2d", "gain", gain), "backend": backend("downsample2d", impl)}
    return functional.downsample(x, _filter("downsample2d", x, f), down=down, padding=padding, **options)


def _filter(op: str, x: Tensor, f: Tensor | None) -> Tensor:
    _checks.check_tensor(op, "x", x)
    if x.dim() != 4:
        _checks.fail(op, f"x has shape {tuple(x.shape)}, wants [N, C, H, W]", "ganfast.functional.upfirdn takes [N, C, L] too")
    return torch.ones([1, 1], device=x.device) if f is None else f


def _parse_scaling(scaling: _Numbers) -> tuple[int, int]:
    """(x, y)"""
    return tuple(_checks.int_list("upfirdn2d", "scaling", scaling, 2, 1))


def _parse_padding(padding: _Numbers) -> tuple[int, int, int, int]:
    """(left, right, top, bottom)"""
    (top, left), (bottom, right) = check_padding("upfirdn2d", padding, 2)
    return left, right, top, bottom


def _get_filter_size(f: Tensor | None) -> tuple[int, int]:
    """(width, height); of taps, which go both ways, they are one."""
    if f is not None:
        _checks.check_tensor("upfirdn2d", "f", f)
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])
