"""What a source of training batches is, and the one whose data lies whole on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

import ganfast.functional as GF
from ganfast.train import parts, trees
from ganfast.train.data.order import Order

KEPT = 100  # reals that are looked at again and again


class Source:
    """Samples for training. On the host `next()` moves on and gives what `open` wants, tensors on the device; `open(handle, draws)` makes
    (real float32, told) of it on the device alone, so that it can be part of a CUDA graph.

    real: the samples that are imitated; told: what conditions are made from, None beside a lone tensor, the second of a pair, of other
    items the whole tree. form: an item's structure, None before the first was read; key: which part is `real`; labels: which part of
    `told` holds labels. length: of the data, None where it is not known; classes: names of the labels, [] where nothing tells them;
    broken: what was left out, and why.
    """

    length: int | None

    def __init__(
        self,
        device: torch.device,
        rows: int,
        *,
        form: trees.Structure | None = None,
        key: parts.Key = None,
        labels: parts.Key = None,
        flip: bool = False,
        channels_last: bool = False,
        backend: str | None = None,
    ) -> None:
        self.form, self.key, self.labels = form, key, labels
        self.device, self.rows, self.flip, self.channels_last, self.backend = device, rows, flip, channels_last, backend
        self.classes: list[str] = []
        self.broken: list[str] = []
        self._reals: dict[int, tuple[Tensor, object]] = {}

    def next(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def open(self, handle: tuple[Tensor, ...], draws) -> tuple[Tensor, object]:
        """`draws.uniform(rows)` decides which images are mirrored, all of an item alike."""
        raise NotImplementedError

    def item(self, leaves: list[Tensor]) -> tuple[Tensor, object]:
        """(real, told) of an item's leaves."""
        return leaves[parts.place(self.form, self.key)], parts.told(trees.rebuilt(self.form, leaves), self.key)

    def size_of(self, leaves: Sequence[Tensor]) -> torch.Size | None:
        """Height and width of the samples; None where they are no images."""
        samples = leaves[parts.place(self.form, self.key)]
        return samples.shape[2:] if samples.dim() == 4 else None

    def labels_of(self, told: object) -> Tensor | None:
        """The labels [N] int64 in what is told, where it is them or the key `labels` leads to them."""
        found = told if self.labels is None or isinstance(told, Tensor) else parts.part(told, self.labels, "condition")
        return found if isinstance(found, Tensor) and found.dim() == 1 and found.dtype == torch.int64 else None

    def reals(self, n: int) -> tuple[Tensor, object]:
        """The first n (or all there are) of a fixed shuffle, not mirrored; the position stays. Few are kept, for what looks at them
        again and again."""
        if n > KEPT:
            return self.first_reals(n)
        if n not in self._reals:
            self._reals[n] = self.first_reals(n)
        return self._reals[n]

    def first_reals(self, n: int) -> tuple[Tensor, object]:
        """What `reals` gives, read anew each time."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, int]:
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, int]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Ends worker processes, if there are any."""

    def mirrored(self, draws) -> Tensor | None:
        return draws.uniform(self.rows) < 0.5 if self.flip else None

    def drawn(self, x: Tensor, index: Tensor, mirrored: Tensor | None, size: torch.Size | None = None) -> Tensor:
        """x[index] as the networks want it: bytes as floats in [-1, 1], images mirrored and in the layout, all else as it is. size: of the
        samples; a mask [N, H, W] of that size is mirrored too."""
        if x.dtype == torch.uint8:
            return GF.gather_images(x, index, flip=mirrored, channels_last=self.channels_last, backend=self.backend)
        y = x.index_select(0, index)
        if mirrored is not None and (y.dim() == 4 or (y.dim() == 3 and y.shape[1:] == size)):
            y = torch.where(mirrored.view(-1, *[1] * (y.dim() - 1)), y.flip(-1), y)
        return y.contiguous(memory_format=torch.channels_last) if y.dim() == 4 and self.channels_last else y


class InMemory(Source):
    """Tensors on the device, uint8 as they are; `next` gives (index,) [rows] int64, without replacement within an epoch."""

    def __init__(self, leaves: list[Tensor], order: Order, device: torch.device, **how) -> None:
        super().__init__(device, order.rows, **how)
        self.leaves = [leaf.to(device) for leaf in leaves]
        self.length, self.order = order.length, order

    def next(self) -> tuple[Tensor]:
        return (self.order.next(),)

    def open(self, handle, draws):
        (index,), mirrored = handle, self.mirrored(draws)
        return self.item([self.drawn(leaf, index, mirrored, self.size_of(self.leaves)) for leaf in self.leaves])

    def first_reals(self, n):
        index = self.order.fixed(n).to(self.device)
        return self.item([self.drawn(leaf, index, None) for leaf in self.leaves])

    def state_dict(self):
        return self.order.state_dict()

    def load_state_dict(self, state):
        self.order.load_state_dict(state)
