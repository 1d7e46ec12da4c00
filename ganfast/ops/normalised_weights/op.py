"""`weight_norms`, `spectral_norms` and `equalised_weights`: checks, choice of backend, autograd."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ganfast import _backends, _checks
from ganfast.ops.normalised_weights import kernels, reference, torch_backend
from ganfast.ops.normalised_weights.autograd import Equalised, SpectralNorms, WeightNorms, iterated


def weight_norms(v: Sequence[Tensor], g: Sequence[Tensor], *, backend: str | None = None) -> list[Tensor]:
    """w = v * g / |v| of many weights at once, the norm that of each output channel: all made in one pass, all gradients in one.

    Shapes: v: tensors of any shape [C, ...] with one dimension or more, each of its own; g: for each v, C values of any shape, as
        [C, 1, 1], or one value, for one norm over all of v; the results as v. These are ``original1`` and ``original0`` of
        ``torch.nn.utils.parametrizations.weight_norm``, ``weight_v`` and ``weight_g`` of ``torch.nn.utils.weight_norm``, for dim 0
        and None.
    Dtypes: float32, bfloat16, float16; float64 on reference, torch and cpu; all of one dtype, the results too. Sums are float32 (float64
        for float64). Autocast casts nothing.
    Layout: the results are contiguous, as torch's; v that is not contiguous is copied first.
    Grads: v and g, to any order. The first ones are made when the last of them is asked for: a backward hands out none before.
    Raises: TypeError, ValueError for lists that do not go together, mixed dtypes or devices; RuntimeError where a named backend cannot run.
    Source: Salimans & Kingma 2016.
    """
    op = "weight_norms"
    v, g = _lists(op, v=v, g=g)
    for i, (direction, gain) in enumerate(zip(v, g)):
        if direction.dim() == 0:
            _checks.fail(op, f"v[{i}] has no dimensions, wants one or more")
        if gain.numel() not in (1, direction.shape[0]):
            _checks.fail(
                op, f"g[{i}] has shape {tuple(gain.shape)}, wants {direction.shape[0]} values, one for each row of v[{i}], or one",
                "A norm along another dimension is v.transpose(0, dim), transposed back afterwards",
            )  # fmt: skip
    return run_weight_norms(v, g, backend_for(op, backend, v[0])) if v else []


def spectral_norms(
    weights: Sequence[Tensor],
    u: Sequence[Tensor],
    v: Sequence[Tensor],
    *,
    power_iterations: int = 0,
    eps: float = 1e-12,
    u_first: bool = True,
    backend: str | None = None,
) -> list[Tensor]:
    """w = weight / sigma of many weights at once, sigma = u^T W v the largest singular value as u and v estimate it.

    ``power_iterations`` in training, each u = W v / |W v|, v = W^T u / |W^T u|; with ``u_first=False`` v comes first, as in
    ``torch.nn.utils.spectral_norm``. They change u and v in place; none do in evaluation. No norm is taken as less than ``eps``.

    Shapes: weights: tensors of any shape [C, ...] with two dimensions or more, W [C, the rest]; u: for each a [C], v: the rest's [K]; the
        results as weights. u and v are the buffers of torch's spectral norms, for dim 0.
    Dtypes: as ``weight_norms``; u and v of the weights' dtype.
    Layout: as ``weight_norms``.
    Grads: weights, to any order; u and v are constants. Made together, as in ``weight_norms``.
    Raises: as ``weight_norms``, and ValueError for a number of iterations below 0.
    Source: Miyato et al. 2018.
    """
    op = "spectral_norms"
    weights, u, v = _lists(op, weights=weights, u=u, v=v)
    if isinstance(power_iterations, bool) or not isinstance(power_iterations, int):
        _checks.fail(op, f"power_iterations is {power_iterations!r}, wants an int", error=TypeError)
    if power_iterations < 0:
        _checks.fail(op, f"power_iterations is {power_iterations}, wants 0 or more", "In evaluation it is 0")
    for i, weight in enumerate(weights):
        if weight.dim() < 2:
            _checks.fail(op, f"weights[{i}] has shape {tuple(weight.shape)}, wants two dimensions or more")
        for name, vector, size in (("u", u[i], weight.shape[0]), ("v", v[i], math.prod(weight.shape[1:]))):
            if vector.shape != (size,):
                cause = "u has a value for each row, v for each of the other entries of a row"
                _checks.fail(op, f"{name}[{i}] has shape {tuple(vector.shape)}, wants ({size},) for weights[{i}]", cause)
            if power_iterations and vector.requires_grad:
                _checks.fail(op, f"{name}[{i}] requires grad, but power iterations change it in place", "It is a buffer: detach it")
    if not weights:
        return []
    return run_spectral_norms(weights, u, v, backend_for(op, backend, weights[0]), power_iterations, float(eps), bool(u_first))


def equalised_weights(weights: Sequence[Tensor], factors: Sequence[float], *, backend: str | None = None) -> list[Tensor]:
    """w = weight * factor of many weights at once, the factor a number: sqrt(2 / fan_in), say, times a learning-rate multiplier.

    Shapes: weights: tensors of any shapes; factors: a float for each; the results as weights.
    Dtypes: as ``weight_norms``.
    Layout: the results lie as the weights.
    Grads: weights, to any order. Made together, as in ``weight_norms``.
    Raises: as ``weight_norms``; TypeError for a factor that is no number, ValueError for one that is not finite.
    Source: Karras et al. 2018.
    """
    op = "equalised_weights"
    (weights,) = _lists(op, weights=weights)
    factors = list(factors)
    if len(factors) != len(weights):
        _checks.fail(op, f"factors has {len(factors)} entries, weights {len(weights)}; both want one for each weight")
    factors = tuple(_checks.check_number(op, f"factors[{i}]", factor) for i, factor in enumerate(factors))
    if not weights:
        return []
    backend_for(op, backend, weights[0])  # every backend is torch's one call here, but one that cannot run is refused
    return run_equalised(weights, factors)


def run_weight_norms(v: list[Tensor], g: list[Tensor], backend: str) -> list[Tensor]:
    """The call, checked and decided."""
    if any(t.numel() == 0 for t in v):
        return [reference.weight_norm(*pair)[0] for pair in zip(v, g)]
    v, g = ([t if t.is_contiguous() else t.contiguous() for t in tensors] for tensors in (v, g))
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*v, *g)):
        return list(WeightNorms.apply(backend, *v, *g))
    return kernels.weight_norms_fwd(v, g, backend)[0]


def run_spectral_norms(
    weights: list[Tensor], u: list[Tensor], v: list[Tensor], backend: str, iterations: int, eps: float, u_first: bool
) -> list[Tensor]:
    """The call, checked and decided."""
    if backend == "torch" or any(t.numel() == 0 for t in weights):
        return torch_backend.spectral_norms(weights, u, v, iterations, eps, u_first)
    weights = [t if t.is_contiguous() else t.contiguous() for t in weights]
    options = (backend, iterations, eps, u_first)
    if torch.is_grad_enabled() and any(t.requires_grad for t in weights):
        return list(SpectralNorms.apply(options, *weights, *u, *v))
    return iterated(options, weights, u, v)[0]


def run_equalised(weights: list[Tensor], factors: tuple[float, ...]) -> list[Tensor]:
    """The call, checked."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in weights):
        return list(Equalised.apply(factors, *weights))
    return list(torch._foreach_mul(weights, list(factors)))


def automatic(x: Tensor) -> str:
    """What `auto` runs. Triton's backward copies all gradients into one place first, CUDA's does not."""
    if x.is_cuda and x.dtype != torch.float64 and _backends.reason("cuda", x.device) is None:
        return "cuda"
    return _backends.first_fused(x)


def backend_for(op: str, backend: str | None, x: Tensor) -> str:
    """What runs for tensors like x."""
    wanted = _backends.requested(op, backend)
    return automatic(x) if wanted == "auto" else _backends.named(op, wanted, x)


def _lists(op: str, **lists: Sequence[Tensor]) -> list[list[Tensor]]:
    """Lists of one length, of floating tensors of one dtype on one device."""
    names, found = list(lists), []
    for name, tensors in lists.items():
        if isinstance(tensors, Tensor) or not isinstance(tensors, Sequence):
            kind = f"{type(tensors).__module__}.{type(tensors).__qualname__}"
            _checks.fail(op, f"{name} is a {kind}, wants a list of tensors", f"For one weight pass [{name}]", TypeError)
        found.append(list(tensors))
        if len(found[-1]) != len(found[0]):
            _checks.fail(op, f"{name} has {len(found[-1])} entries, {names[0]} {len(found[0])}; all want one for each weight")
        for i, tensor in enumerate(found[-1]):
            _checks.check_tensor(op, f"{name}[{i}]", tensor)
            _checks.check_floating(op, f"{name}[{i}]", tensor)
            _checks.check_like(op, f"{name}[{i}]", tensor, found[0][0], f"{names[0]}[0]", _checks.CAST_ONE)
    return found
