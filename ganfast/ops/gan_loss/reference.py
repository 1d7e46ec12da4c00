"""The adversarial losses, their gradients and statistics by definition, in plain torch.

Real logits r and fake logits f are [N_real] and [N_fake]. Everything here differentiates to any order.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("minimax", "nonsaturating", "hinge", "lsgan", "wasserstein", "relativistic", "relativistic_average")
SMOOTHED = ("minimax", "nonsaturating", "lsgan")
RELATIVISTIC = ("relativistic", "relativistic_average")


def softplus(x: Tensor) -> Tensor:
    return F.softplus(x, threshold=40)  # beyond its default of 20 it is the identity, off by 2e-9: too much for float64


def _step(x: Tensor) -> Tensor:
    # relu's slope; unlike a comparison it stays in the graph, so that a second derivative is zero rather than an error
    return torch.ops.aten.threshold_backward(torch.ones_like(x), x, 0)


def gan_loss(real: Tensor | None, fake: Tensor, kind: str, generator: bool, smoothing: float) -> Tensor:
    """The loss as one formula; the generator's reads `real` for the relativistic kinds alone."""
    r, f = real, fake
    if kind == "relativistic":
        return softplus(r - f if generator else f - r).mean()
    if kind == "relativistic_average":
        sign = -1 if generator else 1
        return softplus(sign * (f.mean() - r)).mean() + softplus(sign * (f - r.mean())).mean()
    if generator:
        if kind == "minimax":
            return -softplus(f).mean()
        if kind == "nonsaturating":
            return softplus(-f).mean()
        return (f - 1).square().mean() / 2 if kind == "lsgan" else -f.mean()
    if kind == "hinge":
        return torch.relu(1 - r).mean() + torch.relu(1 + f).mean()
    if kind == "lsgan":
        return (r - (1 - smoothing)).square().mean() / 2 + f.square().mean() / 2
    if kind == "wasserstein":
        return f.mean() - r.mean()
    of_real = softplus(-r)
    if smoothing:
        of_real = (1 - smoothing) * of_real + smoothing * softplus(r)
    return of_real.mean() + softplus(f).mean()


def gan_loss_grads(real: Tensor | None, fake: Tensor, kind: str, generator: bool, smoothing: float) -> tuple[Tensor | None, Tensor]:
    """(d loss / d real, d loss / d fake), the divisions by the counts included; None for a `real` the loss does not read."""
    r, f = real, fake
    if kind == "relativistic":
        slope = -torch.sigmoid(r - f) if generator else torch.sigmoid(f - r)
        return -slope / f.numel(), slope / f.numel()
    if kind == "relativistic_average":
        sign = -1 if generator else 1
        of_real = sign * torch.sigmoid(sign * (f.mean() - r))
        of_fake = sign * torch.sigmoid(sign * (f - r.mean()))
        # A logit acts by its own term and, through its mean, by every term of the other side.
        return -(of_real + of_fake.mean()) / r.numel(), (of_fake + of_real.mean()) / f.numel()
    if generator:
        if kind == "minimax":
            gfake = -torch.sigmoid(f)
        elif kind == "nonsaturating":
            gfake = -torch.sigmoid(-f)
        else:
            gfake = f - 1 if kind == "lsgan" else torch.full_like(f, -1)
        return None, gfake / f.numel()
    if kind == "hinge":
        greal, gfake = -_step(1 - r), _step(1 + f)
    elif kind == "lsgan":
        greal, gfake = r - (1 - smoothing), f
    elif kind == "wasserstein":
        greal, gfake = torch.full_like(r, -1), torch.ones_like(f)
    else:
        greal, gfake = -torch.sigmoid(-r), torch.sigmoid(f)
        if smoothing:
            greal = (1 - smoothing) * greal + smoothing * torch.sigmoid(r)
    return greal / r.numel(), gfake / f.numel()


def _stats(real: Tensor | None, fake: Tensor, kind: str) -> Tensor:
    threshold = 0.5 if kind == "lsgan" else 0.0
    fake_accuracy, fake_mean = (fake < threshold).to(fake.dtype).mean(), fake.mean()
    if real is None:
        zero = torch.zeros_like(fake_mean)
        return torch.stack([zero, fake_accuracy, zero, fake_mean, zero])
    return torch.stack([(real > threshold).to(real.dtype).mean(), fake_accuracy, real.mean(), fake_mean, real.sign().mean()])


def _accumulated(real: Tensor | None, fake: Tensor) -> tuple[Tensor | None, Tensor]:
    acc = torch.promote_types(fake.dtype, torch.float32)
    return None if real is None else real.reshape(-1).to(acc), fake.reshape(-1).to(acc)


def eager_chain(real, fake, kind, generator, smoothing, want_stats) -> tuple[Tensor, Tensor | None]:
    """The `torch` backend: (loss, stats [5] or None) from logits of any shape, with torch's own autograd for every order."""
    real, fake = _accumulated(real, fake)
    loss = gan_loss(real, fake, kind, generator, smoothing)
    if not want_stats:
        return loss, None
    return loss, _stats(None if real is None else real.detach(), fake.detach(), kind)


def gan_loss_fwd_reference(real, fake, kind, generator, smoothing) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    real, fake = _accumulated(real, fake)
    greal, gfake = gan_loss_grads(real, fake, kind, generator, smoothing)
    if greal is None:
        greal = fake.new_empty(0) if real is None else torch.zeros_like(real)
    return gan_loss(real, fake, kind, generator, smoothing), greal, gfake, _stats(real, fake, kind)
