"""What a group computes, by ganfast's ops: [upsampling] + convolution, norm, activation with what they share."""

import contextlib
import functools
import math
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganfast._layout import is_channels_last
from ganfast.dropin import whole
from ganfast.dropin.nodes import each
from ganfast.ops.batch_norm_act import instance as instance_norm_act
from ganfast.ops.batch_norm_act import op as batch_norm_act
from ganfast.ops.batch_norm_act.autograd import BatchNormAct, rebuild
from ganfast.ops.bias_act import op as bias_act
from ganfast.ops.conv_act import op as conv_act
from ganfast.ops.conv_transpose_act import op as conv_transpose_act
from ganfast.ops.group_norm_act import op as group_norm_act
from ganfast.ops.upsample_conv_act import op as upsample_conv_act

_NOTHING = contextlib.nullcontext()
_FOLDING = 2**18  # values that a norm's pass takes in the time of the fold's operations on vectors


class Spec(NamedTuple):
    """A group's constants. conv: the options of its op, None without one; scale: of the upsampling; norm: its options; open_output:
    whether a caller may write to the output, as eager's activation would allow; clones_x: whether a caller can reach x, of which eager
    keeps nothing."""

    transposed: bool
    conv: dict[str, Any] | None
    scale: tuple[int, ...] | None
    norm: dict[str, Any] | None
    act: str
    alpha: float | None
    gain: float
    clamp: float | None
    open_output: bool
    clones_x: bool
    recompute: bool
    modulated: bool = False  # whether the norm has a factor and a summand of each image or pixel
    residual: str = ""  # "first" or "last": before the activation or after it
    factor: float = 1.0  # of the sum with the residual
    whole: dict[str, Any] | None = None  # of what begins with an op of its own: its options
    follows: bool = False  # whether more comes after that
    widens: bool = False  # whether a group norm takes x as float32

    @property
    def modulates(self) -> bool:
        """Whether the norm's pass reads more than x and vectors of channels."""
        return self.norm is not None and (self.modulated or self.residual != "")

    @property
    def adds(self) -> dict[str, Any]:
        """The options of an op that adds the residual."""
        return {"residual_first": self.residual == "first", "factor": self.factor} if self.residual else {}

    @property
    def folds(self) -> bool:
        """Whether a norm by running statistics may become a factor of the convolution's weight."""
        of_running = self.norm is not None and self.norm["kind"] == "batch" and not self.norm["training"]
        return self.conv is not None and of_running and not self.modulated

    @property
    def ops(self) -> tuple[str, ...]:
        """ganfast's ops that it runs on."""
        if self.whole is not None:
            return (self.whole["op"], "bias_act") if self.follows and self.whole["op"] == "upfirdn" else (self.whole["op"],)
        names = []
        if self.conv is not None:
            names.append("conv_transpose_act" if self.transposed else "upsample_conv_act" if self.scale else "conv_act")
        if self.norm is not None:
            names.append(f"{self.norm['kind']}_norm_act")
        if self.norm is None and (self.conv is None or self.gain != 1 or self.clamp is not None):
            names.append("bias_act")
        return tuple(names)


class Bound(dict):
    """What the ops decided for one look of a call (`Group.__call__`), {op: its plan}. All else that a plan rests on is the same at every
    call of one of dynamo's graphs; asking for it costs 50 microseconds an op where a convolution has just emptied the caches."""

    folds: bool | None = None  # whether the norm by running statistics is a factor of the weight

    def made(self, op: ModuleType, *args, **options):
        """The op's plan at the first call."""
        plan = op.planned(*args, **options)
        if getattr(plan, "final", True):
            self[op] = plan
        return plan

    def call(self, op: ModuleType, x, weight, bias, *, alpha, residual=None, **options):
        """The op, by its plan."""
        plan = self.get(op) or self.made(op, x, weight, bias, alpha=alpha, residual=residual, **options)
        return op.run(plan, x, weight, bias, alpha, residual=residual)


def run(spec: Spec, bound: Bound, x: Tensor, t: dict[str, Tensor | None]) -> Tensor:
    """t: the operands by name; those that the group has not are None."""
    if spec.whole is not None:
        x = whole.run(spec, x, t)
        if len(spec.ops) == 1:
            return x
    alpha = spec.alpha if t["alpha"] is None else t["alpha"].reshape(-1)
    weight, bias = t["weight"], t["bias"]
    if t["added"] is not None:
        bias = _sum(bias, t["added"])
    elif bias is not None and not bias.is_leaf:
        bias = _own(bias)
    if spec.norm is not None:
        return _normalised(spec, bound, x, weight, bias, t, alpha)
    if spec.conv is not None and t["scale"] is not None:
        weight, bias = _scaled(spec, weight, bias, t["scale"].reshape(-1), None if t["offset"] is None else t["offset"].reshape(-1))
    residual = t["residual"]
    if spec.gain == 1 and spec.clamp is None and spec.conv is not None:
        return _convolved(spec, bound, x, weight, bias, spec.act, alpha, residual=residual)
    z = x if spec.conv is None else _convolved(spec, bound, x, weight, None, "linear", None)
    plan = bound.get(bias_act) or bound.made(
        bias_act, z, bias, act=spec.act, alpha=alpha, gain=spec.gain, clamp=spec.clamp, open_output=spec.open_output, residual=residual,
        **spec.adds,
    )  # fmt: skip
    return bias_act.run(plan, z, bias, alpha, residual)


def _own(vector: Tensor) -> Tensor:
    """[C], to be kept for a backward where eager keeps nothing of it: a copy of what a caller may change."""
    return _own_like(vector, (-1,))


def _own_like(vector: Tensor, shape: tuple[int, ...]) -> Tensor:
    vector = vector.reshape(shape)
    return vector.clone() if torch.is_grad_enabled() else vector


def _sum(bias: Tensor | None, added: Tensor) -> Tensor:
    if bias is not None:
        return bias + added.reshape(-1)
    return added.reshape(-1) if added.is_leaf else _own(added)  # of a leaf the ops keep nothing


def _convolved(spec: Spec, bound: Bound, x, weight, bias, act: str, alpha, partials: bool = False, residual: Tensor | None = None):
    """act(conv(x) + bias) and the residual, after the upsampling where there is one."""
    if spec.clones_x and torch.is_grad_enabled() and weight.requires_grad:
        x = x.clone()  # eager keeps the upsampled x, which is larger and nobody else's
    op = conv_transpose_act if spec.transposed else conv_act if spec.scale is None else upsample_conv_act
    plan = bound.get(op)
    if plan is None:
        options = spec.conv | {"act": act, "alpha": alpha, "open_output": spec.open_output and act != "linear"}
        options |= ({} if spec.scale is None else {"scale_factor": spec.scale}) | ({"return_partials": True} if partials else {})
        options |= {} if residual is None else {"residual": residual} | spec.adds
        plan = bound.made(op, x, weight, bias, **options)
    inner = [functools.partial(bound.call, part) for part in (conv_act, conv_transpose_act)] if spec.scale is not None else ()
    with _rebuilt(x) if spec.recompute else _NOTHING:
        return op.run(plan, x, weight, bias, alpha, *inner, residual=residual)


def _normalised(spec: Spec, bound: Bound, x: Tensor, weight, bias, t: dict[str, Tensor | None], alpha) -> Tensor:
    """act(norm(conv(x))) with what the two can share: a batch norm in train mode takes the statistics that a transposed convolution's
    epilogue gathers; by running statistics it becomes a factor of the weight and a bias, where that is less work than a pass over the
    output. The fold is made anew at each call, in float32, and rounded to the weight's dtype; no parameter changes.
    Source: Jacob et al. 2018, section 3.2 (folding batch norm)."""
    gain, shift = _affine(t)
    norm = spec.norm
    if bound.folds is None:
        bound.folds = spec.folds and _outputs(spec, x, weight) >= weight.numel() + _FOLDING
    if bound.folds:
        acc = torch.promote_types(weight.dtype, torch.float32)
        factor = torch.rsqrt(t["var"].to(acc) + norm["eps"])
        factor = factor if gain is None else factor * gain.to(acc)
        offset = -t["mean"].to(acc) * factor
        offset = offset if shift is None else offset + shift.to(acc)
        folded, moved = _scaled(spec, weight, bias, factor, offset)
        return _convolved(spec, bound, x, folded, moved, spec.act, alpha, residual=t["residual"])
    partials = None
    if spec.conv is not None and spec.transposed and norm.get("training"):
        x, partials = _convolved(spec, bound, x, weight, bias, "linear", None, partials=True)
    elif spec.conv is not None:
        x = _convolved(spec, bound, x, weight, bias, "linear", None)
    beside = dict(zip(("scale", "shift", "residual"), (*_modulation(t, x), t["residual"])))
    if norm["kind"] == "instance":
        x = x.contiguous() if is_channels_last(x) else x  # as torch's, whose output somebody may flatten by `view`
        plan = bound.get(instance_norm_act) or bound.made(
            instance_norm_act, x, gain, shift, norm["eps"], spec.act, alpha, **beside, **spec.adds
        )
        return instance_norm_act.run_instance(plan, x, gain, shift, alpha, **beside)
    if norm["kind"] == "group":
        x = x.float() if spec.widens else x
        x = x.contiguous() if x.is_cuda and is_channels_last(x) else x  # as torch's there
        plan = bound.get(group_norm_act) or bound.made(
            group_norm_act, x, norm["groups"], gain, shift, norm["eps"], spec.act, alpha, **beside, **spec.adds
        )
        return group_norm_act.run(plan, x, gain, shift, alpha, **beside)
    mean, var, momentum = t["mean"], t["var"], norm["momentum"]
    plan = bound.get(batch_norm_act) or bound.made(
        batch_norm_act, x, mean, var, gain, shift, norm["training"], momentum, norm["eps"], spec.act, alpha, partials, **beside, **spec.adds
    )
    return batch_norm_act.run(plan, x, gain, shift, alpha, mean, var, momentum, partials, **beside)


def _modulation(t: dict[str, Tensor | None], x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """scale and shift as the norms take them: [N, C], or of x's shape. Of the summand eager keeps nothing."""
    by, more = t["by"], t["more"]
    if by is None or (by.shape == x.shape and x[0, 0].numel() > 1):
        return by, more
    return by.reshape(by.shape[:2]), _own_like(more, more.shape[:2])


def _affine(t: dict[str, Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
    """The norm's own factor and bias, and those that come after it, as one of each."""
    gain, shift = t["gain"], t["shift"]
    if t["scale"] is not None:
        scale = t["scale"].reshape(-1)
        gain, shift = scale if gain is None else gain * scale, None if shift is None else _own(shift) * scale
    if t["offset"] is not None:
        shift = _sum(shift, t["offset"])
    return gain, shift


def _outputs(spec: Spec, x: Tensor, weight: Tensor) -> float:
    """About how many values the convolution gives."""
    strides = math.prod(each(spec.conv.get("stride", 1), weight.dim() - 2))
    grown = strides if spec.transposed else math.prod(spec.scale or ()) / strides
    channels = weight.shape[1] * spec.conv["groups"] if spec.transposed else weight.shape[0]
    return x.shape[0] * math.prod(x.shape[2:]) * grown * channels


def _scaled(spec: Spec, weight: Tensor, bias: Tensor | None, factor: Tensor, offset: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """(weight, bias) of the convolution whose output channels are multiplied by the factor, then moved by the offset."""
    ones = [1] * (weight.dim() - 2)
    if spec.transposed:
        groups = spec.conv["groups"]
        scaled = (weight.unflatten(0, (groups, -1)) * factor.view(groups, 1, -1, *ones)).flatten(0, 1)
    else:
        scaled = weight * factor.view(-1, 1, *ones)
    moved = offset
    if bias is not None:
        moved = _own(bias).to(factor.dtype) * factor
        moved = moved if offset is None else moved + offset
    return scaled.to(weight.dtype), None if moved is None else moved.to(weight.dtype)


def _rebuilt(x: Tensor):
    """Inside, an op that saves x, a fused norm's output, keeps what the norm saved instead and normalises again in its backward:
    one pass over memory more, one activation of the layer less in memory. Other tensors go to the user's own hooks, if any."""
    node = x.grad_fn
    if not isinstance(node, BatchNormAct._backward_cls) or x._version:
        return contextlib.nullcontext()
    outer = torch._C._autograd._top_saved_tensors_default_hooks(True)
    # Checkpointing counts what is saved and asked for; and hooks may be forbidden.
    if not torch._C._autograd._saved_tensors_hooks_is_enabled() or (outer and outer[0].__module__ == "torch.utils.checkpoint"):
        return contextlib.nullcontext()
    pointer, shape = x.data_ptr(), x.shape

    def pack(t: Tensor) -> tuple:
        if t.data_ptr() == pointer and t.shape == shape:
            return None, node
        return (outer[1], outer[0](t)) if outer else (None, t)

    def unpack(kept: tuple) -> Tensor:
        unpack_outer, value = kept
        if unpack_outer is not None:
            return unpack_outer(value)
        return rebuild(value) if value is node else value

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
