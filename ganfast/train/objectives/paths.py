"""StyleGAN2's path lengths as a term of a generator: what it is made of, and the mean of the lengths so far."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ganfast import _checks, penalties
from ganfast.train.phases import Batch

MEMORY = 0.99  # how much of the mean stays at each call


class PathLengths(nn.Module):
    """The penalty of a batch's first half, and the mean of all lengths so far, a buffer, so that checkpoints keep it.

    The first lengths count in full: a mean that begins at 0, as the published one, draws lengths to it for the first hundreds of steps,
    and with them the variety of a short run's samples.

    Raises: ValueError for a generator without `mapping` and `synthesis`, a run without latents.
    """

    def __init__(self) -> None:
        super().__init__()
        self.over: Callable[[Tensor], Tensor] | None = None  # the mean of a tensor over all processes
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, generator: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """path_penalty, differentiable; path_length, the lengths' mean, and path_deviation, their deviation over that."""
        if batch.latent is None:
            _checks.fail("train", "path_length measures what latents change, and the run has none", "Leave it off, or set latent_dim")
        if not (hasattr(generator, "mapping") and hasattr(generator, "synthesis")):
            cause = "ganfast.models.StyleGAN2Generator has them: mapping(latent, *condition) -> w, synthesis(w) -> images"
            _checks.fail("train", f"path_length wants a generator with parts mapping and synthesis, got {type(generator).__name__}", cause)
        half = -(-len(batch.latent) // 2)
        given = tuple(some[:half] if isinstance(some, Tensor) else some for some in batch.given_to(generator))
        styles = getattr(generator, "styles", generator.mapping)(batch.latent[:half], *given)
        draw = lambda images: batch.draws.normal(*images.shape).to(images.dtype)
        self.seen.add_(1)
        memory = (1 - 1 / self.seen).clamp_max(MEMORY)
        penalty, lengths = penalties.path_length_penalty(
            generator.synthesis, styles, self.mean, draw=draw, memory=memory, over=self.over
        )  # fmt: skip
        lengths = lengths.detach()
        return {"path_penalty": penalty, "path_length": lengths.mean(), "path_deviation": lengths.std(unbiased=False) / lengths.mean()}
