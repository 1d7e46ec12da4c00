"""What a group computes whose first step is a whole op of its own: filters, an activation between two of them, periodic
activations, modulated convolutions."""

from typing import Any

import torch
from torch import Tensor

from ganfast.ops.bias_act.op import bias_act
from ganfast.ops.filtered_act.op import filtered_act
from ganfast.ops.modulated_conv.op import modulated_conv
from ganfast.ops.upfirdn.op import upfirdn


def run(spec, x: Tensor, t: dict[str, Tensor | None]) -> Tensor:
    """spec: an arithmetic.Spec, whose constants `modulated_conv` takes all; t: the operands by name."""
    options = spec.whole
    return _modulated(spec, options, x, t) if options["op"] == "modulated_conv" else _OPS[options["op"]](options, x, t)


def _periodic(options: dict[str, Any], x: Tensor, t: dict[str, Tensor | None]) -> Tensor:
    return bias_act(x, act=options["act"], alpha=_vector(x, t["alpha"]), beta=_vector(x, t["beta"]))


def _filtered(options: dict[str, Any], x: Tensor, t: dict[str, Tensor | None]) -> Tensor:
    """The second filter is turned round: a convolution's weight is a correlation's, a transposed one's a convolution's."""
    alpha = options["alpha"] if t["alpha"] is None else _vector(x, t["alpha"])
    return filtered_act(
        x, up_filter=t["filter"][0, 0], down_filter=t["down_filter"][0, 0].flip(0), up=options["up"], down=options["down"],
        padding_mode="replicate", act=options["act"], alpha=alpha, beta=_vector(x, t["beta"]),
    )  # fmt: skip


def _resampled(options: dict[str, Any], x: Tensor, t: dict[str, Tensor | None]) -> Tensor:
    given = {name: options[name] for name in ("up", "down", "padding", "flip", "gain")}
    return upfirdn(x, t["filter"][0, 0], **given)


def _modulated(spec, options: dict[str, Any], x: Tensor, t: dict[str, Tensor | None]) -> Tensor:
    """Contiguous, as torch's views make of anything. Eager's product keeps weight and style, each where the other learns, and its sums keep
    nothing of what they add: of all else that the op keeps it gets copies."""
    weight, style, learns = t["weight"], t["style"], torch.is_grad_enabled()
    base, rows = weight.reshape(weight.shape[-4:]).contiguous(), style.reshape(x.shape[:2])
    base = base.clone() if learns and not style.requires_grad else base
    rows = rows.clone() if learns and not weight.requires_grad else rows
    bias = None if t["added"] is None else t["added"].reshape(-1)
    filter = t["filter"]
    return modulated_conv(
        x.contiguous(), base, rows, demodulate=options["demodulate"], eps=options["eps"], up=options["up"], down=options["down"],
        padding=options["padding"], flip=options["flip"], filter=None if filter is None else filter[0, 0].flip(0, 1) * options["factor"],
        noise=t["noise"], bias=bias.clone() if bias is not None and learns else bias, act=spec.act, gain=spec.gain, clamp=spec.clamp,
        alpha=spec.alpha if t["alpha"] is None else t["alpha"].reshape(-1),
    )  # fmt: skip


def _vector(x: Tensor, given: Tensor | None) -> Tensor | None:
    """[C] or [1]. Of an x that needs no gradient eager keeps no factor, so here it is a copy."""
    return None if given is None else given.reshape(-1) if x.requires_grad else given.reshape(-1).clone()


_OPS = {"bias_act": _periodic, "filtered_act": _filtered, "upfirdn": _resampled}
