"""The parameters of snake and snake_beta, as the ops that take both are given them: floats or vectors, on a logarithmic scale or not."""

import math

import torch
from torch import Tensor

from ganfast import _checks
from ganfast._activations import SNAKE_BETA, snake_beta_numbers


def numbers(op: str, act: str, alpha, beta, log_scale: bool, channels: int, x: Tensor):
    """The op's alpha: of snake what was given, of snake_beta [2, C] (`_activations.snake_beta_numbers`). Differentiable."""
    if not isinstance(log_scale, bool):
        _checks.fail(op, f"log_scale is {log_scale!r}, wants a bool", error=TypeError)
    if act == "snake" and beta is None:
        if not log_scale:
            return alpha
        alpha = 0.0 if alpha is None else alpha
        if isinstance(alpha, Tensor):
            return _vector(op, "alpha", alpha, channels, x).exp()
        return math.exp(_checks.check_number(op, "alpha", alpha))
    if act != SNAKE_BETA:
        given = "log_scale" if beta is None else "beta"
        _checks.fail(op, f"{given} was given, but act={act!r} has none", "snake_beta has both, snake has log_scale")
    one = 0.0 if log_scale else 1.0
    return snake_beta_numbers(
        *[_vector(op, n, one if v is None else v, channels, x) for n, v in (("alpha", alpha), ("beta", beta))], log_scale
    )


def _vector(op: str, name: str, value, channels: int, x: Tensor) -> Tensor:
    """[C], in the accumulation dtype."""
    acc = torch.promote_types(x.dtype, torch.float32)
    if not isinstance(value, Tensor):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            _checks.fail(op, f"{name} is {value!r}, wants a float, or a tensor [1] or [{channels}]", error=TypeError)
        return x.new_full((channels,), _checks.check_number(op, name, value), dtype=acc)
    value = _checks.per_channel(value, channels)
    _checks.check_vector(op, name, value, channels, x)
    return value.to(acc)
