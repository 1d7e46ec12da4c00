"""Gradients of all weights in one pass when nothing will differentiate it, the same formulas in torch, weight by weight, when grad mode is
on. Arguments are flat, lists one behind the other: autograd sees tensors among a Function's own arguments alone."""

import torch
from torch import Tensor
from torch.autograd import Function

from ganfast._autograd import compiles, differentiates, no_autocast, owned
from ganfast.ops.normalised_weights import kernels, reference


def _given(ctx, made: list[Tensor], needs: list[bool]) -> tuple[Tensor, ...]:
    """What a forward gives; a frozen weight's result needs no gradient, whatever the others' do."""
    if made[0]._is_view():  # all are parts of one tensor, or none is
        made = [owned(w) for w in made]
    if not all(needs):
        ctx.mark_non_differentiable(*(w for w, need in zip(made, needs) if not need))
    ctx.set_materialize_grads(False)
    return tuple(made)


def _arrived(gw: tuple, *lists) -> tuple[list[int], list[Tensor], list[list]]:
    """(places, gradients, each list's entries) of the results that a gradient came for."""
    at = [i for i, gradient in enumerate(gw) if gradient is not None]
    return at, [gw[i] for i in at], [[entries[i] for i in at] for entries in lists]


def _contiguous(tensors: list[Tensor]) -> list[Tensor]:
    return [t if t.is_contiguous() else t.contiguous() for t in tensors]


def _of_these(vector: Tensor, sizes: list[int], at: list[int]) -> Tensor:
    """The parts of a vector that holds one part for every weight."""
    return vector if len(at) == len(sizes) else torch.cat([vector.split(sizes)[i] for i in at])


def _keep(ctx, *tensors: Tensor) -> None:
    """For the backward. One node makes all weights, and what it has saved torch frees after the first backward that comes to it, though
    another network's gradients may come later, or after an optimizer's step for the first. So eager's own: each weight's are kept for
    themselves, and `_kept` refuses what was changed in place."""
    ctx.held = None if compiles() else tensors
    if compiles():
        ctx.save_for_backward(*tensors)
    else:
        ctx.versions = [-1 if t.is_inference() else t._version for t in tensors]


def _kept(ctx, wanted: list[int]) -> tuple[Tensor, ...]:
    """All that was kept; `wanted`: the places of what is read. Raises RuntimeError, as torch does."""
    if ctx.held is None:
        return ctx.saved_tensors
    if any(ctx.versions[i] not in (-1, ctx.held[i]._version) for i in wanted):
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: a weight or gain of"
            " normalised weights, between their forward and backward."
        )
    return ctx.held


class WeightNorms(Function):
    """apply(backend, *v, *g) -> w of every weight."""

    lists = 2  # of tensors, each with one for every weight

    @staticmethod
    def forward(ctx, backend, *tensors):
        n = len(tensors) // 2
        made, norms = kernels.weight_norms_fwd(list(tensors[:n]), list(tensors[n:]), backend)
        _keep(ctx, *tensors, norms)
        ctx.backend = backend
        needs = ctx.needs_input_grad[1:]
        return _given(ctx, made, [needs[i] or needs[n + i] for i in range(n)])

    @staticmethod
    def backward(ctx, *gw):
        n, came = len(gw), [i for i, gradient in enumerate(gw) if gradient is not None]
        *tensors, norms = _kept(ctx, [*came, *(n + i for i in came)])
        sizes = [gain.numel() for gain in tensors[n:]]
        at, gw, (v, g) = _arrived(gw, tensors[:n], tensors[n:])
        gradients: list[Tensor | None] = [None] * (2 * n)
        if not at:
            return None, *gradients
        with no_autocast(gw[0]):
            if differentiates():
                gv, gg = zip(*(reference.weight_norm_grads(*each) for each in zip(gw, v, g)))
            else:
                gv, gg = kernels.weight_norms_bwd(_contiguous(gw), v, g, _of_these(norms, sizes, at), ctx.backend)
        for i, of_v, of_g in zip(at, gv, gg):
            gradients[i], gradients[n + i] = of_v, of_g
        needs = ctx.needs_input_grad[1:]
        return None, *(gradient if need else None for gradient, need in zip(gradients, needs))


class SpectralNorms(Function):
    """apply((backend, iterations, eps, u_first), *weights, *u, *v) -> every weight over its sigma; u and v are updated in place."""

    lists = 3

    @staticmethod
    def forward(ctx, options, *tensors):
        n = len(tensors) // 3
        weights = tensors[:n]
        made, u, v, sigma = iterated(options, list(weights), list(tensors[n : 2 * n]), list(tensors[2 * n :]))
        _keep(ctx, *weights, u, v, sigma)
        ctx.backend = options[0]
        return _given(ctx, made, ctx.needs_input_grad[1 : n + 1])

    @staticmethod
    def backward(ctx, *gw):
        *weights, u, v, sigma = _kept(ctx, [i for i, gradient in enumerate(gw) if gradient is not None])
        n, rows, columns = len(gw), [w.shape[0] for w in weights], [w[0].numel() for w in weights]
        at, gw, (weights,) = _arrived(gw, weights)
        gradients: list[Tensor | None] = [None] * n
        if not at:
            return None, *gradients * 3
        with no_autocast(gw[0]):
            if differentiates():
                lefts, rights = u.split(rows), v.split(columns)
                made = [reference.spectral_norm_grad(g, w, lefts[i], rights[i]) for i, g, w in zip(at, gw, weights)]
            else:
                parts = _of_these(u, rows, at), _of_these(v, columns, at), _of_these(sigma, [1] * n, at)
                made = kernels.spectral_norms_bwd(_contiguous(gw), weights, *parts, ctx.backend)
        for i, gradient in zip(at, made):
            gradients[i] = gradient
        return None, *gradients, *[None] * (2 * n)


def iterated(options: tuple, weights: list[Tensor], u: list[Tensor], v: list[Tensor]) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """The pass, and what it found out about u and v written to the caller's: only now, as torch's error, should it raise, finds them
    as they were."""
    backend, iterations, eps, u_first = options
    made, left, right, sigma = kernels.spectral_norms_fwd(weights, u, v, iterations, eps, u_first, backend)
    if iterations:
        new = (*left.split([t.numel() for t in u]), *right.split([t.numel() for t in v]))
        with torch.no_grad():
            torch._foreach_copy_([*u, *v], list(new))
    return made, left, right, sigma


class Equalised(Function):
    """apply(factors, *weights) -> every weight times its factor, by torch's one call for a list; of any order its own derivative."""

    lists = 1

    @staticmethod
    def forward(ctx, factors, *weights):
        ctx.factors = factors
        return _given(ctx, torch._foreach_mul(list(weights), list(factors)), ctx.needs_input_grad[1:])

    @staticmethod
    def backward(ctx, *gw):
        at, gw, (factors,) = _arrived(gw, ctx.factors)
        gradients: list[Tensor | None] = [None] * len(ctx.factors)
        if at:
            made = Equalised.apply(factors, *gw) if differentiates() else torch._foreach_mul(gw, factors)
            for i, gradient in zip(at, made):
                gradients[i] = gradient
        return None, *gradients
