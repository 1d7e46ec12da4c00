"""The rivals of one row: the same network in both layouts, eager, compiled and ganfast, and the float64 answer they are held to."""

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.cases import MAX_AUTOTUNE
from benchmarks.machine import DEVICE

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WHO = ("eager", "compile", "max-autotune", "ganfast")
DEFAULT = "default"  # eager as it comes, in rows whose own dtype, layout or optimizer a user has to ask for
BY_HAND = ("eager-frozen", "eager-captured")  # training steps: eager with what a user can add without ganfast's kernels
BASELINES = ("plain-eager", "plain-ganfast")  # the same without what the row is about, timed beside it
FORWARD, INFERENCE, FIRST_ORDER, SECOND_ORDER = "fwd", "inference", "fwd+bwd", "second order"
_KINKED = (nn.ReLU, nn.LeakyReLU, nn.PReLU)


class Subject(NamedTuple):
    """A row's two networks with equal parameters in the same order, and its input: float32, on the CPU, contiguous. others: further ways to
    write the eager one, by name; the faster counts."""

    eager: nn.Module
    fused: nn.Module
    x: Tensor
    others: Mapping[str, nn.Module] = MappingProxyType({})


def takes_max_autotune(case, dtype: str, mode: str) -> bool:
    return case.name in MAX_AUTOTUNE and dtype == "bf16" and mode == FIRST_ORDER


def layouts(dims: int) -> dict[str, torch.memory_format]:
    """Both memory formats for `dims` spatial dimensions; with fewer than two there is one."""
    last = {2: torch.channels_last, 3: torch.channels_last_3d}.get(dims)
    return {"nchw": torch.contiguous_format} | ({"nhwc": last} if last else {})


class Call:
    """One pass through a network, its inputs ready; calling it gives named tensors: "y", "g0" (of x), "g1", ... (of parameters).

    fwd, inference: without gradients. fwd+bwd: gradients of x and all parameters for `gy`. second order: those of the squared norm of
    x's gradient, as a gradient penalty takes them.
    """

    def __init__(self, model: nn.Module, x: Tensor, gy: Tensor | None, mode: str) -> None:
        self.model, self.gy, self.mode = model, gy, mode
        self.x = x.detach().requires_grad_(gy is not None)
        self.inputs = [self.x, *model.parameters()]

    def compiled(self, **options) -> "Call":
        self.model = torch.compile(self.model, dynamic=False, **options)
        return self

    def __call__(self) -> dict[str, Tensor]:
        if self.gy is None:
            with torch.no_grad():
                return {"y": self.model(self.x)}
        y = self.model(self.x)
        if self.mode == SECOND_ORDER:
            (gx,) = torch.autograd.grad(y, self.x, self.gy, create_graph=True)
            found = torch.autograd.grad(gx.square().sum(), self.inputs, materialize_grads=True)
        else:
            found = torch.autograd.grad(y, self.inputs, self.gy)
        return {"y": y.detach()} | {f"g{i}": g for i, g in enumerate(found)}


def _rounding(dtype: torch.dtype) -> float:
    """Relative error to expect of a pre-activation in units of its largest: long float32 sums, or TF32, or 16 bits."""
    if dtype == torch.bfloat16:
        return 4 * torch.finfo(dtype).eps
    return 2.0**-8 if DEVICE == "cuda" and torch.backends.cudnn.allow_tf32 else 32 * torch.finfo(dtype).eps


class Problem:
    """A subject at one dtype and mode: makes its calls, and knows the right answer."""

    def __init__(self, subject: Subject, dtype: torch.dtype, mode: str) -> None:
        self.subject, self.dtype, self.mode = subject, dtype, mode
        self.x = subject.x.to(DEVICE, dtype)
        exact = copy.deepcopy(subject.eager).to(DEVICE, dtype).double()
        self.gy = None if mode in (FORWARD, INFERENCE) else self._output_gradient(copy.deepcopy(exact))
        self.reference = Call(exact, self.x.double(), None if self.gy is None else self.gy.double(), mode)()

    def _output_gradient(self, exact: nn.Module) -> Tensor:
        """Random, but zero where the pre-activation is within rounding of a kink: which side of it an element falls on is
        nobody's error, yet one element is enough to break a budget made of errors."""
        with torch.no_grad():
            kinked = isinstance(exact, nn.Sequential) and isinstance(exact[-1], _KINKED)
            z = (exact[:-1] if kinked else exact)(self.x.double())
        gy = torch.randn(z.shape).to(DEVICE, self.dtype)
        if hasattr(exact, "apart_from_kinks"):  # inside; in 16 bits eager meets as many as ganfast
            return gy * exact.apart_from_kinks(self.x.double(), _rounding(self.dtype)) if self.dtype == torch.float32 else gy
        return gy * (z.abs() > _rounding(self.dtype) * z.abs().max()) if kinked else gy

    def call(self, fused: bool, fmt: torch.memory_format, form: str = "") -> Call:
        model = self.subject.others[form] if form else self.subject.fused if fused else self.subject.eager
        model = copy.deepcopy(model).to(DEVICE, self.dtype)
        if fmt != torch.contiguous_format:
            model = model.to(memory_format=fmt)
        arrange = lambda t: t if t is None or t.dim() < 4 else t.contiguous(memory_format=fmt)
        return Call(model, arrange(self.x), arrange(self.gy), self.mode)

    def calls(self, who: tuple[str, ...], dims: int) -> dict[str, Callable[[], dict[str, Tensor]]]:
        """By name, eager-nchw ... ganfast-nhwc: each in every layout; the compiled ones in the last one only, channels_last where
        there is one, as a compilation takes seconds to minutes."""
        found = {}
        for layout, fmt in layouts(dims).items():
            found |= {f"{name}-{layout}": self.call(name == "ganfast", fmt) for name in ("eager", "ganfast") if name in who}
            found |= {f"eager-{form}-{layout}": self.call(False, fmt, form) for form in self.subject.others if "eager" in who}
        if "compile" in who:
            found[f"compile-{layout}"] = self.call(False, fmt).compiled()
        if "max-autotune" in who:  # its own CUDA graphs off: the timer replays a graph of every rival
            found[f"max-autotune-{layout}"] = self.call(False, fmt).compiled(mode="max-autotune-no-cudagraphs")
        return found


def who_and_layout(name: str) -> tuple[str, str]:
    """("max-autotune", "nhwc") of "max-autotune-nhwc"; ("eager", "") of "eager"."""
    who = next((w for w in (*BY_HAND, *WHO, DEFAULT, *BASELINES) if name == w or name.startswith(f"{w}-")), name)
    return who, name[len(who) + 1 :]
