"""The formulas, differentiable, and the passes in plain torch. A weight is a matrix here: a row for each entry along its first dimension,
or one row in all where weight norm has one norm."""

import torch
from torch import Tensor


def rows(weight: Tensor, count: int | None = None) -> Tensor:
    """[rows, columns] in the accumulation dtype."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32)).reshape(weight.shape[0] if count is None else count, -1)


def weight_norm(v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """(v * g / |v|, |v| [rows])."""
    flat = rows(v, g.numel())
    norms = flat.square().sum(1).sqrt()
    return (flat * (g.to(flat.dtype).reshape(-1) / norms)[:, None]).to(v.dtype).view(v.shape), norms


def weight_norm_grads(gw: Tensor, v: Tensor, g: Tensor, norms: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(gv, gg) by plain operations, which autograd can differentiate; `norms` where nobody will."""
    flat, upstream, gain = rows(v, g.numel()), rows(gw, g.numel()), g.to(torch.promote_types(g.dtype, torch.float32)).reshape(-1)
    norms = flat.square().sum(1).sqrt() if norms is None else norms
    along = (upstream * flat).sum(1) / norms
    gv = (gain / norms)[:, None] * (upstream - flat * (along / norms)[:, None])
    return gv.to(v.dtype).view(v.shape), along.to(g.dtype).view(g.shape)


def normalised(x: Tensor, eps: float) -> Tensor:
    return x / x.square().sum().sqrt().clamp_min(eps)


def spectral_norm(weight: Tensor, u: Tensor, v: Tensor, iterations: int, eps: float, u_first: bool) -> tuple[Tensor, ...]:
    """(weight / sigma, u, v, sigma) after so many power iterations; each takes u or v first."""
    flat = rows(weight)
    u, v = u.to(flat.dtype), v.to(flat.dtype)
    for _ in range(iterations):
        if u_first:
            u = normalised(flat @ v, eps)
        v = normalised(u @ flat, eps)
        if not u_first:
            u = normalised(flat @ v, eps)
    sigma = u @ (flat @ v)
    return (flat / sigma).to(weight.dtype).view(weight.shape), u, v, sigma


def spectral_norm_grad(gw: Tensor, weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor | None = None) -> Tensor:
    """The weight's gradient; u and v are constants of it. `sigma` where nobody will differentiate this."""
    flat, upstream = rows(weight), rows(gw)
    sigma = u @ (flat @ v) if sigma is None else sigma
    gweight = upstream / sigma - (upstream * flat).sum() / sigma.square() * torch.outer(u, v)
    return gweight.to(weight.dtype).view(weight.shape)


def weight_norms_fwd_reference(v: list[Tensor], g: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    made = [weight_norm(*pair) for pair in zip(v, g)]
    return [w for w, _ in made], torch.cat([norms for _, norms in made])


def weight_norms_bwd_reference(gw: list[Tensor], v: list[Tensor], g: list[Tensor], norms: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    made = [weight_norm_grads(*each) for each in zip(gw, v, g, norms.split([gain.numel() for gain in g]))]
    return [gv for gv, _ in made], [gg for _, gg in made]


def spectral_norms_fwd_reference(weights, u, v, iterations, eps, u_first) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    made = [spectral_norm(*each, iterations, eps, u_first) for each in zip(weights, u, v)]
    return [m[0] for m in made], torch.cat([m[1] for m in made]), torch.cat([m[2] for m in made]), torch.stack([m[3] for m in made])


def spectral_norms_bwd_reference(gw: list[Tensor], weights: list[Tensor], u: Tensor, v: Tensor, sigma: Tensor) -> list[Tensor]:
    parts = zip(gw, weights, u.split([w.shape[0] for w in weights]), v.split([w[0].numel() for w in weights]), sigma.unbind())
    return [spectral_norm_grad(*each) for each in parts]
