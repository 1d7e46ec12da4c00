"""Map-style Datasets: decoded once into memory, or as they are needed by worker processes, in one order."""

import gc
import multiprocessing
import os
import random
import signal
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset

from ganfast.train.data import sources, to_float
from ganfast.train.data.batches import InMemory
from ganfast.train.data.sources import source_of
from ganfast.train.data.streams import FromDataset, FromHost
from tests.train.common import Draws

IMAGES = torch.arange(20 * 3 * 4 * 4).view(20, 3, 4, 4).to(torch.uint8)


class Listed(Dataset):
    """Given items; `change` is a transform, `broken` cannot be read. `classes` as torchvision's Datasets have them."""

    def __init__(self, items, change=None, broken=()):
        self.items, self.change, self.broken = items, change, broken

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        if i in self.broken:
            raise OSError(f"file {i} is cut")
        return self.change(self.items[i]) if self.change else self.items[i]


def tensors(**options):
    return Listed([(image, i) for i, image in enumerate(IMAGES)], **options)


def jitter(item):
    """A random transform; each of the global generators has a part in it."""
    noise = random.randrange(3) + 3 * int(torch.randint(3, ())) + 9 * np.random.randint(3)
    return item[0] // 2 + noise, item[1]


def drawn(source, steps):
    return [source.open(source.next(), Draws()) for _ in range(steps)]


def same(a, b):
    return all(torch.equal(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("workers", [0, 2])
def test_what_fits_is_decoded_once_and_like_tensors_from_there(workers):
    source = source_of(tensors(), batch_size=6, flip=True, workers=workers)
    plain = source_of((IMAGES, torch.arange(20)), batch_size=6, flip=True)
    assert isinstance(source, InMemory) and torch.equal(source.leaves[0], IMAGES) and source.classes == plain.classes
    assert same(drawn(source, 5), drawn(plain, 5))


@pytest.mark.parametrize("workers", [0, 2])
def test_needed_items_come_in_the_same_order_as_from_memory(workers):
    plain = source_of((IMAGES, torch.arange(20)), batch_size=6, flip=True)
    expected = drawn(plain, 5)
    source = source_of(tensors(), batch_size=6, flip=True, cache=False, workers=workers)
    assert isinstance(source, FromDataset) and source.length == 20
    assert same(drawn(source, 5), expected) and source.state_dict() == plain.state_dict()
    parts = [drawn(source_of(tensors(), batch_size=6, cache=False, workers=0, rank=rank, world=2), 5) for rank in range(2)]
    assert [torch.cat([a[1], b[1]]).tolist() for a, b in zip(*parts)] == [labels.tolist() for _, labels in expected]
    real, labels = source.reals(9)
    assert torch.equal(real, plain.reals(9)[0]) and torch.equal(labels, plain.reals(9)[1])
    assert same(drawn(source, 1), drawn(plain, 1))  # the position is where it was
    source.close()
    assert multiprocessing.active_children() == []
    assert same(drawn(source, 1), drawn(plain, 1))
    source.close()


def test_random_transforms_are_not_frozen_unasked_and_resume_exactly():
    """They follow from seed, epoch and item: neither the workers nor a stop change them, and an item is another one in each epoch."""
    with pytest.warns(UserWarning, match="draws its items at random.*cache=True.*keeps one draw") as told:
        source = source_of(tensors(change=jitter), batch_size=6, workers=0)
    assert len(told) == 1 and isinstance(source, FromDataset)
    batches = drawn(source, 8)
    first, second = ({int(k): image for real, labels in part for image, k in zip(real, labels)} for part in (batches[:3], batches[4:7]))
    assert any(not torch.equal(first[k], second[k]) for k in first.keys() & second.keys())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = source_of(tensors(change=jitter), batch_size=6, workers=2, cache=False)
        frozen = [source_of(tensors(change=jitter), batch_size=6, workers=workers, cache=True) for workers in (0, 2)]
    assert same(drawn(other, 8), batches)
    again = source_of(tensors(change=jitter), batch_size=6, workers=2, cache=False)
    again.load_state_dict({"epoch": 1, "offset": 10, "length": 20})
    assert same(drawn(again, 3), batches[5:])
    assert isinstance(frozen[0], InMemory) and torch.equal(frozen[0].leaves[0], frozen[1].leaves[0])


def test_a_dataset_with_a_generator_of_its_own_is_random_too():
    own = np.random.default_rng(0)
    with pytest.warns(UserWarning, match="at random"):
        assert isinstance(source_of(tensors(change=lambda item: (item[0], int(own.integers(1000)))), batch_size=4), FromDataset)


def test_signals_to_all_processes_take_no_batch_away():
    source = source_of(tensors(), batch_size=6, cache=False, workers=2)
    plain = source_of((IMAGES, torch.arange(20)), batch_size=6)
    assert same(drawn(source, 2), drawn(plain, 2))  # one of each worker: both are up, and deaf
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    assert same(drawn(source, 20), drawn(plain, 20))
    source.close()


def test_a_source_that_is_dropped_ends_its_workers_at_once():
    source = source_of(tensors(), batch_size=6, cache=False, workers=1)
    source.next()
    began = time.monotonic()
    del source
    gc.collect()
    assert multiprocessing.active_children() == [] and time.monotonic() - began < 4  # torch waits 5 seconds for each


def test_what_is_seldom_random_is_random_too():
    with pytest.warns(UserWarning, match="at random"):
        assert isinstance(source_of(tensors(change=lambda item: item if random.random() < 2 else None), batch_size=4), FromDataset)


def test_decoding_leaves_the_global_generators_as_they_are():
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
    drawn(source_of(tensors(change=jitter), batch_size=6, workers=0, cache=False), 4)
    source_of(tensors(change=jitter), batch_size=6, workers=0, cache=True)
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert np.array_equal(np.random.get_state()[1], before[2])


def test_what_does_not_fit_is_decoded_as_needed_and_said():
    with pytest.warns(UserWarning, match="takes 1.12e-06 GB decoded, and there is room for 1e-06 GB: .* as they are needed"):
        assert isinstance(source_of(tensors(), batch_size=4, memory=1000), FromDataset)
    with pytest.raises(ValueError, match="room for 1e-06 GB; wants cache=False"):
        source_of(tensors(), batch_size=4, memory=1000, cache=True)
    assert isinstance(source_of(tensors(), batch_size=4, memory=1120), InMemory)


def test_what_the_gpu_cannot_hold_comes_batch_by_batch():
    order = sources.Order(20, 6, 0, 0, 1, torch.device("cpu"))
    plain = source_of((IMAGES, torch.arange(20)), batch_size=6, flip=True)
    source = FromHost([IMAGES, torch.arange(20)], order, torch.device("cpu"), flip=True, form=plain.form)
    assert same(drawn(source, 4), drawn(plain, 4)) and source.state_dict() == plain.state_dict()
    assert torch.equal(source.reals(7)[0], plain.reals(7)[0])
    plain.load_state_dict({"epoch": 1, "offset": 3, "length": 20})
    source.load_state_dict(plain.state_dict())
    assert same(drawn(source, 2), drawn(plain, 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_items_that_cannot_be_read_are_left_out_and_listed_where_that_is_wanted(workers):
    count = "2 of the Dataset's 20 items cannot be read and are left out; the first: item 3: OSError"
    with pytest.warns(UserWarning, match=count), pytest.warns(UserWarning, match="only 18 of these 19 classes"):
        source = source_of(tensors(broken=(3, 19)), batch_size=6, workers=workers, skip=(KeyError, OSError))
    assert source.length == 18 and source.broken == ["item 3: OSError: file 3 is cut", "item 19: OSError: file 19 is cut"]
    assert source.leaves[1].tolist() == [i for i in range(20) if i not in (3, 19)]
    assert torch.equal(source.leaves[0], IMAGES[source.leaves[1]])


@pytest.mark.parametrize("workers", [0, 2])
def test_where_items_are_decoded_as_needed_the_next_one_stands_in(workers):
    source = source_of(tensors(broken=(3, 19)), batch_size=20, cache=False, workers=workers, skip=OSError)
    with pytest.warns(UserWarning, match="2 of the Dataset's 20 items cannot be read so far") as told:
        (_, labels), _ = drawn(source, 2)
        source.close()
    assert len([warning for warning in told if "so far" in str(warning.message)]) == 1
    assert sorted(labels.tolist()) == sorted([0, 4, *(i for i in range(20) if i not in (3, 19))])
    assert sorted(source.broken) == ["item 19: OSError: file 19 is cut", "item 3: OSError: file 3 is cut"]  # once, not in each epoch
    lost = source_of(tensors(broken=range(8, 19)), batch_size=20, cache=False, workers=workers, skip=OSError)
    words = r"too many items in a row cannot be read; the last: item 1[78]: OSError"
    with pytest.warns(UserWarning, match="so far"), pytest.raises(ValueError, match=words):
        drawn(lost, 1)


class Photos(Listed):
    classes = ("ants", "bees")


def photos(sizes, modes=("RGB",), **options):
    return Photos([(Image.new(modes[i % len(modes)], size, 200), i % 2) for i, size in enumerate(sizes)], **options)


@pytest.mark.parametrize("cache", [True, False])
def test_pil_images_become_what_a_folder_makes_of_them(cache):
    source = source_of(photos([(20, 30)] * 6), batch_size=4, image_size=16, cache=cache, workers=0)
    real, labels = source.open(source.next(), None)
    assert real.shape == (4, 3, 16, 16) and source.classes == ["ants", "bees"] and set(labels.tolist()) <= {0, 1}
    assert torch.equal(real[:, 0].unique(), to_float(torch.tensor([200])).to(torch.uint8).float().new_tensor([200 / 127.5 - 1]))
    grey = source_of(photos([(16, 16)] * 6, ("L", "1")), batch_size=4, cache=cache, workers=0)
    assert grey.reals(2)[0].shape == (2, 1, 16, 16)
    mixed = source_of(photos([(16, 16)] * 6, ("L", "RGB")), batch_size=4, cache=cache, workers=0)
    assert mixed.reals(2)[0].shape == (2, 3, 16, 16)


def test_names_are_found_inside_of_subsets():
    assert source_of(Subset(photos([(16, 16)] * 6), [1, 3]), batch_size=2).classes == ["ants", "bees"]  # only bees: no complaint
    nested = Subset(Subset(photos([(16, 16)] * 6), [1, 3, 5]), [0, 1])
    assert source_of(nested, batch_size=2, cache=False, workers=0).classes == ["ants", "bees"]


@pytest.mark.parametrize("cache", [True, False])
def test_other_seconds(cache):
    for second, shape, dtype in [
        (torch.ones(5, dtype=torch.float64), (4, 5), torch.float32), (np.int64(1), (4,), torch.int64),
        (Image.new("RGB", (4, 4)), (4, 3, 4, 4), torch.float32), (np.ones(3), (4, 3), torch.float32),
    ]:  # fmt: skip
        data = Listed([(image, second) for image in IMAGES])
        data.classes = ["none", "all"]
        source = source_of(data, batch_size=4, cache=cache, workers=0)
        _, got = source.open(source.next(), None)
        assert got.shape == shape and got.dtype == dtype
    source = source_of(Listed([to_float(image) for image in IMAGES]), batch_size=4, cache=cache, workers=0)
    assert source.open(source.next(), None)[1] is None
    assert source_of(list(IMAGES), batch_size=4, cache=cache, workers=0).reals(20)[0].shape == (20, 3, 4, 4)


REFUSED = {
    "empty": (Listed([]), "the Dataset is empty"),
    "no parts": (Listed([{}]), "an item of the Dataset is an empty dict"),
    "captions": (Listed([(IMAGES[0], "a cat")] * 4), "holds str as the second item, wants a label"),
    "paths": (Listed(["a.png", "b.png"]), "holds str, wants a tensor or a PIL image"),
    "arrays": (Listed(list(IMAGES.numpy())), r"array \(3, 4, 4\), wants a tensor"),
    "sizes": (photos([(16, 16), (20, 20)] * 9), r"\(3, (16|20).*\(3, (16|20).*image_size resizes"),
    "broadcasting sizes": (Listed([*IMAGES[:, :1], IMAGES[0]]), r"\((1|3), 4, 4\).*\((1|3), 4, 4\)"),
    "channels last": (Listed([torch.zeros(8, 8, 3, dtype=torch.uint8)] * 4), "permute"),
    "levels as floats": (Listed([image.float() for image in IMAGES]), "wants \\[-1, 1\\]"),
    "some labelled": (Listed([(IMAGES[0], 0)] * 19 + [IMAGES[0]]), r"has (1|2|\['the first item'\]).*all alike"),
    "names missing": (photos([(16, 16)] * 4, change=lambda item: (item[0], 2)), "names for 2 classes"),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("name", REFUSED)
def test_datasets_that_cannot_be_trained_on_are_refused(name, cache, workers):
    data, words = REFUSED[name]
    before = multiprocessing.active_children()  # of a source that an earlier test left to the garbage collector
    with pytest.raises(ValueError, match=words) as error:
        source = source_of(data, batch_size=len(data) or 4, cache=cache, workers=workers)
        source.next()
    assert "Traceback" not in str(error.value)
    assert set(multiprocessing.active_children()) <= set(before), "workers go on"
