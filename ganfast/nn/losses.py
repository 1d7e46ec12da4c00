"""The adversarial losses as modules, for code that configures a loss once and calls it every step."""

from torch import Tensor, nn

from ganfast.ops.gan_loss.op import LossStats, check_kind, check_smoothing, discriminator_loss, generator_loss

__all__ = ["DiscriminatorLoss", "GeneratorLoss"]


class DiscriminatorLoss(nn.Module):
    """`ganfast.functional.discriminator_loss` of one kind and smoothing.

    Shapes: real_logits, fake_logits of any shape (equal ones for kind="relativistic") -> a 0-dim loss, or with
        ``return_stats=True`` (loss, LossStats).
    Dtypes, Layout, Grads, Source: see the function. Raises: ValueError at construction for an unknown kind, or a smoothing outside
        [0, 1) or on a kind that has none; else as the function.
    """

    def __init__(self, kind: str = "nonsaturating", smoothing: float = 0.0) -> None:
        super().__init__()
        check_kind("DiscriminatorLoss", kind)
        check_smoothing("DiscriminatorLoss", kind, smoothing)
        self.kind = kind
        self.smoothing = smoothing

    def forward(self, real_logits: Tensor, fake_logits: Tensor, return_stats: bool = False) -> Tensor | tuple[Tensor, LossStats]:
        return discriminator_loss(real_logits, fake_logits, kind=self.kind, smoothing=self.smoothing, return_stats=return_stats)

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}" + (f", smoothing={self.smoothing}" if self.smoothing else "")


class GeneratorLoss(nn.Module):
    """`ganfast.functional.generator_loss` of one kind.

    Shapes: fake_logits, real_logits of any shape -> a 0-dim loss; real_logits only where the kind is relativistic.
    Dtypes, Layout, Grads, Source: see the function. Raises: ValueError at construction for an unknown kind; else as the function.
    """

    def __init__(self, kind: str = "nonsaturating") -> None:
        super().__init__()
        check_kind("GeneratorLoss", kind)
        self.kind = kind

    def forward(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        return generator_loss(fake_logits, real_logits, kind=self.kind)

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}"
