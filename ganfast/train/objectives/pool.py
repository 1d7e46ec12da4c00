"""ImagePool: a history of fakes, so that a discriminator is shown older ones too."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ganfast import _checks


class ImagePool(nn.Module):
    """The last fakes of a generator. Each new one is shown and kept while there is room; after that half of them are shown and forgotten,
    and of the other half each takes the place of one that was kept, which is shown instead.

        adversarial(config, fake=ganfast.train.ImagePool(50))

    Arguments: size: images that are kept; 0: none, all that comes is shown. fakes: a function (networks, batch) -> fakes, in place of the
        generator's own.
    Shapes: pool(fakes [N, ...], uniform) gives as many, uniform(*shape) numbers in [0, 1), as `Batch.draws.uniform`. N is at most `size`,
        the same shape at every call.
    Dtypes: any floating; kept in float32. Grads: none. Never waits for the device; its state is in the buffers, and so in a Trainer's
        checkpoint, of several processes in that of the first alone.
    Raises: ValueError for a batch larger than the pool, or of another shape.
    Source: Shrivastava et al. 2017, "Learning from simulated and unsupervised images through adversarial training"; Zhu et al. 2017,
        "Unpaired image-to-image translation", section 4. There images are taken one by one, so that one may be replaced twice in a
        batch; here the places of a batch differ.
    """

    def __init__(self, size: int = 50, fakes: Callable | None = None) -> None:
        super().__init__()
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            _checks.fail("ImagePool", f"size is {size!r}, wants a whole number of at least 0")
        self.size, self.fakes = size, fakes
        self.register_buffer("images", None)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def begin(self, shape: tuple[int, ...], device: torch.device) -> None:
        """Makes room for images of this shape; Trainer does it before the first step."""
        self.images = torch.zeros(self.size, *shape, device=device)
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    def forward(self, fakes: Tensor, uniform: Callable[..., Tensor]) -> Tensor:
        n, fakes = len(fakes), fakes.detach()
        if not self.size:
            return fakes
        if n > self.size:
            _checks.fail("ImagePool", f"a batch has {n} images, the pool {self.size}", "Make it larger than a batch")
        if self.images is None:
            self.begin(fakes.shape[1:], fakes.device)
        if fakes.shape[1:] != self.images.shape[1:]:
            _checks.fail("ImagePool", f"fakes have shape {list(fakes.shape)}, kept are {list(self.images.shape)}; both must be the same")
        shape = (n, *[1] * (fakes.dim() - 1))
        free = self.count + torch.arange(n, device=fakes.device)
        filling = free < self.size
        empty = torch.arange(self.size, device=fakes.device) >= self.count
        order = uniform(self.size).masked_fill(empty, 2).argsort()  # the places that are taken, in a random order, then the others
        at = torch.where(filling, free, order[(free - self.size).clamp_min(0)])
        swapped = ~filling & (uniform(n) < 0.5)
        kept = self.images[at].to(fakes.dtype)
        self.images.index_copy_(0, at, torch.where((filling | swapped).view(shape), fakes.float(), self.images[at]))
        self.count.copy_((self.count + n).clamp_max(self.size))
        return torch.where(swapped.view(shape), kept, fakes)
