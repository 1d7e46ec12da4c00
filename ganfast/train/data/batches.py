"""The order in which reals are drawn, and what a source of them is; the one whose data lies on the device."""

import torch
from torch import Tensor

import ganfast.functional as GF
from ganfast.train.data import items
from ganfast.train.randomness import permutation


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Without waiting: pinned memory is given back to its pool only after the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and not tensor.is_cuda else tensor.to(device)

KEPT = 100  # reals that are looked at again and again


class Order:
    """All epochs' permutations behind each other, cut into batches of `batch_size`; of each, `next` gives this process's contiguous part.

    `taken` counts the items of all processes, so (epoch, offset) = divmod(taken, length), whatever the batch size and the processes.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int, world: int, device: torch.device) -> None:
        self.length, self.batch_size, self.seed, self.device = length, batch_size, seed, device
        self.rows = batch_size // world
        self.first = rank * self.rows
        self.taken = 0
        self._queue, self._start = torch.empty(0, dtype=torch.int64), 0

    def next(self) -> Tensor:
        if self.taken < self._start or self.taken + self.batch_size > self._start + len(self._queue):
            self._fill()
        at = self.taken - self._start + self.first
        self.taken += self.batch_size
        return self._queue[at : at + self.rows]

    def _fill(self) -> None:
        """From the present epoch to the one in which the batch ends; few items are laid out for many batches at once."""
        first, last = self.taken // self.length, (self.taken + max(self.batch_size, 1024) - 1) // self.length
        if self.length > self.batch_size:
            last = (self.taken + self.batch_size - 1) // self.length
        epochs = [permutation(self.length, self.seed, epoch) for epoch in range(first, last + 1)]
        self._queue, self._start = on_device(torch.cat(epochs), self.device), first * self.length

    def fixed(self, n: int) -> Tensor:
        """The first n of a permutation that is no epoch's."""
        return permutation(self.length, self.seed, -1)[:n]

    def state_dict(self) -> dict[str, int]:
        epoch, offset = divmod(self.taken, self.length)
        return {"epoch": epoch, "offset": offset, "length": self.length}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.taken = state["epoch"] * self.length + state["offset"]
        if state["length"] != self.length:
            self.taken = (state["epoch"] + 1) * self.length
            items.warn(f"there are {self.length} entries, the saved run had {state['length']}: it goes on with a new epoch.")


class Source:
    """Reals for training. On the host `next()` moves on and gives what `open` wants, tensors on the device; `open(handle, draws)` makes
    (real float32, second or None) of it on the device alone, so that it can be part of a CUDA graph.

    length: of the data, None where it is not known; classes: names of the labels, [] where nothing tells them; broken: what was left out,
    and why.
    """

    length: int | None

    def __init__(
        self, device: torch.device, rows: int, flip: bool = False, channels_last: bool = False, backend: str | None = None
    ) -> None:
        self.device, self.rows, self.flip, self.channels_last, self.backend = device, rows, flip, channels_last, backend
        self.classes: list[str] = []
        self.broken: list[str] = []
        self._reals: dict[int, tuple[Tensor, Tensor | None]] = {}

    def next(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def open(self, handle: tuple[Tensor, ...], draws) -> tuple[Tensor, Tensor | None]:
        """`draws.uniform(rows)` decides which are mirrored; a second that is images is mirrored with the first."""
        raise NotImplementedError

    def reals(self, n: int) -> tuple[Tensor, Tensor | None]:
        """The first n (or all there are) of a fixed shuffle, not mirrored; the position stays. Few are kept, for what looks at them
        again and again."""
        if n > KEPT:
            return self.first_reals(n)
        if n not in self._reals:
            self._reals[n] = self.first_reals(n)
        return self._reals[n]

    def first_reals(self, n: int) -> tuple[Tensor, Tensor | None]:
        """`reals`, read anew."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, int]:
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, int]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Ends what runs beside: worker processes."""

    def mirrored(self, draws) -> Tensor | None:
        return draws.uniform(self.rows) < 0.5 if self.flip else None

    def drawn(self, x: Tensor | None, index: Tensor, mirrored: Tensor | None) -> Tensor | None:
        """x[index] as the networks want it: bytes as floats in [-1, 1], images mirrored and in the layout, all else as it is."""
        if x is None:
            return None
        if x.dtype == torch.uint8:
            return GF.gather_images(x, index, flip=mirrored, channels_last=self.channels_last, backend=self.backend)
        y = x.index_select(0, index)
        if y.dim() == 4 and mirrored is not None:
            y = torch.where(mirrored[:, None, None, None], y.flip(-1), y)
        return y.contiguous(memory_format=torch.channels_last) if y.dim() == 4 and self.channels_last else y


class InMemory(Source):
    """Tensors on the device, uint8 as they are; `next` gives (index,) [rows] int64, without replacement within an epoch."""

    def __init__(self, first: Tensor, second: Tensor | None, order: Order, device: torch.device, **how) -> None:
        super().__init__(device, order.rows, **how)
        self.first, self.second = first.to(device), None if second is None else second.to(device)
        self.length, self.order = len(first), order

    def next(self) -> tuple[Tensor]:
        return (self.order.next(),)

    def open(self, handle, draws):
        (index,), mirrored = handle, self.mirrored(draws)
        return self.drawn(self.first, index, mirrored), self.drawn(self.second, index, mirrored)

    def first_reals(self, n):
        index = self.order.fixed(n).to(self.device)
        return self.drawn(self.first, index, None), self.drawn(self.second, index, None)

    def state_dict(self):
        return self.order.state_dict()

    def load_state_dict(self, state):
        self.order.load_state_dict(state)
