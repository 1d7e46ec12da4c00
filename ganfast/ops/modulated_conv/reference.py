"""The passes around the convolution by their definition, in plain torch; all but the rounding to x's dtype in the accumulation dtype."""

import torch
from torch import Tensor

from ganfast._activations import act_alpha_bwd, act_bwd, act_fwd


def per_image(vector: Tensor) -> Tensor:
    """[N, C] -> [N, C, 1, 1]"""
    return vector[:, :, None, None]


def per_channel(vector: Tensor) -> Tensor:
    """[C] -> [C, 1, 1]"""
    return vector[:, None, None]


def scaled(x: Tensor, style: Tensor) -> Tensor:
    """x [N, C, H, W] times style [N, C], rounded once."""
    return (x.to(style.dtype) * per_image(style)).to(x.dtype)


def scale_gradients(g: Tensor, x: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
    """(gx, gstyle), differentiable."""
    g = g.to(style.dtype)
    return (g * per_image(style)).to(x.dtype), (g * x.to(style.dtype)).sum((2, 3))


def before_act(t: Tensor, d: Tensor | None, noise: Tensor | None, bias: Tensor | None) -> Tensor:
    """t * d + noise + bias; t [N, C, H, W], d [N, C], noise [N, 1, H, W], bias [C], of one dtype."""
    z = t if d is None else t * per_image(d)
    z = z if noise is None else z + noise
    return z if bias is None else z + per_channel(bias)


def finished(t, d, noise, bias, alpha, act: str, alpha_value: float, gain: float, clamp: float | None) -> Tensor:
    """The epilogue as one differentiable formula."""
    y = act_fwd(before_act(t, d, noise, bias), act, alpha, alpha_value) * gain
    return y if clamp is None else y.clamp(-clamp, clamp)


def finish_gradients(gy, t, d, noise, bias, alpha, act: str, alpha_value: float, gain: float, clamp: float | None):
    """(gt, gd, gnoise, gbias, galpha), None for what there is not, but gbias always; every step differentiable, all of one dtype."""
    z = before_act(t, d, noise, bias)
    g = gy * gain
    if clamp is not None:
        y = act_fwd(z, act, alpha, alpha_value) * gain
        g = torch.where(y.detach().abs() > clamp, torch.zeros_like(g), g)
    gz = act_bwd(g, z, act, alpha, alpha_value, False)
    return (
        gz if d is None else gz * per_image(d),
        None if d is None else (gz * t).sum((2, 3)),
        None if noise is None else gz.sum(1, keepdim=True),
        gz.sum((0, 2, 3)),
        None if alpha is None else act_alpha_bwd(g, z, act, alpha).sum((0, 2, 3)),
    )


def is_itself(weight: Tensor, scale: Tensor | None, transposed: bool, turn: bool, dtype: torch.dtype) -> bool:
    """Whether the convolution takes the weight as it is."""
    return scale is None and not transposed and not turn and weight.dtype == dtype


def turned(weight: Tensor, transposed: bool, turn: bool) -> Tensor:
    """weight [Cout, Cin, kh, kw] as [Cin, Cout, kh, kw], with its taps from the end, as asked."""
    weight = weight.flip((2, 3)) if turn else weight
    return weight.transpose(0, 1) if transposed else weight


def prepared(weight: Tensor, scale: Tensor | None, transposed: bool, turn: bool) -> tuple[Tensor, Tensor]:
    """(what the convolution takes, the sum of its squares over the taps [Cout, Cin]); scale [Cout]."""
    weight = weight if scale is None else weight * scale[:, None, None, None]
    return turned(weight, transposed, turn), weight.square().sum((2, 3))


def prepare_gradient(gw: Tensor | None, gq: Tensor | None, weight: Tensor, scale: Tensor | None, transposed: bool, turn: bool) -> Tensor:
    """Of the weight, from those of both results; differentiable, in the weight's dtype."""
    found = torch.zeros_like(weight) if gw is None else turned(gw, transposed, turn)  # either is its own inverse
    found = found if scale is None else found * scale[:, None, None, None]
    if gq is None:
        return found
    twice = 2 * gq if scale is None else 2 * gq * (scale * scale)[:, None]
    return found + weight * twice[:, :, None, None]
