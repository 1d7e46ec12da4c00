"""Users' own DataLoaders and IterableDatasets: as they come, with a position that a resumed run finds again."""

import random

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, TensorDataset, WeightedRandomSampler

from ganfast.train.data import to_float
from ganfast.train.data.sources import source_of
from tests.train.common import Draws
from tests.train.data.test_datasets import IMAGES, drawn, jitter, photos, same, tensors


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def pairs():
    return Stream([(image, i) for i, image in enumerate(IMAGES)])


def labels(source, steps):
    return [second.tolist() for _, second in drawn(source, steps)]


def test_batches_that_are_not_full_are_dropped_and_an_epoch_follows_the_other():
    source = source_of(DataLoader(tensors(), 6), batch_size=6, flip=True)
    assert labels(source, 4) == [list(range(6)), list(range(6, 12)), list(range(12, 18)), list(range(6))]
    assert source.length == 20 and source.state_dict() == {"epoch": 1, "batches": 1}
    source = source_of(DataLoader(tensors(), 6), batch_size=6, flip=True)
    real, found = source.open(source.next(), Draws())
    plain = source_of((IMAGES[:6], torch.arange(6)), batch_size=6, flip=True)
    assert torch.equal(real, plain.open((found,), Draws())[0])


def weighted(**options):
    return WeightedRandomSampler(torch.arange(20.0), 40, **options)


LOADERS = {
    "shuffled": lambda: DataLoader(tensors(), 6, shuffle=True),
    "a generator": lambda: DataLoader(tensors(), 6, shuffle=True, generator=torch.Generator().manual_seed(9)),
    "weighted": lambda: DataLoader(tensors(), 6, sampler=weighted()),
    "with replacement": lambda: DataLoader(tensors(), 6, sampler=RandomSampler(tensors(), replacement=True, num_samples=100)),
    "random transform": lambda: DataLoader(tensors(change=jitter), 6, shuffle=True),
    "random transform in workers": lambda: DataLoader(tensors(change=jitter), 6, shuffle=True, num_workers=2),
    "stream": lambda: DataLoader(pairs(), 6),
    "stream itself": pairs,
    "persistent": lambda: DataLoader(tensors(), 6, shuffle=True, num_workers=1, persistent_workers=True),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_resumed_run_gets_the_batches_it_would_have_got(name):
    source = source_of(LOADERS[name](), batch_size=6, seed=3)
    drawn(source, 4)
    state = source.state_dict()
    random.random(), torch.rand(3)  # what else is drawn at random changes nothing
    fixed = source.reals(10)
    torch.rand(5)
    batches = drawn(source, 5)
    again = source_of(LOADERS[name](), batch_size=6, seed=3)
    drawn(again, 1)
    again.load_state_dict(state)
    assert again.state_dict() == state
    assert same(drawn(again, 2), batches[:2])
    assert same([again.reals(10)], [fixed]), "reals are fixed"
    again.close()
    assert same(drawn(again, 3), batches[2:])


def test_a_shuffle_is_another_one_in_each_epoch_and_for_each_seed():
    source, other = (source_of(DataLoader(tensors(), 20, shuffle=True), batch_size=20, seed=seed) for seed in (0, 1))
    first, second, third = *labels(source, 2), *labels(other, 1)
    assert first != second and first != third and sorted(first) == sorted(second) == list(range(20))


def test_the_global_generators_stay_as_they_are():
    before = torch.get_rng_state(), random.getstate()
    source = source_of(DataLoader(tensors(change=jitter), 6, shuffle=True), batch_size=6)
    drawn(source, 5), source.reals(4)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]


def test_reals_of_a_loader():
    real, found = source_of(DataLoader(tensors(), 6, shuffle=True), batch_size=6).reals(9)
    assert torch.equal(real, to_float(IMAGES[found])) and len(set(found.tolist())) == 9
    assert source_of(pairs(), batch_size=6).reals(100)[0].shape == (18, 3, 4, 4)
    whole = DataLoader(TensorDataset(IMAGES.view(5, 4, 3, 4, 4)), batch_size=None)
    assert source_of(whole, batch_size=4).reals(6)[0].shape == (6, 3, 4, 4)


def test_processes_take_their_part_of_a_stream():
    whole = labels(source_of(pairs(), batch_size=6), 6)
    parts = [labels(source_of(pairs(), batch_size=6, rank=rank, world=3), 6) for rank in range(3)]
    assert [a + b + c for a, b, c in zip(*parts)] == whole


def test_processes_need_a_sampler_that_knows_of_them():
    with pytest.raises(ValueError, match=r"2 processes would all draw the same.*DistributedSampler"):
        source_of(DataLoader(tensors(), 3, shuffle=True), batch_size=6, world=2)
    shares = [DistributedSampler(tensors(), 2, rank) for rank in range(2)]
    loaders = [DataLoader(tensors(), 5, sampler=sampler) for sampler in shares]
    a, b = (labels(source_of(loader, batch_size=10, rank=rank, world=2), 4) for rank, loader in enumerate(loaders))
    for epoch in (0, 2):
        assert sorted(k for batch in a[epoch : epoch + 2] + b[epoch : epoch + 2] for k in batch) == list(range(20))
    assert a[:2] != a[2:], "set_epoch was called"
    source = source_of(loaders[0], batch_size=10, world=2)
    drawn(source, 3), source.reals(3)
    assert shares[0].epoch == 1


def test_pil_images_of_a_stream():
    source = source_of(Stream(photos([(20, 30)] * 8).items), batch_size=4, image_size=16)
    real, found = source.open(source.next(), None)
    assert real.shape == (4, 3, 16, 16) and found.tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match=r"items of one batch have shapes \(1, 16, 16\), \(3, 16, 16\)"):
        source_of(Stream([Image.new(mode, (16, 16)) for mode in ("L", "RGB")]), batch_size=2).next()


REFUSED = {
    "batch size": (lambda: DataLoader(tensors(), 5), "DataLoader's batch_size is 5, batch_size got 4"),
    "batches too large": (lambda: DataLoader(TensorDataset(IMAGES.view(4, 5, 3, 4, 4)), batch_size=None), "has 5 entries, wants .* = 4"),
    "batches too small": (lambda: DataLoader(TensorDataset(IMAGES[:18].view(6, 3, 3, 4, 4)), batch_size=None), "gave no batch of 4 in a"),
    "too few": (lambda: Stream(list(IMAGES[:3])), "gave no batch of 4 in a whole epoch"),
    "captions": (lambda: DataLoader([(image, "a cat") for image in IMAGES], 4), "a batch holds Tensor, str(, str)*, wants tensors"),
    "integers": (lambda: DataLoader(list(range(20)), 4), "dtype torch.int64"),
    "names missing": (lambda: DataLoader(photos([(4, 4)] * 4, change=lambda item: (IMAGES[0], 2)), 4), "names for 2 classes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_loaders_that_cannot_be_trained_on_are_refused(name):
    make, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        source_of(make(), batch_size=4).next()


def test_a_range_that_looks_wrong_is_told_once():
    source = source_of(DataLoader(list(torch.rand(20, 1, 4, 4)), 4), batch_size=4)
    with pytest.warns(UserWarning, match=r"the first batch has floats from 0.* to 0.*\[-1, 1\]") as told:
        drawn(source, 5)
    assert len(told) == 1
