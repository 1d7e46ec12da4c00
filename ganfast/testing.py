"""The oracle: how far from a float64 reference a backend may be.

A result passes when its largest error is at most

    2 * (largest error of plain torch in the same dtype) + FLOORS[dtype] * eps * scale        scale = max |reference|

so the budget follows what the dtype and the size of the sum cost anybody, and cannot be tuned case by case. The floor is
for results where plain torch is exact or lucky.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["FLOORS", "Case", "Report", "assert_close_to_reference", "check", "named", "nan_filled"]

# float32 and float64 results carry the rounding of their own sum, which grows with its length and differs with its order;
# 16-bit results are a float32 sum rounded once. Beyond twice plain torch's error, the rows of tests/conv_transpose_act reach
# 15 eps * scale in float32 (a bias gradient over 3,003 pixels), 7 in float64, where plain torch and the reference are the
# same, 0.42 in bfloat16 and less in float16.
FLOORS = {torch.float64: 32.0, torch.float32: 32.0, torch.bfloat16: 1.0, torch.float16: 1.0}


@dataclass(frozen=True)
class Case:
    """A named row of a test or benchmark table; an op's own rows subclass it with their sizes."""

    name: str

    def __str__(self) -> str:
        return self.name


C = TypeVar("C", bound=Case)


def named(*rows: C) -> list[C]:
    """The rows as a list; refuses two of one name, as a failure or a figure could then be either's."""
    names = [row.name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"named: rows of the same name: {', '.join(twice)}")
    return list(rows)


@dataclass(frozen=True)
class Report:
    """What `check` found. `error`, `plain_error` and `allowed` are absolute; `problem` is empty for a pass."""

    name: str
    error: float
    plain_error: float
    allowed: float
    scale: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem

    def __str__(self) -> str:
        if self.problem:
            return f"{self.name}: {self.problem}"
        return f"{self.name}: largest error {self.error:.3g}, allowed {self.allowed:.3g}"


def check(name: str, got: Tensor, plain: Tensor, reference: Tensor) -> Report:
    """Judges `got` by the rule above, without raising.

    Shapes: all three the same. Dtypes: `reference` float64, computed from the same inputs; `plain`, torch's own result, has
    the dtype of `got` (for a float64 `got` it may be the reference itself). NaN and infinities must be where the reference
    has them.
    """
    nothing = float("nan")
    refuse = lambda problem: Report(name, nothing, nothing, nothing, nothing, problem)
    if reference.dtype != torch.float64:
        raise TypeError(f"check: the reference of {name} has dtype {reference.dtype}, wants torch.float64")
    if plain.shape != reference.shape or plain.dtype not in FLOORS:
        raise ValueError(f"check: plain {name} is {plain.dtype} {tuple(plain.shape)}, the reference {tuple(reference.shape)}")
    if got.dtype != plain.dtype:
        return refuse(f"dtype {got.dtype}, plain torch gives {plain.dtype}")
    if got.shape != reference.shape:
        return refuse(f"shape {tuple(got.shape)}, wants {tuple(reference.shape)}")
    if got.numel() == 0:
        return Report(name, 0.0, 0.0, 0.0, 0.0)

    got64, plain64, reference = (t.detach().to("cpu", torch.float64) for t in (got, plain, reference))
    finite = reference.isfinite()
    misplaced = ~finite & ~((got64 == reference) | (got64.isnan() & reference.isnan())) | finite & ~got64.isfinite()
    if misplaced.any():
        at = tuple(misplaced.nonzero()[0].tolist())
        return refuse(
            f"{got64[at].item()} at {list(at)} where the reference has {reference[at].item():.6g}; "
            f"{int(misplaced.sum())} of {got.numel()} elements like this"
        )
    zero = torch.zeros_like(reference)
    errors = torch.where(finite, got64 - reference, zero).abs()
    plain_errors = torch.where(finite & plain64.isfinite(), plain64 - reference, zero).abs()
    scale = torch.where(finite, reference, zero).abs().max().item()
    eps, floor = torch.finfo(got.dtype).eps, FLOORS[got.dtype]
    error, plain_error = errors.max().item(), plain_errors.max().item()
    allowed = 2 * plain_error + floor * eps * scale
    problem = ""
    if error > allowed:
        at = tuple(torch.unravel_index(errors.argmax(), errors.shape))
        place = [int(i) for i in at]
        problem = (
            f"largest error {error:.3g} at {place} (got {got64[at].item():.9g}, reference {reference[at].item():.9g}), "
            f"allowed {allowed:.3g} = 2 * {plain_error:.3g} of plain torch + {floor:g} * eps {eps:.3g} * scale {scale:.3g}; "
            f"{int((errors > allowed).sum())} of {got.numel()} elements over"
        )
    return Report(name, error, plain_error, allowed, scale, problem)


def assert_close_to_reference(*results: tuple[str, Tensor, Tensor, Tensor]) -> list[Report]:
    """`check` for each (name, got, plain, reference); raises one AssertionError that names every tensor that fails."""
    reports = [check(*result) for result in results]
    failed = [report for report in reports if not report.passed]
    if failed:
        raise AssertionError("\n".join(str(report) for report in failed))
    return reports


@contextlib.contextmanager
def nan_filled() -> Iterator[None]:
    """Inside, every fresh floating tensor of Python and of C++ starts as NaN: an element no kernel wrote shows."""
    mode, fill = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = fill
