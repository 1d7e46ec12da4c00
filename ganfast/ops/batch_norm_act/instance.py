"""`instance_norm_act`: the passes of batch norm, with each image's statistics its own."""

import math

import torch
from torch import Tensor

from ganfast import _backends, _checks
from ganfast._autograd import kept
from ganfast._layout import is_channels_last
from ganfast._memo import Memo
from ganfast.ops.batch_norm_act import modulated_op
from ganfast.ops.batch_norm_act.autograd import Spec
from ganfast.ops.batch_norm_act.op import Plan, choose, modulated, remembered, run

_OP = "instance_norm_act"
_plans = Memo()  # key -> Plan


def instance_norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    act: str = "linear",
    alpha: float | Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    residual_first: bool = False,
    factor: float = 1.0,
    backend: str | None = None,
) -> Tensor:
    """y = act((x - mean) / sqrt(var + eps) * weight + bias), mean and biased variance of each image's each channel:
    ``F.instance_norm`` on x's own statistics, and the activation in one pass.

    With ``scale`` and ``shift``, from outside: y = act(norm(x) * scale + shift), adaptive instance norm (AdaIN). With ``residual``:
    y = (act(...) + residual) * factor, or, with ``residual_first``, y = act(... + residual) * factor.

    Shapes:
        x [N, C, *spatial], 1-D to 3-D, or unbatched [C, L]; weight, bias [C]; alpha a float, [1] or [C]. Unbatched x of more
        dimensions look like batches: ``InstanceNormAct2d`` and ``3d`` take them, here they want ``x.unsqueeze(0)``.
        scale, shift [N, C] or x's shape, both the same; residual x's shape.
    Dtypes: x float32, bfloat16, float16, float64; the vectors any floating dtype; residual, and scale and shift of x's shape, x's.
        Statistics and sums are float32 (float64 for float64); y is rounded once.
    Layout: contiguous and channels_last in, the same out; neither is copied, but by the `torch` backend. Tensors of x's shape in
        another layout than x are right, and copied to x's.
    Grads: x, weight, bias, alpha, scale, shift, residual, to any order, through the statistics.
    Raises: TypeError, ValueError for what the shapes above forbid, for one value per image and channel and for scale without shift;
        RuntimeError where a named backend cannot run.
    Source: Ulyanov, Vedaldi & Lempitsky 2016; Huang & Belongie 2017 (AdaIN); Chan, Golub & LeVeque 1979 for the merging of statistics.
    """
    wanted = _backends.requested(_OP, backend)
    plan = remembered(_plans, planned, x, weight, bias, eps, act, alpha, wanted, scale, shift, residual, residual_first, factor)
    return run_instance(plan, x, weight, bias, alpha, scale, shift, residual)


def run_instance(plan: Plan, x: Tensor, weight, bias, alpha: float | Tensor | None, scale=None, shift=None, residual=None) -> Tensor:
    """The call, checked and decided."""
    weight = kept(weight) if torch.is_grad_enabled() else weight  # torch keeps a copy too
    return run(plan, x, weight, bias, alpha, scale=scale, shift=shift, residual=residual)


def planned(
    x, weight, bias, eps, act, alpha, backend=None, scale=None, shift=None, residual=None, residual_first=False, factor=1.0
) -> Plan:  # fmt: skip
    """Every check, then every decision."""
    _checks.check_tensor(_OP, "x", x)
    _checks.check_floating(_OP, "x", x)
    if not 2 <= x.dim() <= 5:
        _checks.fail(_OP, f"x has {x.dim()} dimensions, wants 3 to 5: [N, C, *spatial], or 2: [C, L]")
    unbatched = x.dim() == 2
    channels = x.shape[0 if unbatched else 1]
    meaning = "channels" if unbatched else "channels, as x is read as [N, C, *spatial]; one image alone wants x.unsqueeze(0)"
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector is not None:
            _checks.check_vector(_OP, name, vector, channels, x, meaning)
    if eps < 0:
        _checks.fail(_OP, f"eps is {eps}, wants no negative number")
    alpha, alpha_value = _checks.check_activation(_OP, act, alpha, channels, x)
    if math.prod(x.shape[1 if unbatched else 2 :]) == 1:
        _checks.fail(_OP, f"x has one value per image and channel (shape {tuple(x.shape)}), wants more to normalise",
                     "Leave the norm out where images have shrunk to one pixel")  # fmt: skip
    modulates = modulated_op.check(_OP, x, scale, shift, residual, residual_first, factor)
    # An image alone is a batch whose statistics are the image's.
    per_image = not unbatched and x.shape[0] > 1
    spec = Spec(act, alpha_value, True, eps, is_channels_last(x), choose(_OP, backend, x), per_image)
    return Plan(spec, 0 if unbatched else None, modulated(spec, channels, residual_first, factor) if modulates else None)
