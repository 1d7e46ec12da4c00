"""Registration of the passes: one signature for every backend, picked by the last argument.
Spectral norms have no pass of torch's: its `torch` backend is the chain that torch's autograd differentiates."""

import torch
from torch import Tensor

from ganfast import _backends, _native
from ganfast.ops.normalised_weights import reference, torch_backend

_WEIGHT_FWD = "weight_norms_fwd{}(Tensor[] v, Tensor[] g{}) -> (Tensor[], Tensor)"
_WEIGHT_BWD = "weight_norms_bwd{}(Tensor[] gw, Tensor[] v, Tensor[] g, Tensor norms{}) -> (Tensor[], Tensor[])"
_VECTORS = "Tensor[] weights, Tensor[] u, Tensor[] v, int iterations, float eps, bool u_first"
_SPECTRAL_FWD = "spectral_norms_fwd{}(" + _VECTORS + "{}) -> (Tensor[], Tensor, Tensor, Tensor)"
_SPECTRAL_BWD = "spectral_norms_bwd{}(Tensor[] gw, Tensor[] weights, Tensor u, Tensor v, Tensor sigma{}) -> Tensor[]"


def _module(backend: str):
    if backend != "triton":
        return torch_backend if backend == "torch" else reference
    from ganfast.ops.normalised_weights import triton

    return triton


def _registered(schema: str, fake):
    """The pass of the schema; all tensors contiguous, none empty."""
    name = schema.split("{")[0]
    _native.define(schema.format("_native", ""))

    def implementation(*args):
        *tensors, backend = args
        _backends.ran["normalised_weights"] = backend
        if backend in ("cpu", "cuda"):
            return getattr(torch.ops.ganfast, f"{name}_native")(*tensors)
        return getattr(_module(backend), f"{name}_{backend}")(*tensors)

    return _native.register(schema.format("", ", str backend"), implementation, fake)


def _acc(t: Tensor) -> torch.dtype:
    return torch.promote_types(t.dtype, torch.float32)


def _like(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.empty_like(t) for t in tensors]


def _weight_fwd_fake(v, g, backend):
    return _like(v), v[0].new_empty(sum(t.numel() for t in g), dtype=_acc(v[0]))


def _spectral_fwd_fake(weights, u, v, iterations, eps, u_first, backend):
    counts = sum(t.numel() for t in u), sum(t.numel() for t in v), len(weights)
    return _like(weights), *(weights[0].new_empty(count, dtype=_acc(weights[0])) for count in counts)


# v [rows, ...], g [rows] or [1] of any shape -> w like v, |v| of every row of all weights one behind the other.
weight_norms_fwd = _registered(_WEIGHT_FWD, _weight_fwd_fake)
# gw like v -> gv, gg.
weight_norms_bwd = _registered(_WEIGHT_BWD, lambda gw, v, g, norms, backend: (_like(v), _like(g)))
# weights [rows, ...], u [rows], v [columns] -> weights / sigma, the new u of all weights one behind the other, the new v, sigma [weights].
# What is given is not changed.
spectral_norms_fwd = _registered(_SPECTRAL_FWD, _spectral_fwd_fake)
# gw like weights; u, v and sigma as the forward gave them -> gweights.
spectral_norms_bwd = _registered(_SPECTRAL_BWD, lambda gw, weights, u, v, sigma, backend: _like(weights))
