"""Where the trainer's reals come from: `source_of` makes one interface of tensors, Datasets and DataLoaders."""

import hashlib

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import ganfast.functional as GF
from ganfast.train import items
from ganfast.train.data import ImageData


def permutation(length: int, seed: int, epoch: int) -> Tensor:
    """[length] int64 on the CPU, from (seed, epoch) alone."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(mixed(seed, epoch)))


def mixed(*numbers: object) -> int:
    """32 bits that depend on all of them: a generator of torch's on the CPU takes no more of its seed."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:4], "little")


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Without waiting: pinned memory is given back to its pool only after the copy."""
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
        """From the present epoch to the one in which the batch ends; few items are laid out for many batches at once."""
        first, last = self.taken // self.length, (self.taken + max(self.batch_size, 1024) - 1) // self.length
        if self.length > self.batch_size:
            last = (self.taken + self.batch_size - 1) // self.length
        epochs = [permutation(self.length, self.seed, epoch) for epoch in range(first, last + 1)]
        self._queue, self._start = on_device(torch.cat(epochs), self.device), first * self.length

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

    length: of the data, None where it is not known; classes: names of the labels, [] without; broken: what was left out, and why.
    """

    length: int | None

    def __init__(self, device: torch.device, rows: int, flip: bool, channels_last: bool, backend: str | None) -> None:
        self.device, self.flip, self.channels_last, self.backend = device, flip, channels_last, backend
        self.rows = rows
        self.classes: list[str] = []
        self.broken: list[str] = []

    def next(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def open(self, handle: tuple[Tensor, ...], draws) -> tuple[Tensor, Tensor | None]:
        """`draws.uniform(rows)` decides which are mirrored; a second that is images is mirrored with the first."""
        raise NotImplementedError

    def reals(self, n: int) -> tuple[Tensor, Tensor | None]:
        """The first n (or all there are) of a fixed shuffle, not mirrored; the position stays."""
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

    def __init__(self, first: Tensor, second: Tensor | None, seed: int, order: Order, **how) -> None:
        super().__init__(order.device, order.rows, **how)
        self.first, self.second = first.to(order.device), None if second is None else second.to(order.device)
        self.length, self.seed, self.order = len(first), seed, order

    def next(self) -> tuple[Tensor]:
        return (self.order.next(),)

    def open(self, handle, draws):
        (index,), mirrored = handle, self.mirrored(draws)
        return self.drawn(self.first, index, mirrored), self.drawn(self.second, index, mirrored)

    def reals(self, n):
        index = permutation(self.length, self.seed, -1)[:n].to(self.device)
        return self.drawn(self.first, index, None), self.drawn(self.second, index, None)

    def state_dict(self):
        return self.order.state_dict()

    def load_state_dict(self, state):
        self.order.load_state_dict(state)


def source_of(
    data,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    flip: bool = False,
    channels_last: bool = False,
    image_size: int | None = None,
    backend: str | None = None,
) -> Source:
    """The reals of `data` in batches of `batch_size` (of all `world` processes together; this one is `rank`).

    Arguments:
        data: a tensor, uint8 images [N, C, H, W] or floats [N, ...] taken as they are (images in [-1, 1]); a pair of that and labels [N],
            vectors [N, D] or images; ImageData; a map-style Dataset of image or (image, second); an IterableDataset; a DataLoader,
            whose batch size must be batch_size / world.
    Raises: ValueError for data that cannot be trained on, with what to do.
    """
    device = torch.device(device)
    if batch_size < 1 or batch_size % world:
        items.refuse(f"batch_size got {batch_size} for {world} processes, wants a multiple of {world}.")
    how = {"flip": flip, "channels_last": channels_last, "backend": backend}
    names, broken = getattr(data, "classes", None), []
    if isinstance(data, ImageData):
        broken = data.broken
        data = (data.images, data.labels) if len(data.classes) > 1 else data.images
    elif isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, (DataLoader, IterableDataset)) or (not isinstance(data, (Tensor, tuple)) and hasattr(data, "__getitem__")):
        from ganfast.train import streams

        return streams.stream_of(data, batch_size, device, seed, rank, world, image_size=image_size, **how)
    first, second = items.parts(data, "data")
    if not isinstance(first, Tensor) or not isinstance(second, (Tensor, type(None))):
        items.refuse(f"got {_kind(data)}, wants a tensor or a pair of them, ImageData, a torch Dataset or a DataLoader.{_cause(first)}")
    first = items.reals(first, flip=flip, image_size=image_size)
    items.look_at_range(first)
    second = None if second is None else items.seconds(second, len(first))
    source = InMemory(first, second, seed, Order(len(first), batch_size, seed, rank, world, device), **how)
    source.classes, source.broken = items.named(second, names), broken
    return source


def _kind(data: object) -> str:
    return f"({', '.join(type(part).__name__ for part in data)})" if isinstance(data, tuple) else type(data).__name__


def _cause(first: object) -> str:
    if type(first).__module__ == "numpy":
        return " Arrays: torch.from_numpy."
    return " A folder: ganfast.train.data.folder(path, image_size)." if isinstance(first, str) or hasattr(first, "__fspath__") else ""
