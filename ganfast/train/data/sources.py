"""`source_of`: makes the Source that suits the data: tensors, folders, Datasets or DataLoaders."""

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ganfast.train import parts, trees
from ganfast.train.data import items
from ganfast.train.data.batches import InMemory, Source
from ganfast.train.data.folders import ImageData
from ganfast.train.data.loaders import loader_source
from ganfast.train.data.order import Order
from ganfast.train.data.streams import FromDataset, FromHost
from ganfast.train.data.unpaired import Together, Unpaired
from ganfast.train.data.workers import Exceptions, Items, Looked, gigabytes, into_memory, look, processes, room
from ganfast.train.randomness import mixed

__all__ = ["Source", "source_of"]


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
    cache: bool | None = None,
    memory: int | None = None,
    workers: int | None = None,
    skip: Exceptions = (),
    real: parts.Key = None,
    labels: parts.Key = None,
) -> Source:
    """The samples of `data` in batches of `batch_size` (of all `world` processes together; this one is `rank`).

    Arguments:
        data: a tensor, uint8 images [N, C, H, W] or floats [N, ...], taken as they are: images in [-1, 1]; a tuple or dict of such, nested
            or not, with labels [N], tokens [N, L], vectors [N, D], masks: a row of each belongs to one item; `unpaired` such trees;
            ImageData; a map-style Dataset of such items, where an image may be a PIL image; an IterableDataset; a DataLoader, whose
            batch size must be batch_size / world; a Source, which is taken as it is.
        flip: mirrors half of the items, all images of one alike.
        image_size: what PIL images are cut and resized to, as those of a folder; tensors must be of that size.
        backend: of `gather_images`.
        cache: of a map-style Dataset: True decodes it once into memory, with its random transforms as they fall; False decodes as needed;
            None decodes once where that fits and nothing is drawn at random.
        memory: bytes that a decoded Dataset may take; None: most of what is free.
        workers: processes that decode; None: as many as pay, 0: none.
        skip: exceptions by which a map-style Dataset says that an item cannot be read, such as OSError. Such items are left out of memory;
            decoded as needed, the next one stands in. They are listed in `broken`, and a warning tells how many.
        real: which part of an item the samples are: a name, a place, or a function of the item; None: the first.
        labels: which part of an item holds the labels whose classes are named; None: the second of a pair, if it is labels.
    Raises: ValueError for data that cannot be trained on, with what to do; items.Failed, a RuntimeError, from the exception that the
        data's own code raised, here or as a batch is read.
    """
    skip = _exceptions(skip)
    device = torch.device(device)
    if batch_size < 1 or batch_size % world:
        items.refuse(f"batch_size got {batch_size} for {world} processes, wants a multiple of {world}.")
    if isinstance(data, Source):
        if data.rows != batch_size // world:
            items.refuse(
                f"the source gives {data.rows} entries to each process, batch_size got {batch_size}: {batch_size // world} for each."
            )
        return data
    how = {"flip": flip, "channels_last": channels_last, "backend": backend, "key": real, "labels": labels}
    if isinstance(data, Unpaired):
        every = {"batch_size": batch_size, "device": device, "rank": rank, "world": world, "image_size": image_size, "cache": cache}
        every |= {"flip": flip, "channels_last": channels_last, "backend": backend, "memory": memory, "workers": workers, "skip": skip}
        real_in = next(iter(data.domains)) if real is None else real
        keys = {name: None if name == real_in else parts.NO_SAMPLES for name in data.domains}
        domains = {name: source_of(part, seed=mixed(seed, name), real=keys[name], **every) for name, part in data.domains.items()}
        return Together(domains, key=real)
    order = lambda length, place: Order(length, batch_size, seed, rank, world, torch.device(place))
    names, broken = _names(data), []
    if isinstance(data, (DataLoader, IterableDataset)):
        if skip:
            items.refuse(f"skip is for map-style Datasets, got {type(data).__name__}; catch the exception where the item is read.")
        return loader_source(data, batch_size, seed, device, rank, world, names=names, image_size=image_size, **how)
    if isinstance(data, ImageData):
        broken = data.broken
        data = (data.images, data.labels) if len(data.classes) > 1 else data.images
    elif isinstance(data, TensorDataset):
        data = data.tensors
    elif not isinstance(data, (Tensor, tuple, Mapping, str, np.ndarray)) and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        all_items = Items(data, seed, image_size, skip=skip, substitute=True)
        looked, count = look(all_items), len(data)
        workers = 0 if looked.on_gpu else workers
        if not _fits_once(looked, len(data), cache, memory):
            return FromDataset(all_items, order(len(data), "cpu"), device, processes(workers), names=names, image_size=image_size, **how)
        all_items.substitute = False
        leaves, _, broken = into_memory(all_items, looked, workers)
        data = trees.rebuilt(looked.example.form, leaves)
        if broken:
            items.warn(f"{len(broken)} of the Dataset's {count} items cannot be read and are left out; the first: {broken[0]}.")
    form, leaves = items.opened(data, "data")
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        wants = "wants a tensor, a tuple or dict of tensors, ImageData, a torch Dataset or a DataLoader"
        items.refuse(f"got {_kind(data)}, {wants}.{_cause(leaves)}")
    leaves = items.all_checked(leaves, form, real, flip, image_size)
    samples = leaves[parts.place(form, real)]
    for name, leaf in zip(trees.names(form), leaves, strict=True):
        if leaf is not samples:
            items.look_at_bytes(leaf, name)
    with warnings.catch_warnings(record=real is parts.NO_SAMPLES):  # of masks only what cannot be trained on is said
        items.look_at_range(samples)
    size = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    on_host = device.type == "cuda" and not samples.is_cuda and size > room(memory, device)
    kind, place = (FromHost, "cpu") if on_host else (InMemory, device)
    source = kind(leaves, order(len(samples), place), device, form=form, **how)
    source.classes = items.named(source.labels_of(parts.told(trees.rebuilt(form, leaves), real)), names)
    source.broken = broken
    return source


def _exceptions(skip: Exceptions) -> tuple[type[Exception], ...]:
    kinds = skip if isinstance(skip, tuple) else (skip,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            items.refuse(f"skip got {kind!r}, wants exceptions, such as OSError or (OSError, KeyError).")
    return kinds


def _fits_once(looked: Looked, length: int, cache: bool | None, memory: int | None) -> bool:
    """Whether to decode a Dataset once, into memory; warns if it does not fit or is random, and `cache` did not say what to do."""
    if cache is False:
        return False
    size, place = looked.bytes(length), room(memory)
    if size > place:
        message = f"the Dataset takes {gigabytes(size)} decoded, and there is room for {gigabytes(place)}"
        if cache:
            items.refuse(f"{message}; wants cache=False, smaller images or fewer.")
        items.warn(f"{message}: its items are decoded as they are needed.")
        return False
    if looked.random and cache is None:
        items.warn(
            "the Dataset draws its items at random (a random transform?): they are decoded anew whenever they are needed. "
            "cache=True of source_of keeps one draw of each in memory, cache=False says that this is meant."
        )
        return False
    return True


def _names(data: object) -> list[str] | None:
    """The classes' names, as torchvision's Datasets have them, also of what lies inside a DataLoader or Subset."""
    for _ in range(8):
        if isinstance(names := getattr(data, "classes", None), (list, tuple)):
            return list(names)
        data = getattr(data, "dataset", None)
    return None


def _kind(data: object) -> str:
    if isinstance(data, Mapping):
        return f"a dict of {', '.join(f'{name!r}: {type(part).__name__}' for name, part in data.items())}"
    return f"({', '.join(type(part).__name__ for part in data)})" if isinstance(data, tuple) else type(data).__name__


def _cause(leaves: list) -> str:
    first = leaves[0]
    if isinstance(first, Tensor):
        text = any(isinstance(leaf, str) for leaf in leaves)
        return " Names become numbers: torch.tensor([names.index(label) for label in labels])." if text else " Labels: torch.as_tensor."
    if isinstance(first, np.ndarray):
        return " Arrays: torch.from_numpy."
    return " A folder: ganfast.train.data.folder(path, image_size)." if isinstance(first, str) or hasattr(first, "__fspath__") else ""
