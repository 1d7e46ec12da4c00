"""Data that is decoded as it is needed: Datasets in worker processes with an exact order, and DataLoaders as they come."""

import contextlib
import random
import sys
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ganfast.train import items
from ganfast.train.sources import Order, Source, mixed, on_device, permutation


class Streamed(Source):
    """`next` gives the batch itself, (first, second) or (first,), on the device."""

    def __init__(self, device: torch.device, rows: int, image_size: int | None = None, **how) -> None:
        super().__init__(device, rows, **how)
        self.image_size = image_size
        self.every = torch.arange(rows, device=device)
        self._looked = False

    def batch(self) -> tuple[Tensor, Tensor | None]:
        """The next [rows, ...] on the CPU, or wherever the data lies."""
        raise NotImplementedError

    def checked(self, got: object) -> tuple[Tensor, Tensor | None]:
        """What a loader gave, in the dtypes of `open`; the range is looked at once."""
        first, second = items.parts(got, "a batch")
        if not isinstance(first, Tensor) or not isinstance(second, (Tensor, type(None))):
            kinds = ", ".join(type(part).__name__ for part in (first, second) if part is not None)
            items.refuse(f"a batch holds {kinds}, wants tensors; collate_fn of the DataLoader makes them.")
        first = items.reals(first, "a batch's first part", self.flip, self.image_size)
        if not self._looked:
            items.look_at_range(first, "the first batch")
            self._looked = True
        return first, None if second is None else items.seconds(second, len(first), "a batch's second part")

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


@contextlib.contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Python's, torch's and, where it is loaded, numpy's global random numbers begin at `seed`, and are afterwards as they were."""
    numpy = sys.modules.get("numpy")
    python, kept, arrays = random.getstate(), torch.get_rng_state(), numpy and numpy.random.get_state()
    try:
        random.seed(seed)
        torch.default_generator.manual_seed(seed)
        if numpy:
            numpy.random.seed(seed)
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(kept)
        if numpy:
            numpy.random.set_state(arrays)


class _Seeded(Dataset):
    """dataset[index] at (epoch, index), its random transforms drawn from (seed, epoch, index): workers and resuming change nothing."""

    def __init__(self, dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]):
        with own_randomness(mixed(self.seed, *key)):
            return self.dataset[key[1]]


class _Batches:
    """Keys of this process's batches, without end, from where `order` is now; the order itself stays."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        ahead = Order(self.order.length, self.order.batch_size, self.order.seed, 0, 1, torch.device("cpu"))
        ahead.taken = self.order.taken
        while True:
            start = ahead.taken + self.order.first
            index = ahead.next()[self.order.first :][: self.order.rows].tolist()
            yield [((start + i) // ahead.length, k) for i, k in enumerate(index)]


class FromDataset(Streamed):
    """A map-style Dataset, decoded by worker processes ahead of the training; order and position as in memory."""

    def __init__(self, dataset, seed: int, order: Order, device: torch.device, collate=None, workers: int = 0, **how) -> None:
        super().__init__(device, order.rows, **how)
        self.dataset, self.seed, self.order, self.collate, self.workers = dataset, seed, order, collate, workers
        self.length = order.length
        self._batches = None

    def loader(self, batches) -> DataLoader:
        how = {"multiprocessing_context": "fork", "prefetch_factor": 4} if self.workers else {}
        how |= {"num_workers": self.workers, "collate_fn": self.collate, "batch_sampler": batches}
        return DataLoader(_Seeded(self.dataset, self.seed), **how)

    def batch(self):
        if self._batches is None:
            self._batches = iter(self.loader(_Batches(self.order)))
        got = self.checked(next(self._batches))
        self.order.taken += self.order.batch_size
        return got

    def reals(self, n):
        index = permutation(self.length, self.seed, -1)[:n].tolist()
        keys = [[(-1, k) for k in index[i : i + self.rows]] for i in range(0, len(index), self.rows)]
        return self.joined(map(self.checked, self.loader(keys)), n)

    def state_dict(self):
        return self.order.state_dict()

    def load_state_dict(self, state):
        self.close()
        self.order.load_state_dict(state)

    def close(self):
        self._batches = None  # its workers end with it


class _Share(IterableDataset):
    """Of an IterableDataset's batches of all processes this one's part; the tail that fills none is left out."""

    def __init__(self, dataset: IterableDataset, batch_size: int, rank: int, world: int) -> None:
        self.dataset, self.batch_size, self.rank, self.world = dataset, batch_size, rank, world

    def __iter__(self) -> Iterator:
        rows, batch = self.batch_size // self.world, []
        for item in self.dataset:
            batch.append(item)
            if len(batch) == self.batch_size:
                yield from batch[self.rank * rows :][:rows]
                batch = []


class FromLoader(Streamed):
    """A DataLoader as it comes, begun again at the end of an epoch; batches that are not full are dropped.

    What it draws at random follows from (seed, epoch): its generator and its sampler's, or one given to them where they have none, are
    seeded anew at each epoch, a sampler with `set_epoch` is told, and so are the global generators while it works in this process. A
    resumed run goes through the batches that were taken in its epoch once more and drops them: exact, unless worker processes live
    longer than an epoch (persistent_workers) or draw from what nobody seeds.
    """

    def __init__(self, loader: DataLoader, seed: int, device: torch.device, rows: int, rank: int = 0, **how) -> None:
        super().__init__(device, rows, **how)
        self.loader, self.seed, self.rank = loader, seed, rank
        self.length = len(loader.dataset) if hasattr(loader.dataset, "__len__") else None
        self.epoch = self.taken = 0
        self._batches, self._full = None, False

    def generators(self) -> list[torch.Generator]:
        """Of the loader and its samplers, made where there is none."""
        holders = self.loader, self.loader.sampler, getattr(self.loader.batch_sampler, "sampler", None)
        for holder in holders:
            if getattr(holder, "generator", self) is None:
                holder.generator = torch.Generator()
        found = [getattr(holder, "generator", None) for holder in holders]
        return [generator for generator in found if isinstance(generator, torch.Generator)]

    def begin(self, epoch: int) -> None:
        for i, generator in enumerate(self.generators()):
            generator.manual_seed(mixed(self.seed, epoch, self.rank, i))
        self.tell(epoch)

    def tell(self, epoch: int) -> None:
        for sampler in (self.loader.sampler, self.loader.batch_sampler):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)

    def got(self) -> object | None:
        """The loader's next batch, None at its end."""
        with own_randomness(mixed(self.seed, self.epoch, self.rank, "batch", self.taken)):
            if self._batches is None:
                self.begin(self.epoch)
                self._batches = iter(self.loader)
            self.taken += 1
            return next(self._batches, None)

    def batch(self):
        while True:
            if (got := self.got()) is None:
                if not self._full:
                    items.refuse(f"the DataLoader gave no batch of {self.rows} in a whole epoch; shorter ones are dropped.")
                self.epoch, self.taken, self._batches, self._full = self.epoch + 1, 0, None, False
                continue
            first, second = self.checked(got)
            if len(first) > self.rows:
                items.refuse(f"a batch of the DataLoader has {len(first)} entries, wants batch_size / processes = {self.rows}.")
            if len(first) == self.rows:
                self._full = True
                return first, second

    def reals(self, n):
        loader, kept = self.loader, [(g, g.get_state()) for g in self.generators()]
        if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
            batches = {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
            batches |= {} if isinstance(loader.dataset, IterableDataset) else {"sampler": loader.sampler}
        else:
            batches = {"batch_sampler": loader.batch_sampler}
        with own_randomness(mixed(self.seed, "reals")):
            self.begin(-1)  # workers that persist would leave the running epoch for this one: a loader of its own, in this process
            again = DataLoader(loader.dataset, collate_fn=loader.collate_fn, **batches)
            found = self.joined(map(self.checked, again), n)
        for generator, state in kept:
            generator.set_state(state)
        self.tell(self.epoch)
        return found

    def state_dict(self):
        return {"epoch": self.epoch, "batches": self.taken}

    def load_state_dict(self, state):
        self.close()
        self.epoch, self.taken = state["epoch"], 0
        while self.taken < state["batches"]:
            if self.got() is None:
                items.warn(f"the DataLoader ended before the {state['batches']} batches of the saved run: it goes on with a new epoch.")
                self.epoch, self.taken, self._batches = self.epoch + 1, 0, None
                break
        self._full = self.taken > 0

    def close(self):
        self._batches = None


class Collate:
    """(first [B, ...], second) of a list of items; numbers and tensors."""

    def __call__(self, batch: list) -> tuple[Tensor, ...]:
        both = list(zip(*(items.parts(item, "an item") for item in batch)))
        firsts, seconds = both
        first = torch.stack(firsts)
        return (first,) if seconds[0] is None else (first, torch.stack([torch.as_tensor(second) for second in seconds]))


def stream_of(data, batch_size: int, device: torch.device, seed: int, rank: int, world: int, **how) -> Source:
    """As `source_of`, for a DataLoader, an IterableDataset, or a Dataset that is not to lie in memory."""
    rows = batch_size // world
    if isinstance(data, IterableDataset):
        data = DataLoader(_Share(data, batch_size, rank, world), batch_size=rows, collate_fn=Collate())
        return FromLoader(data, seed, device, rows, **how)
    if isinstance(data, DataLoader):
        if data.batch_size not in (None, rows):
            each = f" for each of {world} processes: {rows}" if world > 1 else ""
            items.refuse(f"the DataLoader's batch_size is {data.batch_size}, batch_size got {batch_size}{each}; make them the same.")
        if world > 1 and not isinstance(data.dataset, IterableDataset) and not hasattr(data.sampler, "set_epoch"):
            items.refuse(
                f"{world} processes would all draw the same from this DataLoader; pass the Dataset itself, which is shared out, or a "
                "DataLoader with sampler=DistributedSampler(dataset)."
            )
        return FromLoader(data, seed, device, rows, rank, **how)
    if len(data) == 0:
        items.refuse("the Dataset is empty, wants at least one item.")
    return FromDataset(data, seed, Order(len(data), batch_size, seed, rank, world, torch.device("cpu")), device, Collate(), **how)
