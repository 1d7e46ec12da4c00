"""Errors worded once: op, argument, what was received, what is wanted, the likely cause."""

import difflib
import math
from collections.abc import Iterable
from typing import NoReturn

import torch
from torch import Tensor

FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def fail(op: str, message: str, cause: str = "", error: type[Exception] = ValueError) -> NoReturn:
    raise error(f"{op}: {message}." + (f" {cause}." if cause else ""))


_ELSEWHERE = {"lrelu": "leaky_relu", "swish": "silu"}  # what others call some of our names


def nearest(op: str, argument: str, value: object, names: Iterable[str], error: type[Exception] = ValueError) -> NoReturn:
    """Refuses an unknown name and offers the closest valid one."""
    names = list(names)
    raise error(f"{op}: {argument}={value!r} is unknown; valid: {', '.join(names)}.{meant(value, names)}")


def meant(value: object, names: Iterable[str], cutoff: float = 0.4) -> str:
    """A sentence, or nothing where no name is like it."""
    if not isinstance(value, str):
        return ""
    names, known = list(names), _ELSEWHERE.get(value)
    close = [known] if known in names else difflib.get_close_matches(value, names, n=1, cutoff=cutoff)
    return f" Did you mean {close[0]!r}?" if close else ""


def check_tensor(op: str, argument: str, value: object) -> None:
    if not isinstance(value, Tensor):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        cause = "Convert it with torch.from_numpy" if kind == "numpy.ndarray" else ""
        fail(op, f"{argument} is a {kind}, wants a torch.Tensor", cause, TypeError)
    if value.is_nested:
        fail(op, f"{argument} is a nested tensor, wants a plain one", f"nested.to_padded_tensor({argument}, 0.0) makes one", TypeError)
    if value.layout != torch.strided:
        fail(op, f"{argument} has layout {value.layout}, wants torch.strided", f"{argument}.to_dense() makes one", TypeError)


def check_floating(op: str, argument: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOAT_DTYPES:
        images = argument == "x" and not tensor.is_floating_point()
        cause = "Images as integers want scaling to floats first, e.g. x.float() / 127.5 - 1" if images else ""
        fail(op, f"{argument} has dtype {tensor.dtype}, wants float32, bfloat16, float16 or float64", cause, TypeError)


_CAST = "Cast one of them, or run under torch.autocast, which does"
CAST_ONE = "Cast one of them: autocast casts neither"


def check_like(op: str, argument: str, tensor: Tensor, x: Tensor, name: str = "x", cause: str = _CAST) -> None:
    """Same dtype and device as `x`."""
    if tensor.dtype != x.dtype:
        fail(op, f"{argument} has dtype {tensor.dtype}, {name} has {x.dtype}; both must be the same", cause, TypeError)
    check_device(op, argument, tensor, x, name)


def check_device(op: str, argument: str, tensor: Tensor, x: Tensor, name: str = "x") -> None:
    if tensor.device != x.device:
        fail(op, f"{argument} is on {tensor.device}, {name} on {x.device}; all must be on one device")


def check_vector(op: str, argument: str, tensor: object, length: int, x: Tensor, meaning: str = "channels") -> None:
    """A [C] tensor on x's device; `length` is C."""
    check_tensor(op, argument, tensor)
    if tensor.dim() != 1 or tensor.shape[0] != length:
        fail(op, f"{argument} has shape {tuple(tensor.shape)}, wants ({length},), one entry for each of the {length} {meaning}")
    check_floating(op, argument, tensor)
    check_device(op, argument, tensor, x)


def check_number(op: str, argument: str, value: object, cause: str = "") -> float:
    """A finite number, as a float; `cause` where it is a tensor."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        fail(op, f"{argument} is {value!r}, wants a float", cause if isinstance(value, Tensor) else "", TypeError)
    if not -math.inf < value < math.inf:  # torch.compile traces no isfinite of a number that it takes for dynamic
        fail(op, f"{argument} is {value}, wants a finite number")
    return float(value)


def check_residual(
    op: str, residual: object, shape: Iterable[int], x: Tensor, first: object, factor: object, instead: str, cause: str = _CAST
) -> tuple[str, float]:
    """(where it is added: "first", "last" or, without one, "", the factor) of a residual that must look like y: of this shape, and of x's
    dtype and device. instead: what a factor without a residual should have been; cause: of another dtype."""
    if not isinstance(first, bool):
        fail(op, f"residual_first is {first!r}, wants a bool", error=TypeError)
    factor = check_number(op, "factor", factor, "A factor that learns is a multiplication of its own")
    if residual is None:
        if first:
            fail(op, "residual_first is True, but there is no residual", "It says where a residual is added")
        if factor != 1:
            fail(op, f"factor is {factor}, but there is no residual", f"It multiplies the sum with one; {instead}")
        return "", 1.0
    check_tensor(op, "residual", residual)
    shape = tuple(shape)
    if residual.shape != shape:
        cause = ""
        if residual.dim() == len(shape) and all(r in (1, s) for r, s in zip(residual.shape, shape)):
            cause = "Nothing is broadcast: expand it to y's shape"
        elif residual.dim() == len(shape) and len(shape) > 1:
            cause = "A shortcut of other channels or another size wants a projection first"
        fail(op, f"residual has shape {tuple(residual.shape)}, y has {shape}; both must be the same", cause)
    check_like(op, "residual", residual, x, "y", cause)
    return ("first" if first else "last"), factor


LARGEST = 2**31 - 1  # of a factor or a padding: sums and products of a few of them fit in 64 bits


def int_list(op: str, argument: str, value: object, dims: int, least: int) -> list[int]:
    """An int, or `dims` of them, each at least `least`, as a list."""
    if isinstance(value, bool) or not isinstance(value, (int, tuple, list, torch.Size)):
        fail(op, f"{argument} is {value!r}, wants an int or {dims} of them", error=TypeError)
    values = [value] * dims if isinstance(value, int) else list(value)
    if len(values) == 1 and dims > 1:
        values = values * dims
    if len(values) != dims:
        fail(op, f"{argument} has {len(values)} entries, wants {dims}, one for each spatial dimension")
    for v in values:
        if isinstance(v, bool) or not isinstance(v, int):
            fail(op, f"{argument} is {value!r}, wants integers", error=TypeError)
        if v > LARGEST:
            fail(op, f"{argument} is {value!r}, wants at most {LARGEST}")
        if v < least:
            fail(op, f"{argument} is {value!r}, wants {'positive numbers' if least == 1 else 'no negative number'}")
    return values


def check_activation(op: str, act: str, alpha: object, channels: int, x: Tensor) -> tuple[Tensor | None, float]:
    """Splits `alpha` into (per-channel tensor or None, float); a one-element tensor is expanded over the channels."""
    from ganfast._activations import ACTIVATIONS, SNAKE_BETA

    entry = ACTIVATIONS.get(act) if isinstance(act, str) else None
    if act == SNAKE_BETA:
        fail(
            op, f"act={act!r} has two parameters, which bias_act and filtered_act alone take", "Call this with act='linear', then bias_act"
        )
    if entry is None:
        nearest(op, "act", act, ACTIVATIONS)
    if alpha is None:
        return None, entry.default_alpha or 0.0
    if entry.default_alpha is None:
        with_alpha = ", ".join(a.name for a in ACTIVATIONS.values() if a.default_alpha is not None)
        fail(op, f"alpha was given, but act={act!r} has no parameter", f"Activations with one: {with_alpha}")
    if isinstance(alpha, Tensor):
        alpha = per_channel(alpha, channels)
        check_vector(op, "alpha", alpha, channels, x)
        return alpha, 0.0
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        check_tensor(op, "alpha", alpha)
    if act == "softplus" and alpha <= 0:
        fail(op, f"alpha is {alpha}, softplus wants a positive one (torch's beta)")
    return None, float(alpha)


def per_channel(alpha: Tensor, channels: int) -> Tensor:
    """A one-element alpha expanded over the channels."""
    return alpha.reshape(1).expand(channels) if alpha.numel() == 1 and alpha.dim() <= 1 else alpha
