"""Sources that copy each batch to the device: from tensors in the machine's memory, or from a Dataset decoded by worker processes."""

import copy
import weakref
from collections.abc import Iterator

import torch
from torch import Tensor

from ganfast.train import parts, trees
from ganfast.train.data import items
from ganfast.train.data.batches import Source
from ganfast.train.data.order import Order, on_device
from ganfast.train.data.workers import Entry, Items, end, loader, worker_alive


class Streamed(Source):
    """`next` gives the batch's leaves themselves, on the device."""

    def __init__(self, device: torch.device, rows: int, *, names: list[str] | None = None, image_size: int | None = None, **how) -> None:
        super().__init__(device, rows, **how)
        self.names, self.image_size = names, image_size
        self.classes = names or []
        self.every = torch.arange(rows, device=device)
        self._looked = False

    def batch(self) -> list[Tensor]:
        """The next batch's leaves [rows, ...] on the CPU, or wherever the data lies."""
        raise NotImplementedError

    def checked(self, got: object) -> list[Tensor]:
        """The leaves of a loader's batch, checked, in the dtypes that `open` wants. The range of values is checked in the first batch
        alone."""
        form, found = items.opened(got, "a batch")
        if form != (self.form or form):
            items.refuse(f"a batch has the parts {trees.names(form)}, those before had {trees.names(self.form)}; wants all alike.")
        self.form = form
        if not all(isinstance(leaf, Tensor) for leaf in found):
            kinds = ", ".join(type(leaf).__name__ for leaf in found)
            items.refuse(f"a batch holds {kinds}, wants tensors; collate_fn of the DataLoader makes them.")
        found = items.all_checked(found, form, self.key, self.flip, self.image_size, "a batch's", "part")
        real, told = self.item(found)
        if not self._looked and self.key is not parts.NO_SAMPLES:
            items.look_at_range(real, "the first batch")
            self._looked = True
        if self.classes:
            items.named(self.labels_of(told), self.classes)
        return found

    def next(self) -> tuple[Tensor, ...]:
        return tuple(on_device(leaf, self.device) for leaf in self.batch())

    def open(self, handle, draws):
        mirrored = self.mirrored(draws)
        return self.item([self.drawn(leaf, self.every, mirrored, self.size_of(handle)) for leaf in handle])

    def joined(self, batches: Iterator[list[Tensor]], n: int) -> tuple[Tensor, object]:
        """The first n entries of the batches, as `reals` gives them."""
        found, count = [], 0
        for leaves in batches:
            found.append(leaves)
            count += len(leaves[0])
            if count >= n:
                break
        every = torch.arange(min(n, count), device=self.device)
        return self.item([self.drawn(torch.cat(parts).to(self.device), every, None) for parts in zip(*found)])


class FromHost(Streamed):
    """Tensors in the machine's memory that the device's cannot hold."""

    def __init__(self, leaves: list[Tensor], order: Order, device: torch.device, **how) -> None:
        super().__init__(device, order.rows, **how)
        self.leaves, self.length, self.order = leaves, order.length, order

    def _at(self, index: Tensor) -> list[Tensor]:
        return [leaf.index_select(0, index) for leaf in self.leaves]

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

    def _stacked(self, got: tuple[object, list[str]]) -> list[Tensor]:
        tree, wrong = got
        self.broken += [line for line in dict.fromkeys(wrong) if line not in self.broken]
        if not self._told:
            self._tell()
        items.stop_at(tree)
        return self.checked(tree)

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


def stacked(batch: list[tuple[Entry | items.Refused | items.Failed | None, list[str]]]) -> tuple[object, list[str]]:
    """A batch of Items collated, a tree of [B, ...], Refused or Failed, and what went wrong in it."""
    wrong = [line for _, lines in batch for line in lines]
    entries = [entry for entry, _ in batch]
    bad = [entry for entry in entries if not isinstance(entry, Entry)]
    if bad:
        return bad[0] or items.Refused(f"data: too many items in a row cannot be read; the last: {wrong[-1]}"), wrong
    try:
        return trees.rebuilt(entries[0].form, [torch.stack(leaves) for leaves in zip(*(e.leaves for e in entries), strict=True)]), wrong
    except (RuntimeError, TypeError, ValueError):
        looks = ", ".join(sorted({" with ".join(str(tuple(leaf.shape)) for leaf in entry.leaves) for entry in entries}))
        cause = "image_size resizes PIL images, a transform makes all alike"
        return items.Refused(f"data: items of one batch have shapes {looks}; {cause}."), wrong
