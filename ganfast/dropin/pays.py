"""Whether a group runs as one or as torch's own calls: small ones on a CPU can be faster so, and the two are measured."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ganfast import _backends, _timing, _tune, _tune_check
from ganfast._autograd import autocast_dtype, here
from ganfast._layout import is_channels_last
from ganfast.dropin.groups import Group
from ganfast.dropin.nodes import each
from ganfast.dropin.weights import Together
from ganfast.ops.conv_transpose_act import kernels, torch_faults

_MARGIN = 0.05  # a group's own Python costs more between other calls than where it is timed
_SHORT = 0.02  # seconds of a graph
_GUARDS = 40e-6  # seconds that dynamo's guards take a call, of which a module is free where no group runs as one


def fused_pays(group: Group, x: Tensor, operands: tuple[Tensor, ...]) -> tuple[bool, bool]:
    """(the tuner's answer for tensors that look like these, whether that is final). True where nothing may be measured, where a backend is
    named, on a GPU, where every call less is a launch less, and under a gradient penalty, whose second backward no trial runs."""
    group.question = ""
    off = _tune.off_reason() or _backends.requested("accelerate", None) != "auto" or here.twice
    if off or group.spec.recompute or x.device.type != "cpu" or x.numel() == 0 or _torch_is_wrong(group, x, operands):
        return True, True
    return _measured(group, x, operands)


def _torch_is_wrong(group: Group, x: Tensor, operands: tuple[Tensor, ...]) -> bool:
    """torch 2.13 on a CPU: instance_norm has a wrong gradient for a channels_last batch of one; a convolution's gradients can be wrong in
    16 bits, or break the heap, measured or not."""
    spec, dtype = group.spec, autocast_dtype(x) or x.dtype
    if spec.conv is not None and _convolution_is_wrong(spec, x, operands[0], dtype):
        return True
    if spec.norm is None or spec.norm["kind"] != "instance" or x.dim() < 4 or x.shape[0] != 1 or not torch.is_grad_enabled():
        return False
    return any(is_channels_last(t) for t in (x, *operands) if t.dim() == x.dim())


def _convolution_is_wrong(spec, x: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    dims, given, kernel = weight.dim() - 2, spec.conv, weight.shape[2:]
    stride, dilation = each(given.get("stride", 1), dims), each(given.get("dilation", 1), dims)
    padding = given.get("padding", 0)
    if isinstance(padding, str):
        padding = [d * (k - 1) // 2 * (padding == "same") for d, k in zip(dilation, kernel)]
    padding = each(padding, dims)
    size = [length * s for length, s in zip(x.shape[2:], spec.scale or (1,) * dims)]
    if spec.transposed:
        channels = weight.shape[1] * given["groups"]
        out = kernels.output_size(size, kernel, stride, padding, each(given["output_padding"], dims), dilation)
    else:
        channels = weight.shape[0]
        out = kernels.conv_output_size(size, kernel, stride, padding, dilation)
    one = torch.empty(1, dtype=dtype, device=x.device)
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    looks = one.expand(*x.shape[:2], *size), one.expand(x.shape[0], channels, *out)
    return torch_faults.layer(*looks, weight, stride, padding, dilation, given["groups"], spec.transposed, learns)


def _leaf(t: Any, learns: bool) -> Any:
    return t.detach().requires_grad_(t.requires_grad and learns) if isinstance(t, Tensor) else t


def whole_pays(question: str, family: str, fused: Callable, plain: Callable, args: tuple, writes: set[int]) -> bool:
    """Whether a whole graph is faster with its fused groups than without them. Each group was timed alone, where its Python is warm from
    the run before; between other calls it costs more. `writes`: the places of the arguments that the graph writes to, of which every run
    gets copies. Long graphs are not asked, as there Python is little. A graph that cannot be run twice keeps its groups."""
    learns = torch.is_grad_enabled()
    given = [_leaf(t, learns) for t in args]
    leaves = [t for t in given if isinstance(t, Tensor) and t.requires_grad]
    x = next((t for t in given if isinstance(t, Tensor)), None)

    def run(way: Callable) -> None:
        with torch.set_grad_enabled(learns), _tune_check.unseen():
            y = tree_leaves(way(*(t.clone() if i in writes else t for i, t in enumerate(given))))
            y = [t for t in y if isinstance(t, Tensor) and t.requires_grad]
            if leaves and y:
                torch.autograd.grad(y, leaves, [torch.ones_like(t) for t in y], allow_unused=True)

    if x is None:
        return True
    if (known := _tune.settled(question, x)) is not None:  # before the clock, which would find another length today
        return known == "fused"
    with torch.random.fork_rng(devices=[]):
        try:
            if _timing.measure_once(lambda: run(plain)) > _SHORT:
                _tune.settle(question, "fused", x, family)
                return True
            took = _timing.measure_once(lambda: run(plain))
            ways = {"eager": lambda: run(plain), "fused": lambda: run(fused)}
            return _tune.choose(question, ways, x, family, margin=min(_GUARDS / took, 0.5))[0] == "fused"
        except Exception:  # a backward that torch has not, too little memory: nobody asked for this run
            return True


def together_pays(batch: Together, operands: list[Tensor]) -> tuple[bool, bool]:
    """(whether weights are made together, whether that is final): where a group would run as one, else as the tuner says."""
    batch.question, x = "", operands[0]
    if _tune.off_reason() or _backends.requested("accelerate", None) != "auto" or x.device.type != "cpu":
        return True, True
    learns = torch.is_grad_enabled()
    mine = [t.clone() if i in batch.writes else _leaf(t, learns) for i, t in enumerate(operands)]
    leaves = [t for t in mine if t.requires_grad]
    gradients = [torch.ones_like(t) for t in operands[: batch.count]]

    def run(way: Callable) -> None:
        with torch.set_grad_enabled(learns), _tune_check.unseen():
            pairs = [pair for pair in zip(way(*mine), gradients) if pair[0].requires_grad]
            if pairs:
                torch.autograd.grad([y for y, _ in pairs], leaves, [g for _, g in pairs], allow_unused=True)

    about = " ".join(f"{tuple(t.shape)}{'+' if t.requires_grad and learns else ''}" for t in operands)
    words = f"{batch.kind} {batch.options} {len(operands)} {hashlib.sha256(about.encode()).hexdigest()[:16]} {x.dtype}"
    batch.question = f"{words} {'grad' if learns else 'no grad'}".replace("torch.", "")
    name, final = _tune.choose(batch.question, {"eager": lambda: run(batch.plain), "together": lambda: run(batch)}, x)
    batch.ran = batch.ran if name == "together" else "eager"
    return name == "together", final


def _measured(group: Group, x: Tensor, operands: tuple[Tensor, ...]) -> tuple[bool, bool]:
    """On copies of what the group writes to; gradients go nowhere."""
    learns = torch.is_grad_enabled()
    mine = [_leaf(t, learns) for t in (x, *operands)]
    start = {i: mine[i].clone() for i in group.writes}
    mine = [start[i].clone() if i in start else t for i, t in enumerate(mine)]
    gradient, called = _tune_check.Cotangent(), set()

    def run(way, inputs: list[Tensor]) -> list[Tensor | None]:
        found = _tune_check.trial(way, inputs, learns, gradient)
        if (lost := group.lost_bias) is not None and inputs[lost].requires_grad and len(found) > 1:
            found[1 + sum(t.requires_grad for t in inputs[:lost])] = None
        return found[:1] if _norm_takes_all(group, found[0]) else found

    def call(name: str) -> list[Tensor | None]:
        if name not in called:  # the results that are compared: from the same running statistics
            called.add(name)
            for i, t in start.items():
                mine[i].copy_(t)
        return run(group if name == "fused" else group.plain, mine)

    def exact(shaken: bool) -> list[Tensor | None]:
        double = [_tune_check.in_double(start.get(i, t), dtype if shaken and i not in start else None) for i, t in enumerate(mine)]
        return run(group.plain, double)

    dtype = autocast_dtype(x) or x.dtype
    about = [f"{tuple(t.shape)}{'+' if t.requires_grad else ''}" for t in mine[1:]]
    layout = "nhwc" if is_channels_last(x, *(t for t in operands[:1] if t.dim() == x.dim())) else "nchw"
    grads = "grad" if learns else "no grad"
    family = f"group {group.words} {' '.join(about)} {layout} {x.dtype} {mine[0].requires_grad} {grads} {autocast_dtype(x)}"
    group.question = f"{family} x {tuple(x.shape)} {x.stride()}".replace("torch.", "")
    # The first wins ties.
    candidates = {"eager": lambda: call("eager"), "fused": lambda: call("fused")}
    check = _tune_check.Ways(mine, exact, dtype)
    name, final = _tune.choose(group.question, candidates, x, family.replace("torch.", ""), check, margin=_MARGIN)
    return name == "fused", final


def _norm_takes_all(group: Group, y: Tensor) -> bool:
    """Whether next to nothing of a gradient is left behind a norm over so few values but rounding, which no two ways share."""
    norm = group.spec.norm
    return norm is not None and (y if norm["kind"] == "batch" else y[0]).numel() <= 3 * norm.get("groups", y.shape[1])
