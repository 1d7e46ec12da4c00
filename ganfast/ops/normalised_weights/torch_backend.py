"""torch's own calls, one weight after the other: the passes of weight norms, and spectral norms with torch's autograd.

Not so weight norms with theirs: torch 2.13 takes the norms as constants in a second derivative with regard to v."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast._autograd import no_autocast


def _rows(g: Tensor, *like_v: Tensor) -> list[Tensor]:
    """All as [rows, ...]: of vectors torch's kernel takes the wrong norms."""
    return [t.view(g.numel(), -1) for t in like_v]


def weight_norms_fwd_torch(v: list[Tensor], g: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    made = [torch._weight_norm_interface(*_rows(gain, x, gain), 0) for x, gain in zip(v, g)]
    return [w.view(x.shape) for (w, _), x in zip(made, v)], torch.cat([norms.flatten() for _, norms in made])


def weight_norms_bwd_torch(gw: list[Tensor], v: list[Tensor], g: list[Tensor], norms: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    parts = norms.split([gain.numel() for gain in g])
    made = [
        torch.ops.aten._weight_norm_interface_backward(*_rows(gain, up, x, gain, norm), 0) for up, x, gain, norm in zip(gw, v, g, parts)
    ]
    return [gv.view(x.shape) for (gv, _), x in zip(made, v)], [gg.view(gain.shape) for (_, gg), gain in zip(made, g)]


def spectral_norms(weights: list[Tensor], u: list[Tensor], v: list[Tensor], iterations: int, eps: float, u_first: bool) -> list[Tensor]:
    """As torch.nn.utils and its parametrizations compute it, u and v of the caller updated in place."""
    made = []
    with no_autocast(weights[0]):
        for weight, left, right in zip(weights, u, v):
            flat = weight.flatten(1)
            with torch.no_grad():
                for _ in range(iterations):
                    if u_first:
                        F.normalize(torch.mv(flat, right), dim=0, eps=eps, out=left)
                    F.normalize(torch.mv(flat.t(), left), dim=0, eps=eps, out=right)
                    if not u_first:
                        F.normalize(torch.mv(flat, right), dim=0, eps=eps, out=left)
                left, right = left.clone(), right.clone()  # a later forward changes the caller's before this one's backward
            made.append(weight / torch.dot(left, torch.mv(flat, right)))
    return made
