"""What `auto` runs: a static rule where nothing may be measured, else the tuner's answer among what can run here.

The rule holds what was measured on a CPU (README.md in this folder): `cpu` where torch's convolutions reach a fraction of the
matrix rate, for one input pixel in one group, few output channels, and the weight gradients of 1-D and 3-D layers; `torch` elsewhere,
for the half types' few channels as a convolution and a pixel shuffle (the `cpu` backend's columns are float32, at half the rate).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _backends, _tune
from ganfast._memo import Memo
from ganfast.ops.conv_transpose_act import grouped, kernels, sampled, torch_backend, torch_faults


class Spec(NamedTuple):
    """The constants of one call. The user's choice of backend is settled before autograd sees it (a CUDA backward runs on other
    threads); a grad_backend of "auto" asks the tuner when the gradient is first wanted. So does a backend of "auto", in the spec of an
    ordinary convolution, whose data gradient this transposed convolution is."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    act: str
    alpha_value: float
    channels_last: bool
    save_z: bool  # the pre-activation, where the derivative does not follow from y
    partials: bool
    backend: str
    act_backend: str
    grad_backend: str
    keep_signs: bool = False  # of y, in place of y
    residual: str = ""  # where it is added: "first" or "last"
    factor: float = 1.0

    def linear(self) -> "Spec":
        return self._replace(act="linear", alpha_value=0.0, save_z=False, partials=False, keep_signs=False, residual="", factor=1.0)


_FEW_CHANNELS = 8
_settled = Memo()  # (pass, what a gradient call looks like) -> backend


def _other_layout(channels_last: bool, dims: int) -> list[str]:
    """Torch's kernels on copies in the other memory format: on a CPU one of them is often twice as fast."""
    return [] if dims == 1 else ["torch/nchw" if channels_last else "torch/nhwc"]


def _wider(x: Tensor) -> list[str]:
    """Torch's kernels on copies in float32."""
    return ["torch/float32"] if not torch.compiler.is_compiling() and torch_faults.emulates(x) else []


def _flip(weight: Tensor, spec: Spec) -> list[str]:
    """Torch's transposed convolutions of many groups take up to 1.6 times as long as the ordinary one that one of stride 1 is."""
    geometry = (spec.stride, spec.padding, spec.output_padding, spec.dilation)
    return ["torch/flip"] if spec.groups > 1 and grouped.can_flip(weight.shape[2:], *geometry) else []


def _signature(name: str, x: Tensor, weight: Tensor, spec: Spec) -> tuple[str, str]:
    """(the tuner's question, its family)"""
    sizes = f"w {tuple(weight.shape)} s{spec.stride} p{spec.padding} o{spec.output_padding} d{spec.dilation} g{spec.groups}"
    layouts = f"{'nhwc' if spec.channels_last else 'nchw'}, weight {'contiguous' if weight.is_contiguous() else 'channels_last'}"
    rest = f"{sizes} {x.dtype} {layouts}".replace("torch.", "")
    return f"{name} x {tuple(x.shape)} {rest}", f"{name} {rest}"


def _shuffles(x: Tensor, weight: Tensor, spec: Spec) -> bool:
    geometry = (spec.stride, spec.padding, spec.output_padding, spec.dilation, spec.groups)
    return weight.shape[1] <= _FEW_CHANNELS and torch_backend.can_shuffle(x.shape[2:], weight.shape[2:], *geometry)


def static_forward(x: Tensor, weight: Tensor, spec: Spec) -> str:
    if _backends.first_fused(x) != "cpu":
        return "torch"
    if x[0, 0].numel() == 1 and spec.groups == 1:
        return "cpu"
    if weight.shape[1] * spec.groups > _FEW_CHANNELS or x.dim() == 3:
        return "torch"
    return "torch/shuffle" if x.itemsize == 2 and _shuffles(x, weight, spec) else "cpu"


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, alpha: Tensor | None, spec: Spec) -> tuple[str, bool]:
    """(backend, whether that is final); x and weight dense, x not empty."""
    rule = static_forward(x, weight, spec)
    fused = _backends.first_fused(x)
    if fused == "torch" or torch.compiler.is_compiling():
        return rule, not torch.compiler.is_compiling()
    wide = grouped.configurations(x, weight, spec.groups)[:2]
    names = [rule, "torch", *wide, fused]
    if fused == "cpu":
        names += _wider(x) + _other_layout(spec.channels_last, x.dim() - 2)
        names += [] if wide else _flip(weight, spec)
        names += ["torch/shuffle"] if _shuffles(x, weight, spec) else []
    else:
        if _backends.reason("cuda", x.device) is None:
            names.append("cuda")
        if fused == "triton":
            from ganfast.ops.conv_transpose_act import triton

            names.remove("triton")
            tiles = triton.configurations(
                x, weight, spec.stride, spec.padding, spec.output_padding, spec.dilation, spec.groups, spec.channels_last,
                spec.save_z or bool(spec.residual),
            )  # fmt: skip
            names += [f"triton/{tile}" for tile in tiles]
    names = list(dict.fromkeys(names))[: _tune.MOST]
    inputs = [None if t is None else t.detach() for t in (x, weight, bias, alpha)]
    run = lambda name: kernels.fwd(
        *inputs, spec.stride, spec.padding, spec.output_padding, spec.dilation, spec.groups, spec.act, spec.alpha_value,
        spec.channels_last, spec.save_z, spec.partials, name,
    )  # fmt: skip
    question, family = _signature("conv_transpose_act", x, weight, spec)
    detail = f", {spec.act}{' and z' if spec.save_z else ''}{' and partials' if spec.partials else ''}"
    detail += ", residual" if fused == "triton" and spec.residual else ""  # which not every tile takes
    detail += ", unaligned" if x.is_cuda and x.data_ptr() % 16 else ""
    size = kernels.output_size(x.shape[2:], weight.shape[2:], spec.stride, spec.padding, spec.output_padding, spec.dilation)
    check = sampled.Outputs(inputs, size, spec, True, run)
    return _tune.choose(question + detail, {name: lambda name=name: run(name) for name in names}, x, family + detail, check)


def conv_transpose(x: Tensor, weight: Tensor, spec: Spec) -> str:
    """The backend of a transposed convolution that is the data gradient of an ordinary one: it is first asked in a backward."""
    if torch.compiler.is_compiling():
        return static_forward(x, weight, spec)
    key = _transposed_key(x, weight, spec)
    if (known := _settled.get(key)) is not None:
        return known
    chosen, final = forward(x, weight, None, None, spec)
    if final:
        _settled[key] = chosen
    return chosen


def _transposed_key(x: Tensor, weight: Tensor, spec: Spec) -> tuple:
    # A tile for TF32 is none for exact float32, one for aligned memory none for any other.
    kernels_of = (torch.backends.cudnn.conv.fp32_precision, x.data_ptr() % 16) if x.is_cuda else None
    return "T", _tune.off_reason(), x.shape, x.dtype, x.device, kernels_of, weight.shape, weight.stride(), spec


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, alpha: Tensor | None, size: list[int], spec: Spec) -> tuple[str, bool]:
    """(backend of an ordinary convolution's forward, whether that is final); x and weight dense, x not empty."""
    names = _ways(x, weight, size, False, spec)
    if len(names) == 1 or torch.compiler.is_compiling():
        return names[0], not torch.compiler.is_compiling()
    inputs = [None if t is None else t.detach() for t in (x, weight, bias, alpha)]
    run = lambda name: kernels.conv(
        *inputs, spec.stride, spec.padding, spec.dilation, spec.groups, spec.act, spec.alpha_value, spec.channels_last,
        spec.save_z, name,
    )  # fmt: skip
    question, family = _signature("conv_act", x, weight, spec)
    detail = f", {spec.act}{' and z' if spec.save_z else ''}"
    check = sampled.Outputs(inputs, size, spec, False, run)
    return _tune.choose(question + detail, {name: lambda name=name: run(name) for name in names}, x, family + detail, check)


def together(gz: Tensor, x: Tensor, weight: Tensor, spec: Spec) -> bool:
    """Whether one call of torch's makes both gradients of an ordinary convolution x -> gz: each alone is best made by torch as it is, and
    torch's own layer is to be trusted."""
    if torch.compiler.is_compiling() or spec.backend != "auto" or spec.grad_backend != "auto" or gz.shape[0] == 0:
        return False
    transposed = _transposed_key(gz, weight, spec)
    key = ("both", x.shape, transposed)
    if (known := _settled.get(key)) is not None:
        return known
    ways = [conv_transpose(gz, weight, spec), weight_grad(x, gz, weight, spec)]
    half = x.device.type == "cpu" and x.itemsize == 2 and torch_faults.lacks_kernels(x.dtype)
    geometry = (spec.stride, spec.padding, spec.dilation, spec.groups)
    by_torch = ways == ["torch", "torch"] and not half and not torch_faults.layer(x, gz, weight, *geometry, False, True)
    if transposed in _settled and _gradient_key(_WEIGHT, x, weight, spec) in _settled:  # both final
        _settled[key] = by_torch
    return by_torch


_DATA, _WEIGHT = "data gradient of conv_transpose_act", "weight gradient of conv_transpose_act"


def _gradient_key(name: str, gz: Tensor, weight: Tensor, spec: Spec) -> tuple:
    return name, _tune.off_reason(), gz.shape, gz.dtype, gz.device, weight.shape, weight.stride(), spec


def _gradient(name: str, gz: Tensor, weight: Tensor, spec: Spec, input_size, asked: Callable[[], tuple]) -> str:
    """asked: how a candidate is run, and what its results are compared with; only where the answer is not known."""
    if torch.compiler.is_compiling() or gz.shape[0] == 0:
        return _ways(gz, weight, input_size, name == _WEIGHT, spec)[0]
    key = _gradient_key(name, gz, weight, spec)
    if (known := _settled.get(key)) is not None:
        return known
    names = _ways(gz, weight, input_size, name == _WEIGHT, spec)
    if len(names) == 1:
        _settled[key] = names[0]
        return names[0]
    run, check = asked()
    question, family = _signature(name, gz, weight, spec)
    calls = {candidate: lambda candidate=candidate: run(candidate) for candidate in names}
    chosen, final = _tune.choose(question, calls, gz, family, check)
    if final:
        _settled[key] = chosen
    return chosen


def _ways(gz: Tensor, weight: Tensor, input_size, for_weight: bool, spec: Spec) -> list[str]:
    """Those of an ordinary convolution and of the gradients, the static choice first. On a GPU they are torch's."""
    wide = [] if torch.compiler.is_compiling() else grouped.configurations(gz, weight, spec.groups)
    if _backends.first_fused(gz) != "cpu":
        return ["torch", *(wide if gz.is_cuda else [])]
    one_pixel = all(length == 1 for length in input_size) and spec.groups == 1
    rule = "cpu" if one_pixel or (for_weight and gz.dim() != 4) else "torch"
    return list(dict.fromkeys([rule, "torch", "cpu", *_wider(gz), *_other_layout(spec.channels_last, gz.dim() - 2), *wide]))


def data_grad(gz: Tensor, weight: Tensor, input_size, spec: Spec) -> str:
    def asked():
        inputs = [gz.detach(), weight.detach(), None, None]
        run = lambda backend: kernels.data_grad(
            *inputs[:2], spec.stride, spec.padding, spec.dilation, spec.groups, input_size, spec.channels_last, backend
        )
        return run, sampled.Outputs(inputs, input_size, spec.linear(), False, run)

    return _gradient(_DATA, gz, weight, spec, input_size, asked)


def weight_grad(gz: Tensor, x: Tensor, weight: Tensor, spec: Spec) -> str:
    def asked():
        inputs = [gz.detach(), x.detach()]
        run = lambda backend: kernels.weight_grad(
            *inputs, weight, spec.stride, spec.padding, spec.dilation, spec.groups, spec.channels_last, backend
        )
        return run, sampled.WeightGradient(inputs, weight, spec, run)

    return _gradient(_WEIGHT, gz, weight, spec, x.shape[2:], asked)
