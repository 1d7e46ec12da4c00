"""Sources that read a user's own DataLoader or IterableDataset, in its order and with its batches."""

import traceback
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ganfast.train.data import items
from ganfast.train.data.streams import Streamed, stacked
from ganfast.train.data.workers import Items, end
from ganfast.train.randomness import mixed, own_randomness


class _Share(IterableDataset):
    """This process's part of each batch of an IterableDataset; items at the end that do not fill a batch are left out."""

    def __init__(self, dataset: IterableDataset, batch_size: int, rank: int, world: int) -> None:
        self.dataset, self.batch_size, self.rank, self.world = dataset, batch_size, rank, world

    def __iter__(self) -> Iterator:
        rows, batch, count = self.batch_size // self.world, [], 0
        with items.users_code(lambda _: f"item {count} of the IterableDataset ({type(self.dataset).__name__})"):
            for item in self.dataset:
                count += 1
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
        """The random generators of the loader and its samplers, which are given one where they have none."""
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
        with own_randomness(mixed(self.seed, self.epoch, self.rank, "batch", self.taken)), items.users_code(self._where_taken):
            if self._batches is None:
                self.begin(self.epoch)
                self._batches = iter(self.loader)
            self.taken += 1
            return next(self._batches, None)

    def _where(self, error: Exception, batch: str = "a batch") -> str:
        index = _index(error, self.loader.dataset)
        of = "" if index is None else f"item {index!r} of the Dataset ({type(self.loader.dataset).__name__}), in "
        return f"{of}{batch} of the DataLoader"

    def _where_taken(self, error: Exception) -> str:
        return self._where(error, f"batch {self.taken} of epoch {self.epoch}")

    def catch_up(self) -> None:
        """After a resume: reads and drops the batches that were taken in this epoch."""
        wanted, self.taken = self.taken, 0
        while self.taken < wanted:
            if self.got() is None:
                items.warn(f"the DataLoader ended before the {wanted} batches that were taken in its epoch: it goes on with a new one.")
                self.epoch, self.taken, self._batches = self.epoch + 1, 0, None
                break
        self._full = self.taken > 0

    def batch(self):
        try:
            if self._batches is None:
                self.catch_up()
            return self.full_batch()
        except BaseException:
            self.close()
            raise

    def full_batch(self) -> list[Tensor]:
        while True:
            if (got := self.got()) is None:
                if not self._full:
                    items.refuse(f"the DataLoader gave no batch of {self.rows} in a whole epoch; shorter ones are dropped.")
                self.epoch, self.taken, self._batches, self._full = self.epoch + 1, 0, None, False
                continue
            leaves = self.checked(got)
            count = len(leaves[0])
            if count > self.rows:
                items.refuse(f"a batch of the DataLoader has {count} entries, wants batch_size / processes = {self.rows}.")
            if count == self.rows:
                self._full = True
                return leaves

    def first_reals(self, n):
        loader, kept = self.loader, [(g, g.get_state()) for g in self.generators()]
        if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
            batches = {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
            batches |= {} if isinstance(loader.dataset, IterableDataset) else {"sampler": loader.sampler}
        else:
            batches = {"batch_sampler": loader.batch_sampler}
        with own_randomness(mixed(self.seed, "reals")), items.users_code(self._where):
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
        self.epoch, self.taken = state["epoch"], state["batches"]

    def close(self):
        if not self.loader.persistent_workers:  # those are the loader's own
            end(self._batches)
        self._batches = None


def _index(error: Exception, dataset: object) -> object | None:
    """What dataset[...] was asked for as it raised; None where another process asked, or it was not the Dataset that raised."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_name == "__getitem__" and code.co_argcount == 2 and frame.f_locals.get(code.co_varnames[0]) is dataset:
            return frame.f_locals.get(code.co_varnames[1])
    return None


class _Collate:
    """A batch of an IterableDataset's items, which may be PIL images."""

    def __init__(self, image_size: int | None) -> None:
        self.items = Items(None, image_size=image_size)

    def __call__(self, batch: list) -> object:
        tree, _ = stacked([(self.items.entry(item), []) for item in batch])
        items.stop_at(tree)
        return tree


def loader_source(
    data: DataLoader | IterableDataset, batch_size: int, seed: int, device: torch.device, rank: int, world: int, image_size=None, **how
) -> FromLoader:
    """Raises: ValueError for a DataLoader of another batch size, or one that would give the same to all processes."""
    rows = batch_size // world
    if isinstance(data, IterableDataset):
        share = DataLoader(_Share(data, batch_size, rank, world), batch_size=rows, collate_fn=_Collate(image_size))
        return FromLoader(share, seed, device, rows, **how)
    if data.batch_size not in (None, rows):
        each = f" for each of {world} processes: {rows}" if world > 1 else ""
        items.refuse(f"the DataLoader's batch_size is {data.batch_size}, batch_size got {batch_size}{each}; make them the same.")
    if world > 1 and not isinstance(data.dataset, IterableDataset) and not hasattr(data.sampler, "set_epoch"):
        items.refuse(
            f"{world} processes would all draw the same from this DataLoader; pass the Dataset itself, which is shared out, or a "
            "DataLoader with sampler=DistributedSampler(dataset)."
        )
    return FromLoader(data, seed, device, rows, rank, image_size=image_size, **how)
