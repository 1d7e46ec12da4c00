"""The twelve activations: names, parameters, what a backward needs, and each formula in plain torch; and one with two parameters.

The compiled kernels hold the same table in `csrc/common/activations.h`; a test compares the two by value.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Activation:
    """One activation: its name, the default of its parameter (None: it has none), and whether y alone gives f'."""

    name: str
    default_alpha: float | None
    grad_from_y: bool  # with a positive float alpha; a tensor alpha always needs the pre-activation


_TABLE = [
    Activation("linear", None, True),
    Activation("relu", None, True),
    Activation("leaky_relu", 0.01, True),
    Activation("prelu", 0.25, True),
    Activation("tanh", None, True),
    Activation("sigmoid", None, True),
    Activation("elu", 1.0, True),
    Activation("selu", None, True),
    Activation("softplus", 1.0, True),
    Activation("silu", None, False),
    Activation("gelu", None, False),
    Activation("snake", 1.0, False),
]
ACTIVATIONS = {a.name: a for a in _TABLE}
PIECEWISE_LINEAR = ("relu", "leaky_relu", "prelu")

# z + sin(alpha z)^2 / beta (Lee et al. 2023): taken by the ops that are one pass over values, bias_act and filtered_act. Its alpha is
# [2, C], what `snake_beta_numbers` makes of both.
SNAKE_BETA = "snake_beta"
_TINY = 1e-9  # BigVGAN's: a beta of 0 gives a large number, none that is not finite


def snake_beta_numbers(alpha: Tensor, beta: Tensor, log_scale: bool) -> Tensor:
    """[2, C]: the frequency, and what the squared sine is multiplied by; of [C] each, differentiable. log_scale: both are logarithms."""
    if log_scale:
        alpha, beta = alpha.exp(), beta.exp()
    return torch.stack([alpha, (beta + _TINY).reciprocal()])


def saves_y(act: str, alpha: Tensor | None, alpha_value: float) -> bool:
    """True where the backward needs only the output: then the pre-activation is never stored."""
    entry = ACTIVATIONS.get(act)
    return entry is not None and entry.grad_from_y and alpha is None and (entry.default_alpha is None or alpha_value > 0)


def saved_form(act: str, alpha: Tensor | None, alpha_value: float, open_output: bool, residual: str = "", factor: float = 1.0) -> str:
    """What the backward of an activation reads: "y", "z" (the pre-activation), or "signs", in place of y where others may change it before
    the backward. linear reads nothing, whatever this says. A residual added "last" hides z, a factor of 0 or below its sign, one far
    from 1 its digits."""
    if act != "linear" and (not saves_y(act, alpha, alpha_value) or not 1 / 16 <= factor <= 16):
        return "z"
    if act == "linear" or not (open_output or residual == "last"):
        return "y"
    return "signs" if act in PIECEWISE_LINEAR else "z"


def signs_of(y: Tensor, act: str) -> Tensor:
    """Where the slope is 1, as bools; y the output of a piecewise linear activation with a slope of 0 (relu) or above 0."""
    return y != 0 if act == "relu" else y > 0  # relu's slope is 1 at NaN, as in act_grad


def _column(alpha: Tensor | None, alpha_value: float, z: Tensor) -> Tensor | float:
    return alpha_value if alpha is None else alpha.to(z.dtype).view(*alpha.shape[:-1], 1, -1, *[1] * (z.dim() - 2))


def act_fwd(z: Tensor, act: str, alpha: Tensor | None = None, alpha_value: float = 0.0) -> Tensor:
    """f(z) for z of shape [N, C, ...]; `alpha` [C] takes precedence over `alpha_value`. Differentiable to any order."""
    return with_number(z, act, alpha_value) if alpha is None else with_tensor(z, act, _column(alpha, alpha_value, z))


# The next three in what torch.jit.script compiles: the layers' scripts call them.


def default_alpha(act: str) -> float:
    """The table's default; any number where an activation has none."""
    if act == "leaky_relu":
        return 0.01
    return 0.25 if act == "prelu" else 1.0


def with_number(z: Tensor, act: str, a: float) -> Tensor:
    """f(z), z of any shape."""
    if act == "linear":
        return z
    if act == "relu":
        return torch.relu(z)
    if act == "leaky_relu" or act == "prelu":
        return F.leaky_relu(z, a)
    if act == "tanh":
        return torch.tanh(z)
    if act == "sigmoid":
        return torch.sigmoid(z)
    if act == "elu":
        return torch.where(z > 0, z, a * torch.expm1(z.clamp(max=0)))
    if act == "selu":
        return F.selu(z)
    if act == "softplus":
        return F.softplus(z, a)
    if act == "silu":
        return F.silu(z)
    if act == "gelu":
        return F.gelu(z)
    if act == "snake":
        return z if a == 0 else z + torch.sin(a * z) ** 2 / a
    raise AssertionError(act)


def with_tensor(z: Tensor, act: str, a: Tensor) -> Tensor:
    """f(z); `a` is of z's dtype and broadcasts to its shape; of snake_beta two such behind each other."""
    if act == "leaky_relu" or act == "prelu":
        return torch.where(z > 0, z, a * z)
    if act == "elu":
        return torch.where(z > 0, z, a * torch.expm1(z.clamp(max=0)))
    if act == "softplus":
        t = a * z
        return torch.where(t > 20, z, F.softplus(t) / a)
    if act == "snake":
        safe = torch.where(a == 0, torch.ones_like(a), a)
        return torch.where(a == 0, z + a * z * z, z + torch.sin(a * z) ** 2 / safe)  # the series keeps d/dalpha at 0
    if act == "snake_beta":
        return z + a[1] * torch.sin(a[0] * z) ** 2
    raise AssertionError(act)


_IN_PLACE = {"relu": torch.relu_, "tanh": torch.tanh_, "sigmoid": torch.sigmoid_, "selu": torch.selu_}


def activate(z: Tensor, act: str, alpha: Tensor | None, alpha_value: float) -> Tensor:
    """f(z), z itself where linear; fewer of torch's kernels where act_fwd's differentiable formula takes more. No gradients."""
    if act in ("leaky_relu", "prelu") and alpha is not None:
        return torch.prelu(z, alpha.to(z.dtype))
    if act == "snake" and alpha is not None:
        a = _column(alpha, alpha_value, z)
        return torch.addcmul(z, (a * z).sin_().square_(), torch.where(a == 0, torch.ones_like(a), a).reciprocal())
    if act == SNAKE_BETA:
        a = _column(alpha, alpha_value, z)
        return torch.addcmul(z, (a[0] * z).sin_().square_(), a[1])
    return act_fwd(z, act, alpha, alpha_value)


def activate_(z: Tensor, act: str, alpha: Tensor | None, alpha_value: float) -> Tensor:
    """f(z), overwriting z where torch has the in-place form; else a new tensor."""
    if act in _IN_PLACE:
        return _IN_PLACE[act](z)
    if act in ("leaky_relu", "prelu") and alpha is None:
        return F.leaky_relu_(z, alpha_value)
    if act == "elu" and alpha is None:
        return F.elu_(z, alpha_value)
    return activate(z, act, alpha, alpha_value)


_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_ALPHA = 1.6732632423543772848170429916717


def act_grad(saved: Tensor, act: str, alpha: Tensor | None, alpha_value: float, from_y: bool) -> Tensor:
    """f'(z) from the saved output (`from_y`) or pre-activation, written in differentiable torch: the second order
    follows by autograd, through the saved tensor's own graph."""
    a = _column(alpha, alpha_value, saved)
    if act == "linear":
        return torch.ones_like(saved)
    if act == "relu":
        return (~(saved <= 0)).to(saved.dtype)  # 1 at NaN, as torch's own backward and the compiled kernels have it
    if act in ("leaky_relu", "prelu"):
        positive = (saved > 0).to(saved.dtype)
        return positive + (1 - positive) * a
    if act == "tanh":
        y = saved if from_y else torch.tanh(saved)
        return 1 - y * y
    if act == "sigmoid":
        y = saved if from_y else torch.sigmoid(saved)
        return y * (1 - y)
    if act == "elu":
        below = saved + a if from_y else a * torch.exp(saved.clamp(max=0))
        return torch.where(saved > 0, torch.ones_like(saved), below)
    if act == "selu":
        below = saved + _SELU_SCALE * _SELU_ALPHA if from_y else _SELU_SCALE * _SELU_ALPHA * torch.exp(saved.clamp(max=0))
        return torch.where(saved > 0, torch.full_like(saved, _SELU_SCALE), below)
    if act == "softplus":
        if from_y:
            return -torch.expm1(-a * saved)
        slope = torch.sigmoid(a * saved)
        # With a tensor alpha the forward selects z beyond 20: of an infinite g nothing may reach the second order there.
        return slope if alpha is None else torch.where(a * saved > 20, slope.detach(), slope)
    if act == "silu":
        s = torch.sigmoid(saved)
        return s * (1 + saved * (1 - s))
    if act == "gelu":
        return 0.5 * (1 + torch.erf(saved * 0.5**0.5)) + saved * torch.exp(-0.5 * saved * saved) * 0.39894228040143267794
    if act == "snake":
        return 1 + torch.sin(2 * a * saved)
    if act == SNAKE_BETA:
        return 1 + a[1] * a[0] * torch.sin(2 * a[0] * saved)
    raise AssertionError(act)


def act_alpha_grad(z: Tensor, act: str, alpha: Tensor) -> Tensor:
    """df/dalpha at every element of the pre-activation z [N, C, ...], differentiable; alpha is [C], or [2, C] and so is what is given."""
    a = _column(alpha, 0.0, z)
    if act in ("leaky_relu", "prelu"):
        return torch.where(z > 0, torch.zeros_like(z), z)
    if act == "elu":
        return torch.where(z > 0, torch.zeros_like(z), torch.expm1(z.clamp(max=0)))
    if act == "softplus":
        t = a * z
        return torch.where(t > 20, torch.zeros_like(z), (z * torch.sigmoid(t) - F.softplus(t) / a) / a)
    if act == "snake":
        safe = torch.where(a == 0, torch.ones_like(a), a)
        return torch.where(a == 0, z * z, (z * torch.sin(2 * a * z) - torch.sin(a * z) ** 2 / safe) / safe)
    if act == SNAKE_BETA:
        return torch.stack([a[1] * z * torch.sin(2 * a[0] * z), torch.sin(a[0] * z) ** 2])
    raise AssertionError(act)


def act_bwd(g: Tensor, saved: Tensor, act: str, alpha: Tensor | None, alpha_value: float, from_y: bool) -> Tensor:
    """g * f'(z), differentiable to any order, by one of torch's kernels where it has one. Where relu is off the result is 0 whatever
    arrives, as in torch: a product would make NaN of an infinite g. Where f' is piecewise constant it is so for autograd too; torch's
    own formula hands zeros down instead, which _autograd.reaching does at less cost."""
    if act == "linear":
        return g
    if act == "relu":
        return torch.ops.aten.threshold_backward(g, saved.detach(), 0)
    if act in ("leaky_relu", "prelu"):
        if alpha is None:
            return torch.ops.aten.leaky_relu_backward(g, saved.detach(), alpha_value, False)
        on = saved > 0
        return torch.where(on, g, _column(alpha, alpha_value, saved) * torch.where(on, 0.0, g))
    if act == "tanh" and from_y:
        return torch.ops.aten.tanh_backward(g, saved)
    if act == "sigmoid" and from_y:
        return torch.ops.aten.sigmoid_backward(g, saved)
    return g * act_grad(saved, act, alpha, alpha_value, from_y)


def act_alpha_bwd(g: Tensor, z: Tensor, act: str, alpha: Tensor) -> Tensor:
    """g * df/dalpha at every element, differentiable; 0 whatever arrives where f does not depend on alpha."""
    if act in ("leaky_relu", "prelu", "elu"):
        g = torch.where(z > 0, 0.0, g)
    elif act == "softplus":
        g = torch.where(_column(alpha, 0.0, z) * z > 20, 0.0, g)
    return g * act_alpha_grad(z, act, alpha)


def has_one_kernel(act: str, from_y: bool) -> bool:
    """Whether act_bwd with a float alpha is one of torch's kernels, which round once in every dtype."""
    return act in PIECEWISE_LINEAR or (act in ("tanh", "sigmoid") and from_y)
