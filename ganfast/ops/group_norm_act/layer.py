"""`layer_norm_act`: a group norm of rows, one group each."""

import math

from torch import Size, Tensor

from ganfast import _backends, _checks
from ganfast._memo import Memo
from ganfast.ops.batch_norm_act.op import remembered
from ganfast.ops.group_norm_act import op as group_norm

_OP = "layer_norm_act"


def layer_norm_act(
    x: Tensor,
    normalized_shape: int | tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    act: str = "linear",
    alpha: float | Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """y = act((x - mean) / sqrt(var + eps) * weight + bias), mean and biased variance over the last dimensions: ``F.layer_norm`` and the
    activation in one pass.

    Shapes:
        x [*, *normalized_shape]; weight, bias normalized_shape; alpha a float, [1] or normalized_shape; y as x.
    Dtypes: x float32, bfloat16, float16, float64; the others any floating dtype. Statistics and sums are float32 (float64 for float64).
    Layout: y is contiguous, and so should x be: it is copied where not. A norm over the channels of each pixel of channels_last x
        [N, C, H, W] is that of ``x.permute(0, 2, 3, 1)``, which is contiguous.
    Grads: x, weight, bias, alpha, to any order, through the statistics.
    Raises: TypeError, ValueError for what the shapes above forbid and for one value to normalise; RuntimeError where a named backend
        cannot run.
    Source: Ba, Kiros & Hinton 2016; README.md in this folder.
    """
    wanted = _backends.requested(_OP, backend)
    length, of_rows = remembered(_plans, _planned, x, normalized_shape, weight, bias, eps, act, alpha, wanted)
    return group_norm.run(of_rows, x.reshape(-1, length, 1), *_flat(x, weight, bias, alpha)).view(x.shape)


_plans = Memo()  # key -> (values of a row, the group norm's plan)


def _planned(x, normalized_shape, weight, bias, eps, act, alpha, backend) -> tuple[int, group_norm.Plan]:
    length = _checked(x, normalized_shape, weight, bias)
    weight, bias, alpha = _flat(x, weight, bias, alpha)
    return length, group_norm.planned(x.reshape(-1, length, 1), 1, weight, bias, eps, act, alpha, backend)


def _flat(x: Tensor, weight: Tensor | None, bias: Tensor | None, alpha: float | Tensor | None) -> tuple:
    """Each a vector of a row's length; one alpha stays as it is."""
    of_row = isinstance(alpha, Tensor) and alpha.dim() > 1 and alpha.shape == x.shape[-alpha.dim() :]
    weight, bias = (t if t is None or t.dim() == 1 else t.reshape(-1) for t in (weight, bias))
    return weight, bias, alpha.reshape(-1) if of_row else alpha


def _checked(x: Tensor, normalized_shape: int | tuple[int, ...], weight: Tensor | None, bias: Tensor | None) -> int:
    """The values that are normalised together."""
    _checks.check_tensor(_OP, "x", x)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or x.dim() < len(shape) or x.shape[-len(shape) :] != Size(shape):
        _checks.fail(_OP, f"x has shape {tuple(x.shape)}, wants it to end in normalized_shape {shape}")
    length = math.prod(shape)
    if length == 1 and x.numel() > 0:
        _checks.fail(_OP, f"normalized_shape is {shape}, one value, wants more to normalise")
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None:
            _checks.check_tensor(_OP, name, t)
            if t.shape != Size(shape):
                _checks.fail(_OP, f"{name} has shape {tuple(t.shape)}, wants normalized_shape {shape}")
    return length
