"""`discriminator_loss` and `generator_loss`: checks, choice of backend, autograd."""

from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _backends, _checks
from ganfast.ops.gan_loss.autograd import GanLoss
from ganfast.ops.gan_loss.kernels import forward_op
from ganfast.ops.gan_loss.reference import KINDS, RELATIVISTIC, SMOOTHED, eager_chain


class LossStats(NamedTuple):
    """What a GAN's run is watched by: 0-dim tensors on the logits' device, without gradient; reading one waits for it.

    real_accuracy, fake_accuracy: share of real logits above, of fake logits below 0 (lsgan: 0.5).
    real_mean, fake_mean: mean logits. real_sign: mean sign of the real logits, what adaptive augmentation steers by.
    """

    real_accuracy: Tensor
    fake_accuracy: Tensor
    real_mean: Tensor
    fake_mean: Tensor
    real_sign: Tensor


def discriminator_loss(
    real_logits: Tensor,
    fake_logits: Tensor,
    *,
    kind: str = "nonsaturating",
    smoothing: float = 0.0,
    return_stats: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, LossStats]:
    """The discriminator's loss, to be minimised, and the gradients of all logits with it, in one pass.

    With r real, f fake and means over each: minimax, nonsaturating: softplus(-r) + softplus(f); hinge: relu(1-r) + relu(1+f);
    lsgan: (r-1)^2/2 + f^2/2; wasserstein: f - r; relativistic: softplus(f-r) in pairs; relativistic_average:
    softplus(mean f - r) + softplus(f - mean r). `smoothing` s makes the real target 1-s (minimax, nonsaturating, lsgan):
    (1-s) softplus(-r) + s softplus(r), and (r-(1-s))^2/2.

    Shapes:
        real_logits, fake_logits of any shape, [N], [N, 1] or patches [N, 1, H, W]; they may differ but for `relativistic`.
        A 0-dim loss; with ``return_stats``: (loss, LossStats), five 0-dim tensors.
    Dtypes: float32, bfloat16, float16; float64 on reference, torch and cpu. Loss, statistics and sums are float32 (float64 for
        float64), under autocast too. Both logits share one dtype.
    Layout: any strides; no host sync.
    Grads: both logits, to any order, in their dtype; through both means for relativistic_average. Statistics carry none.
    Raises: TypeError, ValueError for an unknown kind, smoothing outside [0, 1) or on a kind without it, empty, integer or
        mixed logits, unequal shapes where paired; RuntimeError where a named backend cannot run.
    Source: Goodfellow 2014 (minimax, nonsaturating), Salimans 2016 (smoothing), Lim & Ye 2017 (hinge), Mao 2017 (lsgan),
        Arjovsky 2017 (wasserstein), Jolicoeur-Martineau 2019 (relativistic).
    """
    op = "discriminator_loss"
    check_kind(op, kind)
    check_smoothing(op, kind, smoothing)
    _check_logits(op, "real_logits", real_logits)
    _check_logits(op, "fake_logits", fake_logits)
    _check_both(op, real_logits, fake_logits, kind)
    loss, stats = _run(op, real_logits, fake_logits, kind, False, float(smoothing), return_stats, backend)
    return (loss, LossStats(*stats.unbind())) if return_stats else loss


def generator_loss(
    fake_logits: Tensor, real_logits: Tensor | None = None, *, kind: str = "nonsaturating", backend: str | None = None
) -> Tensor:
    """The generator's loss, to be minimised, and its gradients with it, in one pass.

    With r real, f fake and means over each: minimax: -softplus(f); nonsaturating: softplus(-f); hinge, wasserstein: -f; lsgan:
    (f-1)^2/2; relativistic: softplus(r-f) in pairs; relativistic_average: softplus(mean r - f) + softplus(r - mean f).

    Shapes: fake_logits, real_logits of any shape, [N], [N, 1] or patches [N, 1, H, W]; equal for `relativistic`. A 0-dim loss.
    Dtypes: as `discriminator_loss`.
    Layout: any strides; no host sync.
    Grads: fake_logits and, for the two relativistic kinds, real_logits, to any order. The other kinds check a real_logits that
        is given but read nothing from it: no gradient reaches it.
    Raises: as `discriminator_loss`, and ValueError for a relativistic kind without real_logits.
    Source: as `discriminator_loss`.
    """
    op = "generator_loss"
    check_kind(op, kind)
    _check_logits(op, "fake_logits", fake_logits)
    if real_logits is not None:
        _check_logits(op, "real_logits", real_logits)
        _check_both(op, real_logits, fake_logits, kind)
    elif kind in RELATIVISTIC:
        _checks.fail(op, f"real_logits is None, kind={kind!r} compares fakes with reals and wants them", "Call generator_loss(fake, real)")
    real = real_logits if kind in RELATIVISTIC else None
    return _run(op, real, fake_logits, kind, True, 0.0, False, backend)[0]


def check_kind(op: str, kind: object) -> None:
    if not isinstance(kind, str) or kind not in KINDS:
        _checks.nearest(op, "kind", kind, KINDS)


def check_smoothing(op: str, kind: str, smoothing: object) -> None:
    if isinstance(smoothing, bool) or not isinstance(smoothing, (int, float)):
        _checks.fail(op, f"smoothing is {smoothing!r}, wants a float in [0, 1)", error=TypeError)
    if not 0 <= smoothing < 1:
        _checks.fail(op, f"smoothing is {smoothing}, wants a value in [0, 1)", "It is what the real target 1 - smoothing falls short of 1")
    if smoothing and kind not in SMOOTHED:
        _checks.fail(op, f"smoothing is {smoothing}, kind={kind!r} has no target to smooth", f"Kinds with one: {', '.join(SMOOTHED)}")


def _check_logits(op: str, argument: str, logits: object) -> None:
    _checks.check_tensor(op, argument, logits)
    if logits.dtype not in _checks.FLOAT_DTYPES:
        _checks.fail(op, f"{argument} has dtype {logits.dtype}, wants float32, bfloat16, float16 or float64",
                     "Logits are the discriminator's raw outputs, not labels or classes", TypeError)  # fmt: skip
    if logits.numel() == 0:
        _checks.fail(op, f"{argument} is empty: shape {tuple(logits.shape)}", "The mean over no logits is undefined")


def _check_both(op: str, real: Tensor, fake: Tensor, kind: str) -> None:
    if real.dtype != fake.dtype:
        _checks.fail(op, f"fake_logits has dtype {fake.dtype}, real_logits has {real.dtype}; both must be the same",
                     "Cast one of them, or run both through the discriminator under the same autocast", TypeError)  # fmt: skip
    _checks.check_device(op, "fake_logits", fake, real, "real_logits")
    if kind == "relativistic" and real.shape != fake.shape:
        _checks.fail(
            op, f"fake_logits has shape {tuple(fake.shape)}, real_logits {tuple(real.shape)}; kind={kind!r} pairs them, wants equal shapes",
            "relativistic_average takes unequal sizes",
        )  # fmt: skip


def _run(
    op: str, real: Tensor | None, fake: Tensor, kind: str, generator: bool, smoothing: float, want_stats: bool, backend: str | None
) -> tuple[Tensor, Tensor | None]:
    """(loss, stats [5] or None where they cost extra and nobody asked)"""
    wanted = _backends.requested(op, backend)
    chosen = _backends.first_fused(fake) if wanted == "auto" else _backends.named(op, wanted, fake)
    if chosen == "torch":
        return eager_chain(real, fake, kind, generator, smoothing, want_stats)
    if torch.is_grad_enabled() and (fake.requires_grad or (real is not None and real.requires_grad)):
        return GanLoss.apply(real, fake, kind, generator, smoothing, chosen)
    loss, _, _, stats = forward_op(real, fake, kind, generator, smoothing, chosen)
    return loss, stats
