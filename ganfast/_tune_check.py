"""Whether the tuner's candidates compute the right thing, asked on the first call of each measured question: a library's wrong kernel
becomes a warning instead of a wrong network.

A `Check` sees each candidate's results and then names the wrong ones. What a result may be off by follows from its dtype and the length
of its sums, never from what other candidates got, so that all of them can be found wrong.
"""

import contextlib
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from ganfast._tell import tell

WRONG = "WrongResult"  # the first word of such a reason in Choice.failed


class Check:
    """fallback: what runs where every candidate is wrong; None: the default does, for want of anything else. call_fallback: gives its
    results."""

    fallback: str | None = None
    call_fallback: Callable[[], object] | None = None

    def prepare(self) -> None:
        """Before the first call of any candidate."""

    def see(self, name: str, result: object) -> None:
        """A candidate's results, right after its first call. Candidates that compile call this from threads of their own."""
        raise NotImplementedError

    def wrong(self) -> dict[str, str]:
        """The wrong candidates that were seen, and by how much."""
        raise NotImplementedError

    def fallback_off(self) -> str | None:
        """How wrong the fallback is, None where it is right: it may be the very call of the library that was found wrong."""
        if self.call_fallback is None:
            return None
        self.see(self.fallback, self.call_fallback())
        return self.wrong().get(self.fallback)


class Guard:
    """A check, or none, whose own errors (its float64 takes memory) end no call of the user: what it could not compare is not compared.
    failed: the first of them, as `Choice.failed` has it."""

    def __init__(self, check: Check | None, question: str) -> None:
        self.check, self.question, self.failed, self.ready = check, question, {}, check is not None

    def _attempt(self, step: Callable[[], object]) -> object:
        try:
            return step() if self.ready else None
        except Exception as error:  # memory that is short comes as three types, and any error here is the check's alone
            why = f"not compared: {type(error).__name__}: {error}".splitlines()[0]
            self.failed = self.failed or {"the check": why}
            tell(f"{self.question.split(' | ')[0]}: ways to compute it were {why}. The fastest runs all the same", "not compared")

    def prepare(self) -> None:
        self._attempt(lambda: self.check.prepare())
        self.ready = self.ready and not self.failed

    def see(self, name: str, result: object) -> None:
        self._attempt(lambda: self.check.see(name, result))

    def wrong(self) -> dict[str, str]:
        return self._attempt(lambda: self.check.wrong()) or {}

    def fallback_off(self) -> str | None:
        return self._attempt(lambda: self.check.fallback_off())


def warn(question: str, wrong: dict[str, str], left: list[str], last: str | None) -> None:
    """One sentence for each op and way that is wrong, once a process: a network has many layers of the same kind. left: the ways that are
    right; last: what runs where there is none."""
    if last is None:
        instead = f"{', '.join(left)} remain"
    else:
        instead = f"no way is right here; {last} runs, {wrong[last]}" if last in wrong else f"{last} runs instead"
    for name, why in wrong.items():
        used = "runs for want of a right one" if name == last else "is not used for it"
        misread = question.startswith("group ") and name == "fused"
        cause = "ganfast, which may have misread what the group computes, or of a library" if misread else "the library behind it"
        tell(
            f"{name} computes {question.split(' | ')[0]} wrong on this machine, and {used}: {why}; {instead}. It is a fault of "
            f"{cause} or of its setting. `ganfast doctor --tuning` lists every such case",
            f"wrong {question.split(' x (')[0]} {name}",
        )


def roundoff(dtype: torch.dtype) -> float:
    """The largest relative error of one rounding to nearest."""
    return torch.finfo(dtype).eps / 2


def product_roundoff(x: Tensor) -> float:
    """What the user allows a convolution in float32 to lose of each factor: TF32 keeps 10 bits of it, bfloat16 7, and some units cut
    off where others round."""
    if x.dtype != torch.float32:
        return 0.0
    precision = (torch.backends.cudnn if x.is_cuda else torch.backends.mkldnn).conv.fp32_precision
    return {"tf32": 2.0**-10, "bf16": 2.0**-7}.get(precision, 0.0)


def usable(*tensors: Tensor | None, zeros: bool = False) -> list[bool]:
    """Which of them can show a fault: finite, not all zero (unless `zeros`), and of a size whose sums and products neither overflow nor
    vanish in their dtype."""
    given = [t for t in tensors if t is not None and t.numel()]
    if not given:
        return [True] * len(tensors)
    sizes = iter(torch.stack([t.abs().amax().double() for t in given]).tolist())  # one wait for the device
    answers = []
    for t in tensors:
        size = next(sizes) if t is not None and t.numel() else None
        reach = 2.0**8 if t is not None and t.dtype == torch.float16 else 1e12
        answers.append(size is None or (zeros and size == 0) or 1 / reach <= size <= reach)
    return answers


def random_like(t: Tensor) -> Tensor:
    """Normal numbers in t's memory layout, without a draw from the user's generators."""
    return torch.empty_like(t).normal_(generator=torch.Generator(t.device).manual_seed(0))


def in_double(t: Tensor, shaken: torch.dtype | None = None) -> Tensor:
    """A leaf of the same values; `shaken`: each moved by a roundoff of that dtype."""
    double = t.detach().double()
    if shaken is not None:
        double = double * (1 + roundoff(shaken) * random_like(double))
    return double.requires_grad_(t.requires_grad)


class Cotangent:
    """The same random gradient for the output of every way: ones would cancel in a norm, and hide pixels in each other's places."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def __call__(self, y: Tensor) -> Tensor:
        if self.value is None:
            self.value = random_like(y.detach())
        return self.value.to(y.dtype)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def unseen():
    """Inside, a user's own hooks (checkpointing, offloading) do not see what is saved."""
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is None:
        return contextlib.nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is)


def trial(way: Callable[..., Tensor], inputs: list, learns: bool, gradient: Cotangent) -> list[Tensor | None]:
    """One run of a way, for `Ways`: its output, and the gradients of those inputs that require one."""
    with torch.set_grad_enabled(learns), unseen():
        y = way(*inputs)
        leaves = [t for t in inputs if isinstance(t, Tensor) and t.requires_grad]
        return [y, *torch.autograd.grad(y, leaves, gradient(y), allow_unused=True)] if leaves else [y]


def excess(got: Tensor, want: Tensor, allowed: Tensor) -> tuple[float, float, float] | None:
    """(error, allowed, wanted) where got is off by more than it may, at the worst place; None where it holds. Nothing is asked where
    `want` or `allowed` is not finite."""
    error = (got.to(want.dtype) - want).abs()
    ratio = torch.where(want.isfinite() & allowed.isfinite(), (error / allowed).nan_to_num(torch.inf), 0)
    if got.numel() == 0 or not ratio.max() > 1:
        return None
    at = ratio.flatten().argmax()
    return error.flatten()[at].item(), allowed.flatten()[at].item(), want.flatten()[at].item()


class Ways(Check):
    """Of ways that run whole layers, forward and backward, whose parts have checks of their own. Two ways that agree are right; where
    they differ, the same layers in float64 decide.

    results: lists of output and gradients (None for one that is not there), of the same meaning in every way. exact(shaken) gives them
    in float64; shaken: from inputs moved by the roundoff of `dtype`, the dtype that the ways compute in. inputs: what the ways read at
    each call, so that `prepare` may put random numbers in place of an x that shows nothing: zeros, NaN.

    Errors are of whole tensors, ||got - want|| / ||want||. A ReLU whose input is within rounding of 0 may fall on either side, and one
    such element of n moves a gradient by some n**-0.5; hence FLOOR (the worst right one of some 700 random chains was off by 0.37 in
    bfloat16). What rounding does beyond that (a norm over nearly equal values) the shaken run shows: SHAKES times as much may be the
    error, as it moves the inputs alone, where a way also rounds the values in between.
    """

    FLOOR: ClassVar = {torch.float64: 1e-6, torch.float32: 0.05, torch.float16: 0.25, torch.bfloat16: 0.5}
    SHAKES = 16.0

    def __init__(self, inputs: list, exact: Callable[[bool], list[Tensor | None]], dtype: torch.dtype) -> None:
        self.inputs, self.exact, self.floor, self.results = inputs, exact, self.FLOOR[dtype], {}

    def prepare(self) -> None:
        x = self.inputs[0]
        if not all(usable(x)):
            self.inputs[0] = random_like(x.detach()).requires_grad_(x.requires_grad)

    def see(self, name: str, result: list[Tensor | None]) -> None:
        self.results[name] = [None if t is None else t.detach() for t in result]

    def wrong(self) -> dict[str, str]:
        if len(self.results) < 2:
            return {}
        first, *others = self.results.values()
        if all(off <= self.floor / 2 for other in others for off in _distances(other, first)):
            return {}
        want = self.exact(False)
        allowed = [self.floor + self.SHAKES * off for off in _distances(self.exact(True), want)]
        found = {}
        for name, result in self.results.items():
            off = _distances(result, want)
            if (i := next((i for i in range(len(off)) if off[i] > allowed[i]), None)) is not None:
                what = "the output" if i == 0 else f"gradient {i} of {len(want) - 1}"
                found[name] = f"{what} is off by {off[i]:.2g} of its size from the same layers in float64, allowed {allowed[i]:.2g}"
        return found


def _distances(got: list[Tensor | None], want: list[Tensor | None]) -> list[float]:
    """||got - want|| / ||want|| of each. That of a vector's gradient counts as a tenth of the largest at least, element by element: a bias
    before a norm has one that is nothing but rounding."""
    largest = max(map(_size, want[1:]), default=0.0)
    leasts = [0.1 * largest if i and t is not None and t.dim() == 1 else 0.0 for i, t in enumerate(want)]
    return [_distance(a, b, least) for a, b, least in zip(got, want, leasts, strict=True)]


def _size(t: Tensor | None) -> float:
    return 0.0 if t is None or not t.numel() else t.double().norm().item() / t.numel() ** 0.5


def _distance(got: Tensor | None, want: Tensor | None, least: float) -> float:
    """0 where the size of `want` is not finite, as nothing can be said."""
    if got is None or want is None:
        return 0.0 if got is want else torch.inf
    size = max(_size(want), least)
    if size != size or size == torch.inf:
        return 0.0
    off = _size(got.detach().double() - want.detach().double())
    return 0.0 if off == 0 else torch.inf if off != off or size == 0 else off / size
