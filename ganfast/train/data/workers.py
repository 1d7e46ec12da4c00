"""Worker processes that decode a Dataset's items: batch by batch, or all of them into memory, each item with its own random numbers."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ganfast.train import trees
from ganfast.train.data import items
from ganfast.train.data.decode import GREY, Files, square
from ganfast.train.randomness import global_state, mixed, own_randomness, seed_all

_SHARE = 0.7  # of the memory that is free: the networks want some as well
_SUBSTITUTES = 9  # items tried in place of one that cannot be read
Exceptions = type[Exception] | tuple[type[Exception], ...]


class Entry(NamedTuple):
    """One item as tensors: its structure and its leaves."""

    form: trees.Structure
    leaves: tuple[Tensor, ...]


class Items(Dataset):
    """dataset[index] at the key (epoch, index), as (Entry or None, what went wrong).

    What it draws at random follows from (seed, epoch, index), whichever process decodes it and whenever. PIL images become uint8 as in a
    folder. An exception is given back as items.Failed, unless it is one of `skip`: these say that an item cannot be read; where
    `substitute`, the next one that can is given in its place.
    """

    def __init__(self, dataset, seed: int = 0, image_size: int | None = None, *, skip: Exceptions = (), substitute: bool = False) -> None:
        self.dataset, self.seed, self.image_size, self.skip, self.substitute = dataset, seed, image_size, skip, substitute
        self.channels: list[int] = []  # of PIL images, leaf by leaf; empty: as each is, grey or not

    def __getitem__(self, key: tuple[int, int]) -> tuple[Entry | items.Refused | items.Failed | None, list[str]]:
        epoch, index = key
        wrong = []
        for i in range(index, index + 1 + _SUBSTITUTES * self.substitute):
            i %= len(self.dataset)
            try:
                with self._drawing_from(mixed(self.seed, epoch, i)):
                    return self.entry(self.dataset[i]), wrong
            except items.Refused as error:  # raised in the process that asked, where it is no traceback of a worker's
                return error, wrong
            except self.skip as error:
                wrong.append(f"{self.name(i)}: {type(error).__name__}: {error}")
            except Exception as error:
                return self.failed(i, error), wrong
        return None, wrong

    def _drawing_from(self, seed: int) -> contextlib.AbstractContextManager:
        """Random numbers of an item's own, only where something may draw: saving and restoring the generators takes 250 us."""
        if isinstance(self.dataset, Files):
            return contextlib.nullcontext()
        if get_worker_info() is None:
            return own_randomness(seed)
        return contextlib.nullcontext(seed_all(seed))

    def name(self, index: int) -> str:
        return str(self.dataset.paths[index]) if isinstance(self.dataset, Files) else f"item {index}"

    def failed(self, index: int, error: Exception) -> items.Failed:
        kind = type(error).__name__
        source = f"ganfast.train.data.source_of(dataset, batch_size=..., skip={kind})"
        remedy = f", or, where such items are to be left out and counted, pass {source} as the data"
        return items.failed(f"item {index} of the Dataset ({type(self.dataset).__name__})", error, remedy)

    def entry(self, item: object) -> Entry:
        form, found = items.opened(item, "an item of the Dataset")
        if self.channels and len(found) != len(self.channels):
            items.refuse(f"an item of the Dataset has {len(found)} parts, the first has {len(self.channels)}; wants all alike.")
        return Entry(form, tuple(self._tensor(leaf, place, form) for place, leaf in enumerate(found)))

    def _tensor(self, value: object, place: int, form: trees.Structure) -> Tensor:
        if is_pil(value):
            return square(value, self.image_size, self.channels[place] if self.channels else 1 if value.mode in GREY else 3)
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            return value.float() if value.is_floating_point() else value
        if isinstance(value, np.ndarray) and place == 0:
            cause = "torch.from_numpy, channels first"
            items.refuse(f"an item of the Dataset is an array {value.shape}, wants a tensor ({cause}) or a PIL image.")
        try:
            return torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            kinds = "a tensor or a PIL image" if place == 0 else "a label (int), a vector or an image"
            where = "" if form == trees.LEAF else f" as {trees.names(form)[place]}"
            items.refuse(f"an item of the Dataset holds {type(value).__name__}{where}, wants {kinds}.")


def is_pil(value: object) -> bool:
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(value, pil.Image)


class Looked(NamedTuple):
    """What a few items show: an example, seconds for each, whether they are random, whether they are on a GPU."""

    example: Entry
    seconds: float
    random: bool = False
    on_gpu: bool = False

    def bytes(self, length: int) -> int:
        return length * sum(leaf.numel() * leaf.element_size() for leaf in self.example.leaves)


def look(all_items: Items) -> Looked:
    """Decodes a few items from all over the Dataset, twice, and settles the channels of PIL images.

    Raises: Failed where one of them raises what is not to be skipped; ValueError where none of them can be read.
    """
    dataset, raw, wrong, drawn = all_items.dataset, [], [], False
    if len(dataset) == 0:
        items.refuse("the Dataset is empty, wants at least one item.")
    for i in _spread(len(dataset)):
        try:
            with own_randomness(0):
                before = global_state()
                (form, first), (_, again) = (items.opened(dataset[i], "an item of the Dataset") for _ in range(2))
                drawn |= global_state() != before or not all(map(_same, first, again))
            if raw and len(first) != len(raw[0]):
                items.refuse(f"item {i} of the Dataset has {trees.names(form)}, an earlier one {len(raw[0])} parts; wants all alike.")
            raw.append(first)
        except items.Refused:
            raise
        except all_items.skip as error:
            wrong.append(error)
        except Exception as error:
            raise all_items.failed(i, error) from error
    if not raw:
        cause = wrong[0]
        raise ValueError(f"data: of {len(wrong)} items of the Dataset none can be read: {type(cause).__name__}: {cause}") from cause
    coloured = lambda leaves: any(leaf.mode not in GREY for leaf in leaves if is_pil(leaf))
    all_items.channels = [3 if coloured(leaves) else 1 for leaves in zip(*raw)]
    entries, seconds = timed(all_items)
    on_gpu = any(isinstance(part, Tensor) and part.is_cuda for item in raw for part in item)
    return Looked(next(entry for entry in entries if entry is not None), seconds, drawn, on_gpu)


def timed(all_items: Items) -> tuple[list[Entry | None], float]:
    """A few items from all over, and the seconds each takes.

    Raises: ValueError for one that cannot be trained on, Failed for one whose code raised.
    """
    start, spread = time.perf_counter(), _spread(len(all_items.dataset))
    entries = [all_items[0, i][0] for i in spread]
    for entry in entries:
        items.stop_at(entry)
    return entries, (time.perf_counter() - start) / max(1, len(spread))


def _spread(length: int) -> list[int]:
    count = min(8, length)
    return [i * length // count for i in range(count)]


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    return bool(np.all(a == b))


def free_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that this process may take: the GPU's, or its part of the machine's, or of what the container allows."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, StopIteration):  # counts what the system keeps of files, which it would give back
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    with contextlib.suppress(OSError, ValueError):  # "max" where nothing is set
        group = Path("/sys/fs/cgroup")
        left = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
        files = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, left + int(files.get("inactive_file", 0)))
    return free // _local_processes()


def room(limit: int | None = None, device: torch.device | str = "cpu") -> int:
    """Bytes that data may take: `limit`, or most of what is free."""
    return int(_SHARE * free_memory(device)) if limit is None else limit


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def _local_processes() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def processes(wanted: int | None, seconds: float = float("inf")) -> int:
    """How many workers to start: as `wanted`, else one a core, none for what takes less than a second. They are forked, so that a script
    without `if __name__ == "__main__"` does not run anew in each; where that is not to be had, none."""
    if sys.platform != "linux" or multiprocessing.current_process().daemon:
        return 0
    if wanted is not None:
        return wanted
    return 0 if seconds < 1 else max(1, min(16, len(os.sched_getaffinity(0)) // _local_processes()))


def loader(dataset: Dataset, batches, workers: int, collate: Callable) -> DataLoader:
    how = {"multiprocessing_context": "fork", "prefetch_factor": 4} if workers else {}
    how["generator"] = torch.Generator()  # else it draws from the global one
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate, worker_init_fn=_deaf, **how)


def _deaf(_: int) -> None:
    """Workers ignore SIGINT and SIGTERM, which reach all processes at once: the trainer still needs its batch, and ends them itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def worker_alive() -> Iterator[None]:
    """Raises: Failed where torch says that a worker is gone, which is no fault of whatever waits for its batch."""
    try:
        yield
    except items.Failed:
        raise
    except RuntimeError as error:
        raise items.Failed(f"data: a process that decodes the Dataset ended: {error}") from error


def end(batches: Iterator | None) -> None:
    """Ends the workers of a DataLoader's iterator now. The garbage collector may close their queues before they are told to stop, and
    then waits five seconds for each."""
    if hasattr(batches, "_shutdown_workers"):
        batches._shutdown_workers()


def into_memory(all_items: Items, looked: Looked, workers: int | None = None) -> tuple[list[Tensor], list[int], list[str]]:
    """All items: (the leaves, [N, ...] each, the indices of those that could be read, what went wrong), in order; a progress bar when it
    takes more than a second.

    Raises: ValueError for items that differ in shape or dtype, Failed for one whose code raised.
    """
    from tqdm import tqdm

    length, example = len(all_items.dataset), looked.example
    tensors = [torch.empty(length, *leaf.shape, dtype=leaf.dtype) for leaf in example.leaves]
    most = 64, 2**20 * length // max(looked.bytes(length), 1), int(0.5 / max(looked.seconds, 1e-6))  # a stop waits for these
    together = max(1, min(most))
    batches = [[(0, i) for i in range(start, min(start + together, length))] for start in range(0, length, together)]
    kept, broken = [], []
    done = iter(loader(all_items, batches, processes(workers, looked.seconds * length), _plain))
    hidden = os.environ.get("LOCAL_RANK", "0") != "0"
    try:
        bar = tqdm(total=length, desc="decoding into memory", unit="", mininterval=0.5, delay=1, leave=False, disable=hidden)
        with worker_alive(), bar:
            for keys, batch in zip(batches, done, strict=True):
                for (_, index), (entry, wrong) in zip(keys, batch, strict=True):
                    broken += wrong
                    items.stop_at(entry)
                    if entry is None:
                        continue
                    form, leaves = entry
                    if form != example.form:
                        name, parts, wanted = all_items.name(index), trees.names(form), trees.names(example.form)
                        items.refuse(f"{name} has {', '.join(parts)}, those before {', '.join(wanted)}; wants all alike.")
                    named = trees.names(form, f"{all_items.name(index)}'s", "part")
                    for name, tensor, leaf in zip(named, tensors, leaves, strict=True):
                        _put(tensor, len(kept), leaf, name)
                    kept.append(index)
                bar.update(len(keys))
    finally:
        end(done)
    return [tensor[: len(kept)] for tensor in tensors], kept, broken


def _plain(batch: list) -> list:
    """Collates into numpy arrays, which go through a pipe: tensors take shared memory, of which containers often have 64 MB."""
    arrays = lambda entry: (entry.form, [leaf.numpy() for leaf in entry.leaves])
    return [(arrays(entry) if isinstance(entry, Entry) else entry, wrong) for entry, wrong in batch]


def _put(tensor: Tensor, at: int, array: np.ndarray, name: str) -> None:
    leaf = torch.from_numpy(array)
    if (leaf.shape, leaf.dtype) != (tensor.shape[1:], tensor.dtype):
        looks = lambda t, shape: f"{tuple(shape)} {t.dtype}"
        items.refuse(
            f"{name} is {looks(leaf, leaf.shape)}, those before are {looks(tensor, tensor.shape[1:])}; image_size resizes PIL images, a "
            "transform makes all alike."
        )
    tensor[at] = leaf
