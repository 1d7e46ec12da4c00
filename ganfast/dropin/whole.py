"""What a group computes whose first step is a whole op of its own: filters, an activation between two of them, periodic activations."""

from typing import Any

from torch import Tensor

from ganfast.ops.bias_act.op import bias_act
from ganfast.ops.filtered_act.op import filtered_act
from ganfast.ops.upfirdn.op import upfirdn


def run(options: dict[str, Any], x: Tensor, t: dict[str, Tensor | None]) -> Tensor:
    """t: the operands by name."""
    return _OPS[options["op"]](options, x, t)


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


def _vector(x: Tensor, given: Tensor | None) -> Tensor | None:
    """[C] or [1]. Of an x that needs no gradient eager keeps no factor, so here it is a copy."""
    return None if given is None else given.reshape(-1) if x.requires_grad else given.reshape(-1).clone()


_OPS = {"bias_act": _periodic, "filtered_act": _filtered, "upfirdn": _resampled}
