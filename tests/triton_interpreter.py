"""What the interpreted Triton tests share. They want a process of their own: TRITON_INTERPRET is read when triton is imported."""

import importlib

import pytest
import torch
from torch import Tensor

from ganfast._activations import ACTIVATIONS


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Fails where the interpreter is off, and puts NaN wherever a kernel forgets to write."""
    from ganfast import _triton

    reason = _triton.unavailable_reason(torch.device("cpu"))
    assert reason is None, f"{reason}: run these as `TRITON_INTERPRET=1 pytest -m triton tests/`"
    plain = _triton.empty
    unwritten = lambda t: t.fill_(float("nan") if t.is_floating_point() else 77)  # 77 is no sign
    monkeypatch.setattr(_triton, "empty", lambda *args, **kwargs: unwritten(plain(*args, **kwargs)))
    precision = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    yield
    torch.backends.cudnn.conv.fp32_precision = precision


def backend(op: str):
    """The op's Triton module; imported here, not by the test modules, so that collecting them imports no triton."""
    return importlib.import_module(f"ganfast.ops.{op}.triton")


def in_layout(x: Tensor, channels_last: bool) -> Tensor:
    if not channels_last:
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


def assert_layout(y: Tensor, channels_last: bool) -> None:
    memory_format = torch.contiguous_format
    if channels_last:
        memory_format = torch.channels_last if y.dim() == 4 else torch.channels_last_3d
    assert y.is_contiguous(memory_format=memory_format), y.stride()


def assert_close(got: Tensor, want: Tensor, what: str, floor: float = 16.0, scale: float = 0.0) -> None:
    """want is float64. Allowed: the rounding to got's dtype and `floor` float32 roundings, both of the largest value, or of `scale`
    where the result is a small difference of larger values."""
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, wanted {tuple(want.shape)}"
    assert not got.isnan().any(), f"{what}: {int(got.isnan().sum())} of {got.numel()} elements were never written"
    scale = max(scale, want.abs().max().item())
    rounding = 0.0 if got.dtype == torch.float32 else torch.finfo(got.dtype).eps
    allowed = (floor * torch.finfo(torch.float32).eps + rounding) * scale
    error = (got.double() - want).abs().max().item()
    assert error <= allowed, f"{what}: largest error {error:.3g}, allowed {allowed:.3g}"


def assert_partials(stats, y):
    """Merged over the tiles, the partials give the statistics of y as it was rounded; empty tiles hold zeros."""
    assert not stats.isnan().any()
    n, mean, m2 = stats.double().unbind(1)
    values = y.double().movedim(1, 0).flatten(1)
    assert (n.sum(0) == values.shape[1]).all(), "each element counted once"
    assert (stats[:, 1:].movedim(1, -1)[n == 0] == 0).all()
    merged = (n * mean).sum(0) / n.sum(0)
    assert_close(merged.float(), values.mean(1), "mean")
    assert_close(((m2 + n * (mean - merged) ** 2).sum(0) / n.sum(0)).float(), values.var(1, correction=0), "variance")


ALPHAS = {"leaky_relu": 0.2, "prelu": 0.3, "elu": 1.3, "softplus": 1.5, "snake": 0.7}
# beyond softplus's threshold on both sides, where tanh saturates, at 0, and close to it
VALUES = [-90.0, -30.0, -12.0, -4.0, -1.0, -0.6, -0.4, -1e-3, -1e-6, 0.0, 1e-6, 1e-3, 0.3, 0.6, 1.0, 4.0, 13.4, 20.5, 30.0, 90.0]
ACTS = [(act, t) for act in ACTIVATIONS for t in (False, True) if not t or act in ALPHAS]


def activation_input(act, tensor_alpha):
    """z [1, 4, 4, 5] holding VALUES in every channel, and alpha [4], which for snake holds a 0."""
    z = torch.tensor(VALUES).expand(4, -1).reshape(1, 4, 4, 5).contiguous()
    if not tensor_alpha:
        return z, None
    return z, torch.tensor([0.25, 1.0, 1.75, 0.0 if act in ("snake", "prelu", "leaky_relu") else 3.0])


def relative(got, want, what):
    """Element by element: a small value must be right to its own digits."""
    assert not got.isnan().any(), what
    error = (got.double() - want).abs()
    assert (error <= 1e-6 * want.abs() + 1e-12).all(), f"{what}: {(error / (want.abs() + 1e-12)).max().item():.3g}"
