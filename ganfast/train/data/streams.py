"""Sources that copy each batch to the device: from tensors in the machine's memory, or from a Dataset decoded by worker processes."""

import copy
import weakref
from collections.abc import Iterator

import torch
from torch import Tensor

from ganfast.train.data import items
from ganfast.train.data.batches import Source
from ganfast.train.data.order import Order, on_device
from ganfast.train.data.workers import Entry, Items, end, loader, worker_alive


class Streamed(Source):
    """`next` gives the batch itself, (first, second) or (first,), on the device."""

    def __init__(self, device: torch.device, rows: int, *, names: list[str] | None = None, image_size: int | None = None, **how) -> None:
        super().__init__(device, rows, **how)
        self.classes, self.image_size = names or [], image_size
        self.every = torch.arange(rows, device=device)
        self._looked = False

    def batch(self) -> tuple[Tensor, Tensor | None]:
        """The next [rows, ...] on the CPU, or wherever the data lies."""
        raise NotImplementedError

    def checked(self, got: object) -> tuple[Tensor, Tensor | None]:
        """A loader's batch, checked, in the dtypes that `open` wants. The range of values is checked in the first batch alone."""
        first, second = items.parts(got, "a batch")
        if not isinstance(first, Tensor) or not isinstance(second, (Tensor, type(None))):
            kinds = ", ".join(type(part).__name__ for part in (first, second) if part is not None)
            items.refuse(f"a batch holds {kinds}, wants tensors; collate_fn of the DataLoader makes them.")
        first = items.reals(first, "a batch's first part", self.flip, self.image_size)
        if not self._looked:
            items.look_at_range(first, "the first batch")
            self._looked = True
        second = None if second is None else items.seconds(second, len(first), "a batch's second part")
        if self.classes:
            items.named(second, self.classes)
        return first, second

    def next(self) -> tuple[Tensor, ...]:
        return tuple(on_device(part, self.device) for part in self.batch() if part is not None)

    def open(self, handle, draws):
        mirrored = self.mirrored(draws)
        return self.drawn(handle[0], self.every, mirrored), self.drawn(handle[1], self.every, mirrored) if len(handle) > 1 else None

    def joined(self, batches: Iterator[tuple[Tensor, Tensor | None]], n: int) -> tuple[Tensor, Tensor | None]:
        """The first n entries of the batches, as `reals` gives them."""
        firsts, seconds, count = [], [], 0
        for first, second in batches:
            firsts.append(first)
            seconds += [] if second is None else [second]
            count += len(first)
            if count >= n:
                break
        every = torch.arange(min(n, count), device=self.device)
        both = (torch.cat(part).to(self.device) if part else None for part in (firsts, seconds))
        first, second = (self.drawn(part, every, None) for part in both)
        return first, second


class FromHost(Streamed):
    """Tensors in the machine's memory that the device's cannot hold."""

    def __init__(self, first: Tensor, second: Tensor | None, order: Order, device: torch.device, **how) -> None:
        super().__init__(device, order.rows, **how)
        self.first, self.second, self.length, self.order = first, second, len(first), order

    def _at(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.first.index_select(0, index), None if self.second is None else self.second.index_select(0, index)

    def batch(self):
        return self._at(self.order.next())

    def first_reals(self, n):
        return self.joined(iter([self._at(self.order.fixed(n))]), n)

    def state_dict(self):
        return self.order.state_dict()

    def load_state_dict(self, state):
        self.order.load_state_dict(state)


class _Keys:
    """Endless batches of keys (epoch, index) for this process, from the position of `order` on, which itself does not move."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        ahead = copy.copy(self.order)
        while True:
            start = ahead.taken + ahead.first
            yield [((start + i) // ahead.length, index) for i, index in enumerate(ahead.next().tolist())]


class FromDataset(Streamed):
    """A map-style Dataset, decoded by worker processes ahead of the training; order and position as in memory."""

    def __init__(self, all_items: Items, order: Order, device: torch.device, workers: int, **how) -> None:
        super().__init__(device, order.rows, **how)
        self.items, self.order, self.workers, self.length = all_items, order, workers, order.length
        self._batches, self._told = None, 0

    def _stacked(self, got: tuple[tuple[Tensor, ...] | items.Refused | items.Failed, list[str]]) -> tuple[Tensor, Tensor | None]:
        both, wrong = got
        self.broken += [line for line in dict.fromkeys(wrong) if line not in self.broken]
        if not self._told:
            self._tell()
        items.stop_at(both)
        return self.checked(both)

    def _tell(self) -> None:
        if len(self.broken) > self._told:
            self._told = len(self.broken)
            items.warn(
                f"{self._told} of the Dataset's {self.length} items cannot be read so far, the next one stands in for each; "
                f"the last: {self.broken[-1]}."
            )

    def batch(self):
        if self._batches is None:
            self._batches = iter(loader(self.items, _Keys(self.order), self.workers, stacked))
            self._dropped = weakref.finalize(self, end, self._batches)  # a source that nobody closes
        try:
            with worker_alive():
                batch = next(self._batches)
            got = self._stacked(batch)
        except BaseException:
            self.close()
            raise
        self.order.taken += self.order.batch_size
        return got

    def first_reals(self, n):
        index = self.order.fixed(n).tolist()
        keys = [[(-1, k) for k in index[i : i + self.rows]] for i in range(0, len(index), self.rows)]
        batches = iter(loader(self.items, keys, self.workers, stacked))
        try:
            with worker_alive():
                return self.joined(map(self._stacked, batches), n)
        finally:
            end(batches)

    def state_dict(self):
        return self.order.state_dict()

    def load_state_dict(self, state):
        self.close()
        self.order.load_state_dict(state)

    def close(self):
        if self._batches is not None:
            self._dropped()
            self._batches = None
        self._tell()


def stacked(
    batch: list[tuple[Entry | items.Refused | items.Failed | None, list[str]]],
) -> tuple[tuple[Tensor, ...] | items.Refused | items.Failed, list[str]]:
    """A batch of Items collated, (first [B, ...], second), and what went wrong in it."""
    wrong = [line for _, lines in batch for line in lines]
    entries = [entry for entry, _ in batch]
    bad = [entry for entry in entries if not isinstance(entry, Entry)]
    if bad:
        return bad[0] or items.Refused(f"data: too many items in a row cannot be read; the last: {wrong[-1]}"), wrong
    try:
        return tuple(torch.stack(parts) for parts in zip(*entries) if parts[0] is not None), wrong
    except (RuntimeError, TypeError):
        looks = ", ".join(sorted({" with ".join(str(tuple(part.shape)) for part in entry if part is not None) for entry in entries}))
        cause = "image_size resizes PIL images, a transform makes all alike"
        return items.Refused(f"data: items of one batch have shapes {looks}; {cause}."), wrong
