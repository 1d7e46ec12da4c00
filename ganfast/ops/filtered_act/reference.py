"""up, activate, gain, clamp, down by its definition; and the passes in plain torch, given an upfirdn to run."""

import torch
from torch import Tensor

from ganfast._activations import act_alpha_bwd, act_bwd, act_fwd
from ganfast.ops.filtered_act.maps import Maps, column, packed, unpacked

POSITIVE, CLAMPED = 1, 2  # of a value's two bits


def filtered_act(x, bias, alpha, maps: Maps, act: str, alpha_value: float, gain: float, clamp: float | None) -> Tensor:
    """The whole op as one differentiable formula, if the maps are."""
    y = act_fwd(maps.up(x + column(bias, x)), act, alpha, alpha_value) * gain
    return maps.down(y if clamp is None else y.clamp(-clamp, clamp))


def codes(u: Tensor, y: Tensor, act: str, clamp: float | None) -> Tensor:
    """Of a piecewise linear activation's argument u and its y before the clamp: two bits a value, packed."""
    on = ~(u <= 0) if act == "relu" else u > 0 if act != "linear" else torch.ones_like(u, dtype=torch.bool)
    held = on.to(torch.uint8) * POSITIVE
    return packed(held if clamp is None else held + CLAMPED * (y.abs() > clamp).to(torch.uint8))


def slopes(signs: Tensor, width: int, act: str, alpha_value: float, gain: float, like: Tensor) -> Tensor:
    held = unpacked(signs, width)
    below = {"linear": 1.0, "relu": 0.0}.get(act, alpha_value)
    table = torch.tensor([below * gain, gain, 0.0, 0.0], dtype=like.dtype, device=like.device)
    return table[held.long()]


def forward(x, bias, alpha, maps: Maps, act, alpha_value, gain, clamp, keep_signs: bool) -> tuple[Tensor, Tensor]:
    u = maps.up(x + column(bias, x))
    y = act_fwd(u, act, alpha, alpha_value) * gain
    signs = codes(u, y, act, clamp) if keep_signs else x.new_empty(0, dtype=torch.uint8)
    return maps.down(y if clamp is None else y.clamp(-clamp, clamp)), signs


def gradients(gy, x, bias, alpha, maps: Maps, act, alpha_value, gain, clamp):
    """(gx, gbias, galpha or None), every step differentiable if the maps are."""
    u = maps.up(x + column(bias, x))
    g = maps.down_adjoint(gy, tuple(u.shape[2:])) * gain
    if clamp is not None:
        y = act_fwd(u, act, alpha, alpha_value) * gain
        g = torch.where(y.detach().abs() > clamp, torch.zeros_like(g), g)
    gx = maps.up_adjoint(act_bwd(g, u, act, alpha, alpha_value, False), tuple(x.shape[2:]))
    dims = [0, *range(2, x.dim())]
    galpha = None if alpha is None else act_alpha_bwd(g, u, act, alpha).sum([d - x.dim() for d in dims])
    return gx, gx.sum(dims), galpha


def linear(v, signs, maps: Maps, act, alpha_value, gain, transposed: bool, size) -> Tensor:
    """v through both maps and, between them, times the slopes that the signs say; or its adjoint, to x's size."""
    middle = maps.middle(size)
    s = slopes(signs, middle[-1], act, alpha_value, gain, v)
    return maps.up_adjoint(s * maps.down_adjoint(v, middle), size) if transposed else maps.down(s * maps.up(v))
