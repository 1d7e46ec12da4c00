"""Weights as networks have them, and torch's own way with each."""

import torch
import torch.nn.functional as F
from torch import Tensor

BACKENDS = ["reference", "torch", "cpu"]
# Of a convolution, a linear layer, a vector, one row, a long row; (shape, one norm over all of it).
SHAPES = [
    ((6, 3, 7), False),
    ((4, 6), False),
    ((9,), True),
    ((1, 3, 3, 3), False),
    ((2, 70, 70), False),
    ((5, 4, 3), True),
    ((300, 2), False),
]
MATRICES = [(6, 3, 7), (4, 6), (1, 3, 3, 3), (30, 70, 10), (70, 1)]


def directions(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor]]:
    """(v, g), leaves."""
    torch.manual_seed(0)
    v = [torch.randn(shape) for shape, _ in SHAPES]
    g = [torch.randn([] if whole else [shape[0], *[1] * (len(shape) - 1)]) for shape, whole in SHAPES]
    return tuple([t.to(dtype).requires_grad_() for t in tensors] for tensors in (v, g))


def torch_weight_norms(v: list[Tensor], g: list[Tensor]) -> list[Tensor]:
    return [torch._weight_norm(*pair, 0 if pair[1].dim() else -1) for pair in zip(v, g)]


def matrices(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """(weights, u, v): leaves and buffers. No singular value is near 0 by the estimate of u and v."""
    torch.manual_seed(0)
    weights = [torch.randn(shape) + torch.randn(shape[0], *[1] * (len(shape) - 1)) * torch.randn(1, *shape[1:]) for shape in MATRICES]
    u = [F.normalize(w.flatten(1) @ torch.randn(w[0].numel()), dim=0) for w in weights]
    v = [F.normalize(w.flatten(1).t() @ left, dim=0) for w, left in zip(weights, u)]
    return [w.to(dtype).requires_grad_() for w in weights], [t.to(dtype) for t in u], [t.to(dtype) for t in v]


def torch_spectral_norms(weights, u, v, iterations: int, u_first: bool, eps: float = 1e-12) -> list[Tensor]:
    """By the formula; what u and v become is written to them."""
    made = []
    for weight, left, right in zip(weights, u, v):
        flat = weight.flatten(1)
        with torch.no_grad():
            for _ in range(iterations):
                for of_u in (u_first, not u_first):
                    product = flat @ right if of_u else flat.t() @ left
                    (left if of_u else right).copy_(product / product.norm().clamp_min(eps))
        made.append(weight / (left.clone() @ (flat @ right.clone())))
    return made


def cotangents(made: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(t.shape).to(t.dtype) for t in made]
