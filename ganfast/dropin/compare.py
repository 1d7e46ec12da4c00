"""`compare`: a user's own model, eager against ganfast, like for like."""

import contextlib
import copy
import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ganfast import _checks, _memory
from ganfast._layout import dense
from ganfast._place import has_bf16_units
from ganfast._timing import interleaved
from ganfast._tune_check import random_like
from ganfast.dropin.accelerate import accelerate, check_model, restore
from ganfast.dropin.explain import Explanation, explain

_OP = "compare"
_TRAIN, _EVAL = "train: forward + backward", "eval: forward"
_LIKE, _MIXED = "like for like", "bfloat16 autocast + channels_last"
_GAIN, _NOISY = 1.03, 0.3  # what is worth a line of a user's code; a spread that hides such a gain
_PATIENCE = 1.6  # so many times the seconds that were asked for, copying and tuning included, no further row is begun


class Measured(NamedTuple):
    """One mode and one way to run it.

    eager, ganfast: seconds, medians of rounds in which both took turns; eager_peak, ganfast_peak: bytes beyond the model and its
    inputs; output_error, gradient_error: the largest difference from the reference over the largest value of the same tensor (see
    `_worst`), of ganfast, with eager's own beside it (0 where eager is the reference).
    """

    mode: str
    way: str
    eager: float
    ganfast: float
    spread: float
    eager_peak: int
    ganfast_peak: int
    output_error: float
    eager_output_error: float
    gradient_error: float | None
    eager_gradient_error: float | None

    @property
    def ratio(self) -> float:
        """How many times faster ganfast is."""
        return self.eager / self.ganfast


class Comparison:
    """What `compare` found; prints as a report.

    like_for_like: Measured rows at the model's own dtype and layout; mixed: the same under bfloat16 autocast in channels_last, both
    sides; reference: what errors are taken against; layers: `explain`'s answer;
    notes: what could not be measured, and why.
    """

    def __init__(self, about: str, reference: str) -> None:
        self.about, self.reference = about, reference
        self.like_for_like: list[Measured] = []
        self.mixed: list[Measured] = []
        self.layers: Explanation | None = None
        self.notes: list[str] = []
        self.seconds = 0.0

    def __str__(self) -> str:
        pair = lambda eager, ours: "-" if ours is None else f"{ours:.1e}" if not eager else f"{eager:.1e} -> {ours:.1e}"
        cells = [("", "eager", "ganfast", "ratio", "peak memory", "output error", "gradient error")]
        for row in (*self.like_for_like, *self.mixed):
            errors = pair(row.eager_output_error, row.output_error), pair(row.eager_gradient_error, row.gradient_error)
            noisy = " (noisy)" if row.spread > _NOISY else ""
            times = (f"{row.eager * 1e3:.3g} ms", f"{row.ganfast * 1e3:.3g} ms", f"{row.ratio:.2f}x{noisy}")
            peaks = f"{row.eager_peak / 2**20:.1f} -> {row.ganfast_peak / 2**20:.1f} MiB"
            cells.append((f"{row.mode}, {row.way}", *times, peaks, *errors))
        widths = [max(map(len, column)) for column in zip(*cells)]
        lines = [self.about, "", *("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells)]
        lines += [
            f"errors: eager -> ganfast, against {self.reference}, over each tensor's largest value; where relu or leaky_relu meets a",
            "value within rounding of 0, either may take the other side, and gradients differ by that one term",
        ]
        return "\n".join([*lines, *self.notes, "", str(self.layers), "", f"took {self.seconds:.0f} s", self.advice()])

    __repr__ = __str__

    def advice(self) -> str:
        """What to do, for each mode that was measured: the simplest way that is as fast as any, and what the others gain."""
        said = []
        for plain in self.like_for_like:
            ways, noisy = {"leave it as it is": 1.0, "ganfast.accelerate": plain.ratio}, plain.spread > _NOISY
            for mixed in (row for row in self.mixed if row.mode == plain.mode):
                ways |= {_MIXED: plain.eager / mixed.eager, f"{_MIXED} + ganfast.accelerate": plain.eager / mixed.ganfast}
                noisy = noisy or mixed.spread > _NOISY
            best = next(way for way, gain in ways.items() if gain * _GAIN >= max(ways.values()))
            more = [f"{way} {gain:.2f}x" for way, gain in ways.items() if way not in (best, "leave it as it is")]
            more = ", ".join([*more, "noisy, measure longer"] if noisy else more)
            said.append(f"{plain.mode}: {best}, {ways[best]:.2f}x as fast as now{f' ({more})' * bool(more)}")
        return "what to do: " + "; ".join(said)


class _Side:
    """One copy of the model with its own inputs: eager or ganfast, in one mode and one way to run."""

    def __init__(self, model: nn.Module, inputs: tuple, training: bool, mixed: bool) -> None:
        self.model = model.train(training)
        self.training, self.mixed = training, mixed
        for t in (*model.parameters(), *model.buffers()) if mixed else ():
            t.data = _channels_last(t.data)
        self.inputs = pytree.tree_map_only(Tensor, self._input, inputs)
        self.wanted = [p for p in model.parameters() if p.requires_grad]
        self.wanted += [t for t in pytree.tree_leaves(self.inputs) if isinstance(t, Tensor) and t.requires_grad]
        self.device = next((t.device.type for t in (*model.parameters(), *model.buffers())), "cpu")
        self.gy: list[Tensor] | None = None

    def _input(self, t: Tensor) -> Tensor:
        t = (_channels_last(t) if self.mixed else t).detach().clone()
        return t.requires_grad_(self.training and t.is_floating_point())

    def __call__(self) -> tuple[list[Tensor], list[Tensor | None]]:
        """(the output's floating tensors in order, gradients of parameters and inputs)"""
        autocast = torch.autocast(self.device, torch.bfloat16) if self.mixed else contextlib.nullcontext()
        with torch.set_grad_enabled(self.training), autocast:
            y = self.model(*self.inputs)
        outputs = [t for t in pytree.tree_leaves(y) if isinstance(t, Tensor) and t.is_floating_point()]
        if not outputs:
            _checks.fail(_OP, "the model gives no floating tensor", "A model whose output torch's pytree knows: tensors, tuples, dicts")
        learning = [t for t in outputs if t.requires_grad and self.training]
        if not learning or not self.wanted:
            return outputs, []
        self.gy = self.gy or [random_like(t) for t in learning]
        return outputs, list(torch.autograd.grad(learning, self.wanted, self.gy, allow_unused=True))


def _channels_last(t: Tensor) -> Tensor:
    return dense(t, True) if t.dim() in (4, 5) and t.is_floating_point() else t


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy. torch's older weight_norm and spectral_norm leave a tensor with a graph on its module, which no copy can take and
    the next forward makes anew: the copy has the same one until then."""
    made_anew = {id(t): t for module in model.modules() for t in vars(module).values() if isinstance(t, Tensor) and not t.is_leaf}
    try:
        return copy.deepcopy(model, made_anew)
    except Exception as error:
        _checks.fail(_OP, f"model cannot be copied: {type(error).__name__}: {error}", "compare runs on copies")


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """The same random numbers for every run, and the caller's generator as it was."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        yield


def _worst(got: list, reference: list) -> float:
    """The largest difference over the tensor's largest value; over the largest of all tensors where the reference cancels to
    nothing, as the gradient of a bias before a batch norm does."""
    pairs = [(a.detach().double(), b.detach().double()) for a, b in zip(got, reference, strict=True) if a is not None and b is not None]
    pairs = [(a, b, b.abs().max().item()) for a, b in pairs if b.numel()]
    largest = max((scale for _, _, scale in pairs), default=0.0) or 1.0
    return max(((a - b).abs().max().item() / (scale if scale > 1e-6 * largest else largest) for a, b, scale in pairs), default=0.0)


def compare(model: nn.Module, *inputs, seconds: float = 12.0, recompute: bool = False) -> Comparison:
    """Measures what ``accelerate`` would do for a model, on its own inputs; the model and its training mode stay as they are.

    Like for like: eager and ganfast at the model's own dtype and layout, train (forward, and backward to parameters and inputs) and
    eval; and both under bfloat16 autocast in channels_last. Training's rows come first, bfloat16 before the other; what the time does
    not allow is named with the seconds to ask for. Rivals take turns in one process; the first calls, which the tuner uses, are not
    timed. Errors are against eager in float64, or against eager as it is where the model draws random numbers.

    Args:
        model: an accelerated model or a plain one; inputs: what its forward takes, tensors or not, on the model's device.
        seconds: about how long to measure; copying, tuning and first calls come on top. Positive.
        recompute: as ``accelerate``.
    Returns: a Comparison; ``print`` it.
    Raises: TypeError for what is no module, and for scripted or compiled ones; ValueError where the model cannot be copied, or seconds;
        RuntimeError with the model's own words where it refuses the inputs.
    """
    check_model(_OP, model)
    if not isinstance(model, nn.Module):
        _checks.fail(_OP, f"model is a {type(model).__name__}, wants a torch.nn.Module", "Call what makes one", TypeError)
    if not 0 < seconds < math.inf:
        _checks.fail(_OP, f"seconds is {seconds}, wants a positive number")
    began = time.perf_counter()
    plain = restore(_copy(model))
    tensors = [t for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor)]
    if not inputs:
        _checks.fail(_OP, "no inputs were given", "compare(model, *inputs) runs the model on them")
    with _seeded():
        state = torch.get_rng_state()
        try:
            _Side(_copy(plain), inputs, True, False)()
            # Random numbers would be others in float64.
            random, start = not torch.equal(state, torch.get_rng_state()), time.perf_counter()
            _Side(_copy(plain), inputs, False, False)()
            one = time.perf_counter() - start
        except Exception as error:
            _checks.fail(_OP, f"the model refuses these inputs: {type(error).__name__}: {error}", error=RuntimeError)
    dtypes = {t.dtype for t in (*plain.parameters(), *tensors) if t.is_floating_point()}
    halves = dtypes <= {torch.float32}
    exact = not random and halves and 8 * one < seconds
    shapes = ", ".join(f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors)
    device = tensors[0].device if tensors else torch.device("cpu")
    mixable = halves and has_bf16_units(torch.device(device))
    found = Comparison(f"{type(model).__name__} on {shapes or 'its inputs'}, {device}", "eager in float64" if exact else "eager itself")
    if not mixable:
        why = "this processor has no units for bfloat16, and torch is many times slower in it" if halves else "the model is no float32 one"
        found.notes.append(f"{_MIXED} not measured: {why}")
    # Training's two rows say what bfloat16 would add, and are always measured; evaluation's where there is time left.
    rows = [(mode, mixed) for mode in (_TRAIN, _EVAL) for mixed in (True, False) if mixable or not mixed]
    took = {}
    for mode, mixed in rows:
        start = time.perf_counter()
        if mode == _EVAL and start > began + _PATIENCE * seconds:
            break
        left = max(0.5, (began + seconds - start) / (len(rows) - len(took)))
        row, fast = _measure(plain, inputs, mode, mixed, exact, left, recompute)
        (found.mixed if mixed else found.like_for_like).append(row)
        took[mode, mixed] = time.perf_counter() - start
        if not mixed:
            found.layers = found.layers or explain(fast)
    found.seconds = time.perf_counter() - began
    if missing := rows[len(took) :]:
        names = " and ".join(f"{mode}, {_MIXED if mixed else _LIKE}" for mode, mixed in missing)
        more = sum(took[_TRAIN, mixed] for _, mixed in missing)  # an evaluation takes less than a training step
        enough = 10 * math.ceil((found.seconds + more) / 10)
        found.notes.append(f"not measured, as the {seconds:g} s are up: {names}; seconds={enough} (--seconds {enough}) is enough for all")
    return found


def _measure(plain, inputs, mode: str, mixed: bool, exact: bool, seconds: float, recompute: bool) -> tuple[Measured, nn.Module]:
    training = mode == _TRAIN
    models = {"eager": _copy(plain), "ganfast": accelerate(_copy(plain), recompute=recompute)}
    sides = {name: _Side(model, inputs, training, mixed) for name, model in models.items()}
    results = {name: _seeded()(side)() for name, side in sides.items()}
    reference = results["eager"]
    if exact:
        double = pytree.tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, inputs)
        side = _Side(_copy(plain).double(), double, training, False)
        side.gy = sides["eager"].gy and [t.double() for t in sides["eager"].gy]
        reference = _seeded()(side)()
    eager_errors, errors = (
        (_worst(outputs, reference[0]), _worst(gradients, reference[1]) if gradients else None) for outputs, gradients in results.values()
    )
    del results, reference
    timings = interleaved(dict(sides), repeats=50, warmup=1, seconds=seconds / 2, at_least=3)
    peaks = {name: _memory.peak_bytes(side, side.device) for name, side in sides.items()}
    row = Measured(
        mode, _MIXED if mixed else _LIKE, timings["eager"].median, timings["ganfast"].median, max(t.spread for t in timings.values()),
        peaks["eager"], peaks["ganfast"], errors[0], eager_errors[0], errors[1], eager_errors[1],
    )  # fmt: skip
    return row, models["ganfast"]
