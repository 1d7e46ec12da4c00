"""The order in which items are drawn: a permutation for each epoch, cut into batches and shared out to the processes."""

import torch
from torch import Tensor

from ganfast.train.data import items
from ganfast.train.randomness import permutation


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies without waiting. Pinned memory is reused only after the copy has ended, so it may be dropped here."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and not tensor.is_cuda else tensor.to(device)


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
        """Lays out the epochs from the present one to that in which the batch ends; of a small dataset many at once."""
        first, last = self.taken // self.length, (self.taken + max(self.batch_size, 1024) - 1) // self.length
        if self.length > self.batch_size:
            last = (self.taken + self.batch_size - 1) // self.length
        epochs = [permutation(self.length, self.seed, epoch) for epoch in range(first, last + 1)]
        self._queue, self._start = on_device(torch.cat(epochs), self.device), first * self.length

    def fixed(self, n: int) -> Tensor:
        """The first n of a permutation of its own, which no epoch uses."""
        return permutation(self.length, self.seed, -1)[:n]

    def state_dict(self) -> dict[str, int]:
        epoch, offset = divmod(self.taken, self.length)
        return {"epoch": epoch, "offset": offset, "length": self.length}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.taken = state["epoch"] * self.length + state["offset"]
        if state["length"] != self.length:
            self.taken = (state["epoch"] + 1) * self.length
            items.warn(f"there are {self.length} entries, the saved run had {state['length']}: it goes on with a new epoch.")
