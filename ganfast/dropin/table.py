"""The dictionary of what runs together: each entry reads one more step from a graph, or says that there is none.

[nearest upsampling] + convolution, or a resampling by a filter, + [bias add] + [norm] + [scale] + [shift] + [activation] + [gain]
+ [clamp], a norm or a bias add with what follows it. A norm may take scale and shift of each image or pixel; and a tensor of the same shape
may be added, before the activation or after it, and the sum multiplied by a constant. An activation between two filters, and a periodic
one, stand alone.
To add a step: a reader here, its line in `STEPS`, its arithmetic in arithmetic.py, and a row in tests/families.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from ganfast.dropin.filters import filtered, resampled
from ganfast.dropin.modulated import modulated, noise
from ganfast.dropin.nodes import (
    channels,
    each,
    is_dense,
    is_floating,
    per_channel,
    per_image,
    read,
    same_shape,
    same_strides,
    tensor,
    works_in_place,
)
from ganfast.dropin.spread import spread
from ganfast.dropin.steps import Step, both_ways, is_constant, other_operand, single_use
from ganfast.dropin.written import lone_periodic, written_silu, written_snake

# What begins a group by an op of its own, and the only steps that such a group computes behind it (`whole.run`, then bias_act).
ALONE = ("filtered", "resample", "periodic", "modulated")
BEHIND_ALONE = ("noise", "bias", "act", "gain", "clamp")
Reader = Callable[[fx.Node, list[Step]], Step | None]


def _fixed(arguments: dict[str, Any], *names: str) -> dict[str, Any] | None:
    """Options as they are; None where one depends on a size that is not fixed."""
    given = {name: arguments[name] for name in names}
    flat = [part for option in given.values() for part in (option if isinstance(option, (tuple, list)) else (option,))]
    if any(not isinstance(part, (int, float, bool, str)) for part in flat):
        return None
    return {name: tuple(option) if isinstance(option, list) else option for name, option in given.items()}


def _tensors(arguments: dict[str, Any], **names: str) -> dict[str, fx.Node]:
    return {ours: arguments[theirs] for ours, theirs in names.items() if arguments.get(theirs) is not None}


def convolution(node: fx.Node, before: list[Step]) -> Step | None:
    """A convolution of a batch, transposed or not."""
    call = read(node)
    if not call.name.startswith("conv") or call.name[-2:] not in ("1d", "2d", "3d"):
        return None
    x, transposed = tensor(call.x), call.name.startswith("conv_transpose")
    options = _fixed(call.arguments, "stride", "padding", "dilation", "groups", *(["output_padding"] if transposed else []))
    if options is None or not is_floating(x) or x.dim() != int(call.name[-2]) + 2:
        return None
    if before:
        kernel = tensor(call.arguments["weight"]).shape[2:]
        padding = _padding(options["padding"], kernel)
        ones = all(value == 1 for name in ("stride", "dilation") for value in each(options[name], len(kernel)))
        if transposed or not ones or padding is None or not all(p < k for p, k in zip(padding, kernel)):
            return None  # upsample_conv_act has none such
        options["padding"] = padding
    tensors = {"x": call.x} | _tensors(call.arguments, weight="weight", bias="bias")
    return Step("conv", (node,), call.name, tensors, options | {"transposed": transposed})


def _padding(option: Any, kernel) -> tuple[int, ...] | None:
    """In numbers; None where it is not the same on both sides."""
    if option == "same":
        return tuple(k // 2 for k in kernel) if all(k % 2 for k in kernel) else None
    return (0,) * len(kernel) if option == "valid" else each(option, len(kernel))


def upsampling(node: fx.Node, before: list[Step]) -> Step | None:
    """A nearest upsampling by whole factors, of a batch of two dimensions or another number."""
    call = read(node)
    x = tensor(call.x)
    if call.name != "interpolate" or not is_floating(x) or call.arguments.get("mode", "nearest") not in ("nearest", "nearest-exact"):
        return None
    factor = call.arguments.get("scale_factor")
    factors = tuple(factor) if isinstance(factor, (tuple, list)) else (factor,) * (x.dim() - 2)
    if call.arguments.get("size") is not None or not all(is_constant(f) and f == int(f) >= 1 for f in factors):
        return None
    return Step("upsample", (node,), "interpolate", {"x": call.x}, {"scale": tuple(int(f) for f in factors)})


def norm(node: fx.Node, before: list[Step]) -> Step | None:
    """A batch norm, an instance norm on its own statistics, or a group norm."""
    call = read(node)
    if call.name not in ("batch_norm", "instance_norm", "group_norm") or (before and before[0].role == "bias"):
        return None
    x, given = tensor(call.x), call.arguments
    if not is_floating(x) or channels(x) is None or not 2 <= x.dim() <= 5 or not is_constant(given["eps"]):
        return None
    tensors = {"x": call.x} | _tensors(given, gain="weight", shift="bias")
    if call.name == "group_norm":
        groups = given.get("num_groups")
        if type(groups) is not int or groups < 1 or channels(x) % groups:
            return None
        return Step("norm", (node,), call.name, tensors, {"kind": "group", "groups": groups, "eps": given["eps"]})
    if call.name == "instance_norm":
        if given["running_mean"] is not None or given["use_input_stats"] is not True or x.dim() == 2:
            return None
        return Step("norm", (node,), call.name, tensors, {"kind": "instance", "eps": given["eps"]})
    if not isinstance(given["training"], bool) or not is_constant(given["momentum"]):
        return None
    options = {"kind": "batch", "eps": given["eps"], "training": given["training"], "momentum": given["momentum"]}
    return Step("norm", (node,), call.name, tensors | _tensors(given, mean="running_mean", var="running_var"), options)


def bias_add(value: fx.Node, before: list[Step]) -> Step | None:
    """One number a channel, added."""
    found = both_ways(value, "add")
    if found is None or not per_channel(found[1], tensor(value)):
        return None
    return Step("bias", (found[0],), "add", {"added": found[1]}, {})


def first_bias_add(node: fx.Node, before: list[Step]) -> Step | None:
    """The same at the beginning of a group: x stays as it is."""
    for x in () if works_in_place(node) else node.all_input_nodes:
        t, added = tensor(x), other_operand(node, "add", x)
        if is_floating(t) and t.dim() > 1 and is_dense(t) and per_channel(added, t):
            return Step("bias", (node,), "add", {"x": x, "added": added}, {})
    return None


def scale(value: fx.Node, before: list[Step]) -> Step | None:
    """One factor a channel. Behind a convolution it must not learn, as its product with the weight would keep what eager does not keep, and
    float16 has no room for such products; behind a norm whose x learns eager keeps the same."""
    found = both_ways(value, "mul")
    if found is None or not per_channel(found[1], tensor(value)):
        return None
    if before[-1].role == "conv" and (tensor(found[1]).requires_grad or tensor(value).dtype == torch.float16):
        return None
    if before[-1].role == "norm" and tensor(value).requires_grad and not tensor(before[-1].nodes[0].args[0]).requires_grad:
        return None
    return Step("scale", (found[0],), "mul", {"scale": found[1]}, {})


def shift(value: fx.Node, before: list[Step]) -> Step | None:
    found = bias_add(value, before)
    return None if found is None else found._replace(role="shift", tensors={"offset": found.tensors["added"]})


def modulation(value: fx.Node, before: list[Step]) -> Step | None:
    """A factor and a summand of each channel of each image, or of each value: conditional norms, AdaIN, SPADE."""
    t = tensor(value)
    product = both_ways(value, "mul")
    total = both_ways(product[0], "add") if product is not None else None
    if total is None or not any(like(product[1], t) and like(total[1], t) for like in (per_image, same_shape)):
        return None
    if not same_strides(total[0], value):
        return None
    return Step("modulation", (product[0], total[0]), "mul", {"by": product[1], "more": total[1]}, {})


def residual(value: fx.Node, before: list[Step]) -> Step | None:
    """A tensor like the value, added to it, where the sum lies as the value does. One in a group: no op adds two."""
    found = both_ways(value, "add")
    if found is None or any(step.role in ("clamp", "residual") for step in before) or not same_shape(found[1], tensor(value)):
        return None
    return Step("residual", (found[0],), "add", {"residual": found[1]}, {}) if same_strides(found[0], value) else None


# name, torch's and ganfast's -> torch's argument that is alpha
ACTIVATIONS: dict[str, str | None] = {
    **dict.fromkeys(("relu", "tanh", "sigmoid", "selu", "silu", "gelu")),
    **{"leaky_relu": "negative_slope", "prelu": "weight", "elu": "alpha", "softplus": "beta"},
}


def activation(value: fx.Node, before: list[Step]) -> Step | None:
    """One of torch's, as one call; else as people write it."""
    if any(step.role in ("act", "gain") for step in before):  # no op adds a residual between a gain and an activation
        return None
    found = single_use(value)
    if found is None:
        return written_silu(value) or written_snake(value)
    node, call = found
    act = call.name.rstrip("_")
    if act not in ACTIVATIONS:
        return None
    given = {name: option for name, option in call.arguments.items() if name != "inplace"}
    alpha = given.pop(ACTIVATIONS[act], None)
    if given.pop("threshold", 20) != 20 or given.pop("approximate", "none") != "none" or given:
        return None
    options = {"act": act, "alpha": None, "in_place": works_in_place(node)}
    if act == "prelu":
        return Step("act", (node,), act, {"alpha": alpha}, options) if _is_alpha(alpha, value) else None
    if ACTIVATIONS[act] and (not is_constant(alpha) or (act == "softplus" and alpha <= 0)):
        return None
    return Step("act", (node,), act, {}, options | {"alpha": alpha})


def _is_alpha(node: Any, value: fx.Node) -> bool:
    t = tensor(node)
    return is_floating(t) and all(type(s) is int for s in t.shape) and t.numel() in (1, channels(tensor(value)))


def gain(value: fx.Node, before: list[Step]) -> Step | None:
    """What is there times a constant, where no norm stands before it."""
    found = both_ways(value, "mul")
    if found is None or not is_constant(found[1]) or any(step.role in ("norm", "residual") for step in before):
        return None
    return Step("gain", (found[0],), "mul", {}, {"gain": float(found[1])})


def factor(value: fx.Node, before: list[Step]) -> Step | None:
    """What a sum with a residual, or its activation, is multiplied by or divided by."""
    if all(step.role != "residual" for step in before):
        return None
    found = both_ways(value, "mul")
    if found is not None and is_constant(found[1]):
        return Step("factor", (found[0],), "mul", {}, {"factor": float(found[1])})
    divided = single_use(value)
    if divided is None or divided[1].name.rstrip("_") != "div" or set(divided[1].arguments) != {"other"}:  # some round
        return None
    by = divided[1].arguments["other"]
    return Step("factor", (divided[0],), "div", {}, {"factor": 1 / by}) if is_constant(by) and by and is_constant(1 / by) else None


def clamp(value: fx.Node, before: list[Step]) -> Step | None:
    """To [-c, c], where no norm stands before it."""
    found = single_use(value)
    if found is None or found[1].name.rstrip("_") != "clamp" or any(step.role in ("norm", "residual") for step in before):
        return None
    low, high = found[1].arguments.get("min"), found[1].arguments.get("max")
    if not is_constant(low) or not is_constant(high) or low != -high or high <= 0:
        return None
    return Step("clamp", (found[0],), "clamp", {}, {"clamp": float(high)})


# role -> (what it may follow, "" for the beginning of a group; how it is read: from its own node where it may begin, else from the value
# before it)
STEPS: dict[str, tuple[tuple[str, ...], Reader]] = {
    "filtered": (("",), functools.partial(filtered, activation)),
    "modulated": (("",), modulated),
    "noise": (("modulated",), noise),
    "resample": (("",), lambda node, before: resampled(node, before) or spread(node, before)),
    "periodic": (("",), lone_periodic),
    "upsample": (("",), upsampling),
    "conv": (("", "upsample"), convolution),
    "first bias": (("",), first_bias_add),
    "norm": (("", "conv", "bias"), norm),
    "bias": (("conv", "resample", "modulated", "noise"), bias_add),
    "scale": (("norm", "conv"), scale),
    "shift": (("norm", "scale"), shift),
    "modulation": (("norm",), modulation),
    "act": (("conv", "resample", "modulated", "noise", "bias", "norm", "scale", "shift", "modulation", "residual"), activation),
    "gain": (("act", "conv", "resample", "modulated", "noise", "bias"), gain),
    "clamp": (("act", "gain"), clamp),
    "residual": (("conv", "bias", "norm", "scale", "shift", "modulation", "act", "gain"), residual),
    "factor": (("residual", "act"), factor),
}
