"""ADA: what the discriminator sees is augmented with a probability that follows from how sure it is of the training images."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ganfast import _ada_matrices, _checks, augment

__all__ = ["POLICIES", "AdaptiveAugment", "ada_augment", "policy_of"]

POLICIES = ("blit", "geom", "color")


def policy_of(setting: str, op: str = "ada") -> str:
    """ADA's policy in a setting such as "ada", which is all of it, or "ada:blit,color"; "" in another. Raises: ValueError for another name
    behind "ada:"."""
    name, _, policy = setting.partition(":")
    if name.strip() != "ada":
        return ""
    return ",".join(augment.parts(policy, op, POLICIES) or POLICIES)


def ada_augment(
    images: Tensor,
    p: Tensor | float,
    policy: str = "blit,geom,color",
    *,
    uniform: Callable[..., Tensor] | None = None,
    normal: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Each image under draws of its own, each kind of change with probability ``p``. Use it on all that the discriminator sees, in every
    phase; the generator's gradient goes through it. Below some p = 0.8 a generator still learns the images as they were.

    - blit: mirrored or not; turned by 0, 90, 180 or 270 degrees; moved by whole pixels, up to an eighth of the size to each side.
    - geom: larger or smaller by exp N(0, (0.2 ln 2)^2); turned by any angle; stretched along one side and squeezed along the other by a
      factor of the same distribution; turned again, both turns with probability 1 - sqrt(1 - p); moved by N(0, 1/8) of the size.
    - color: brightness + N(0, 0.2^2); contrast times exp N(0, (0.5 ln 2)^2); the grey part of colours turned to its negative, or not; hue
      turned by any angle; saturation times exp N(0, (ln 2)^2). Grey images have neither hue nor saturation.

    They act in this order, the first two as one map under which the image is resampled once, and beyond its borders it goes on mirrored.
    ``uniform(*shape)`` gives numbers in [0, 1), ``normal(*shape)`` of N(0, 1); each is asked once, for [N, 21] and [N, 7], whatever the
    policy is. Without them: torch.rand and torch.randn.

    Shapes: images [N, C, H, W], of 1 or 3 channels under color, and so is the result. p a float, or a 0-d tensor on the images' device.
    Dtypes: any floating; computed in float32 (float64 for float64), under autocast too, and rounded once.
    Layout: contiguous or channels_last, kept. An image whose draws change nothing is given back bit for bit; p = 0.0 gives ``images``.
    Grads: images, any order; none to p. Never waits for the device; `ganfast.capture` takes it.
    Raises: TypeError for what is no tensor of floats, no number, no str; ValueError for other shapes, p outside of 0 to 1 (a tensor is not
        looked at), an unknown name.
    Source: Karras, Aittala, Hellsten, Laine, Lehtinen & Aila 2020, "Training generative adversarial networks with limited data", appendix
        B, without its filtering in bands and its corruptions. There what is mirrored ends at the image's size from the border; here it
        goes on, and colours are one map in closed form instead of a product of matrices.
    """
    op = "ada_augment"
    names = augment.parts(policy, op, POLICIES)
    _checks.check_tensor(op, "images", images)
    _checks.check_floating(op, "images", images)
    if images.dim() != 4:
        cause = "A single image wants images[None]" if images.dim() == 3 else ""
        _checks.fail(op, f"images has shape {tuple(images.shape)}, wants [N, C, H, W]", cause)
    if "color" in names and images.shape[1] not in (1, 3):
        cause = 'policy="blit,geom" takes any number'
        _checks.fail(op, f"images has {images.shape[1]} channels, colours want 1 (grey) or 3 (RGB)", cause)
    p = _probability(op, p, images)
    if not names or not images.numel() or (not isinstance(p, Tensor) and p == 0):
        return images
    n, acc = images.shape[0], torch.promote_types(images.dtype, torch.float32)
    u = _drawn(op, "uniform", uniform or torch.rand, (n, _ada_matrices.UNIFORMS), images, given=uniform is not None)
    z = _drawn(op, "normal", normal or torch.randn, (n, _ada_matrices.NORMALS), images, given=normal is not None)
    x = images.to(acc)
    if geometric := tuple(name for name in names if name != "color"):
        with torch.no_grad():
            inverse = _ada_matrices.geometry(u, z, p, geometric, *images.shape[2:])
            changed = (inverse != torch.eye(3, dtype=acc, device=x.device)).flatten(1).any(1)
        x = torch.where(changed[:, None, None, None], _ada_matrices.resampled(x, inverse), x)
    if "color" in names:
        x = _ada_matrices.coloured(x, _ada_matrices.colours(u, z, p))
    layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous() else None
    return x.to(images.dtype).contiguous(memory_format=layout or torch.contiguous_format)


def _probability(op: str, p: object, images: Tensor) -> Tensor | float:
    if isinstance(p, Tensor):
        if p.dim() or not p.is_floating_point():
            _checks.fail(op, f"p is a tensor of {p.dtype} and shape {tuple(p.shape)}, wants a 0-d one of floats", error=TypeError)
        _checks.check_device(op, "p", p, images, "images")
        return p.detach().to(torch.promote_types(images.dtype, torch.float32))
    p = _checks.check_number(op, "p", p)
    if not 0 <= p <= 1:
        _checks.fail(op, f"p is {p}, wants a probability from 0 to 1")
    return p


def _drawn(op: str, name: str, draw: Callable[..., Tensor], shape: tuple[int, int], images: Tensor, given: bool) -> Tensor:
    found = draw(*shape) if given else draw(*shape, device=images.device)
    if tuple(found.shape) != shape:
        _checks.fail(op, f"{name}(*shape) gave shape {tuple(found.shape)}, wants {shape}")
    return found.to(images.device, torch.promote_types(images.dtype, torch.float32))


class AdaptiveAugment(nn.Module):
    """`ada_augment` with a probability p that rises while the discriminator is surer of the training images than ``target``, and falls
    while it is less sure.

        ada = ganfast.ada.AdaptiveAugment().to(device)
        real_logits, fake_logits = discriminator(ada(real)), discriminator(ada(fake))
        loss, stats = GF.discriminator_loss(real_logits, fake_logits, return_stats=True)
        ada.observe(stats.real_sign, len(real))

    Arguments: policy: as `ada_augment`'s. target: of r_t, the mean sign of the real logits, 1 for a discriminator that is sure of every
        training image. speed: images that are observed while p goes from 0 to 1, if it only rises. interval: p moves at every so manieth
        observation, by what was observed since the last time. mean: of several processes, a function that gives the mean of a tensor over
        them all.
    Fields: p, a 0-d float32 tensor, 0 at first. It and the sums since p last moved are buffers, written in place: a state dict holds them,
        `ganfast.FiniteGuard(..., ada)` puts them back after a step that is skipped, `ganfast.capture` records `observe`.
    Shapes, Dtypes, Layout, Grads: of a call as `ada_augment`'s, with its uniform and normal.
    Raises: TypeError, ValueError for settings that make no sense, and as `ada_augment`.
    Source: Karras et al. 2020, as there, section 3 and equation 1: r_t, its target of 0.6, every 4 batches, 500,000 images.
    """

    def __init__(
        self,
        policy: str = "blit,geom,color",
        *,
        target: float = 0.6,
        speed: float = 500_000,
        interval: int = 4,
        mean: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        op = "AdaptiveAugment"
        augment.parts(policy, op, POLICIES)
        if not -1 <= _checks.check_number(op, "target", target) <= 1:
            _checks.fail(op, f"target is {target}, wants a mean sign, from -1 to 1")
        if not 0 < _checks.check_number(op, "speed", speed) < math.inf:
            _checks.fail(op, f"speed is {speed}, wants a positive number of images")
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            _checks.fail(op, f"interval is {interval!r}, wants a whole number of at least 1")
        self.policy, self.target, self.speed, self.interval, self.mean = policy, target, speed, interval, mean
        for name in ("p", "signs", "images", "observed"):
            self.register_buffer(name, torch.zeros(()))

    @property
    def moves(self) -> bool:
        """Whether images are moved, not coloured alone."""
        return self.policy.strip() != "color"

    def forward(
        self, images: Tensor, *, uniform: Callable[..., Tensor] | None = None, normal: Callable[..., Tensor] | None = None
    ) -> Tensor:
        return ada_augment(images, self.p, self.policy, uniform=uniform, normal=normal)

    @torch.no_grad()
    def observe(self, sign: Tensor, images: int) -> None:
        """Takes note of the mean sign, a 0-d tensor on the device, of the logits of so many training images, of all processes together, and
        moves p where that is due. Never waits for the device."""
        sign = sign.detach().float() if self.mean is None else self.mean(sign.detach().float())
        self.signs.add_(sign * images)
        self.images.add_(images)
        self.observed.add_(1)
        due = self.observed >= self.interval
        surer = torch.sign(self.signs / self.images - self.target).nan_to_num(0.0)  # logits that are NaN say nothing
        self.p.copy_(torch.where(due, (self.p + surer * self.images / self.speed).clamp(0, 1), self.p))
        for held in (self.signs, self.images, self.observed):
            held.copy_(torch.where(due, 0.0, held))

    def extra_repr(self) -> str:
        return f"{self.policy!r}, target={self.target}, speed={self.speed:g}, interval={self.interval}"
