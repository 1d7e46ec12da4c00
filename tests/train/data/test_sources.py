"""Reals that lie on the device: their order, what becomes of them, and data that is refused."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from ganfast.step.reach import Reached
from ganfast.train.data import ImageData, to_float
from ganfast.train.data.sources import source_of
from tests.train.common import Draws

IMAGES = torch.arange(10 * 3 * 4 * 4).view(10, 3, 4, 4).to(torch.uint8)
LABELS = torch.arange(10)


def taken(source, steps):
    """The labels of some batches in a row, which are the items' indices."""
    return [source.open(source.next(), Draws())[1].tolist() for _ in range(steps)]


def flat(lists):
    return [item for part in lists for item in part]


def test_every_item_comes_once_in_an_epoch_and_a_tail_is_carried_over():
    batches = taken(source_of((IMAGES, LABELS), batch_size=4), 10)
    assert all(len(batch) == 4 for batch in batches)
    together = flat(batches)
    epochs = [together[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("length", [1, 3])
def test_a_batch_may_hold_several_epochs(length):
    batches = taken(source_of((IMAGES[:length], LABELS[:length]), batch_size=8), 300)  # further than what is laid out at once
    together = flat(batches)
    assert all(sorted(together[i : i + length]) == list(range(length)) for i in range(0, len(together) - length + 1, length))


def test_the_order_follows_from_the_seed():
    orders = [taken(source_of((IMAGES, LABELS), batch_size=4, seed=seed), 5) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    first, second = (flat(taken(source_of((IMAGES, LABELS), batch_size=10, seed=seed), 2)) for seed in (0, 1))
    assert first[10:] != second[:10]  # the second epoch of a seed is not the first of the next


@pytest.mark.parametrize("data", [(IMAGES, LABELS), (IMAGES[:3], LABELS[:3])], ids=["ten", "three"])
def test_processes_share_what_one_would_draw(data):
    whole = taken(source_of(data, batch_size=8), 6)
    parts = [taken(source_of(data, batch_size=8, rank=rank, world=4), 6) for rank in range(4)]
    assert [flat(step) for step in zip(*parts)] == whole


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 7])
def test_a_position_is_kept(steps):
    source = source_of((IMAGES, LABELS), batch_size=4)
    taken(source, steps)
    state = source.state_dict()
    assert state == {"epoch": 4 * steps // 10, "offset": 4 * steps % 10, "length": 10}
    again = source_of((IMAGES, LABELS), batch_size=4)
    taken(again, 3)
    again.load_state_dict(state)
    assert taken(again, 5) == taken(source, 5)


def test_a_position_holds_for_other_batches_and_processes():
    source = source_of((IMAGES, LABELS), batch_size=4)
    taken(source, 4)
    again = source_of((IMAGES, LABELS), batch_size=2, rank=1, world=2)
    again.load_state_dict(source.state_dict())
    assert flat(taken(again, 4)) == flat(taken(source, 2))[1::2]


def test_data_that_has_grown_goes_on_with_a_new_epoch():
    source = source_of((IMAGES[:7], LABELS[:7]), batch_size=4)
    taken(source, 3)
    grown = source_of((IMAGES, LABELS), batch_size=5)
    with pytest.warns(UserWarning, match="there are 10 entries, the saved run had 7"):
        grown.load_state_dict(source.state_dict())
    assert grown.state_dict() == {"epoch": 2, "offset": 0, "length": 10}


def test_images_arrive_as_floats_and_mirrored_by_the_draws():
    source = source_of((IMAGES, LABELS), batch_size=4, flip=True)
    assert source.leaves[0].dtype == torch.uint8
    handle, draws = source.next(), Draws()
    real, labels = source.open(handle, draws)
    expected = to_float(IMAGES[labels])
    coin = Draws().uniform(4) < 0.5
    assert 0 < coin.sum() < 4
    assert torch.equal(real, torch.where(coin[:, None, None, None], expected.flip(-1), expected))
    assert draws.asked == [(4,)]
    assert source_of(IMAGES, batch_size=4).open(handle, None)[1] is None  # without flip nothing is drawn


def test_a_second_that_is_images_is_mirrored_with_the_first():
    for pair in [(IMAGES, IMAGES), (to_float(IMAGES), to_float(IMAGES)), (IMAGES, to_float(IMAGES))]:
        source = source_of(pair, batch_size=8, flip=True)
        real, second = source.open(source.next(), Draws())
        assert torch.equal(real, second) and real.dtype == torch.float32
        assert not torch.equal(real, source.open((source.order._queue[:8],), Draws(seed=1))[0])


def test_layouts():
    for data in (IMAGES, to_float(IMAGES)):
        source = source_of(data, batch_size=4, channels_last=True)
        assert source.open(source.next(), None)[0].is_contiguous(memory_format=torch.channels_last)
    strange = IMAGES.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)[:, :, ::2]
    source = source_of(strange, batch_size=10)
    handle = source.next()
    assert torch.equal(source.open(handle, None)[0], to_float(strange[handle[0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_floats_are_taken_as_they_are(dtype):
    points, vectors = torch.randn(10, 2).to(dtype), torch.randn(10, 5).to(dtype)
    source = source_of((points, vectors), batch_size=4)
    (index,) = handle = source.next()
    real, second = source.open(handle, None)
    assert torch.equal(real, points[index].float()) and torch.equal(second, vectors[index].float())
    assert source.classes == [] and source.length == 10


def test_named_backends_run_or_raise():
    source = source_of(IMAGES, batch_size=4, backend="triton")
    with pytest.raises(RuntimeError, match="triton"):
        source.open(source.next(), None)


def test_reals_are_the_same_every_time_and_move_nothing():
    source = source_of((IMAGES, LABELS), batch_size=4, flip=True)
    before = source.state_dict()
    real, labels = source.reals(6)
    assert torch.equal(real, to_float(IMAGES[labels])) and len(labels.unique()) == 6
    taken(source, 3)
    assert torch.equal(source.reals(6)[0], real) and torch.equal(source.reals(3)[0], real[:3])
    assert sorted(source.reals(100)[1].tolist()) == list(range(10))
    assert before == {"epoch": 0, "offset": 0, "length": 10} and source.state_dict()["offset"] == 2


def test_image_data_and_tensor_datasets():
    source = source_of(ImageData(IMAGES, LABELS % 2, ["ants", "bees"], ["a.png: cut"]), batch_size=4)
    assert source.classes == ["ants", "bees"] and source.broken == ["a.png: cut"] and source.reals(2)[1].dtype == torch.int64
    flat = source_of(ImageData(IMAGES, LABELS * 0, [""]), batch_size=4)
    assert flat.classes == [] and flat.reals(2)[1] is None
    pair = source_of(TensorDataset(IMAGES, LABELS), batch_size=4)
    assert len(pair.leaves) == 2 and pair.classes == list("0123456789")
    assert source_of(TensorDataset(IMAGES), batch_size=4).reals(2)[1] is None


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool, torch.uint16])
def test_labels_of_any_whole_numbers(dtype):
    labels = (LABELS % 2).to(dtype)
    source = source_of((IMAGES, labels), batch_size=4)
    assert source.classes == ["0", "1"] and source.reals(10)[1].dtype == torch.int64


def test_a_wide_gap_among_named_classes_is_meant():
    source = source_of(ImageData(IMAGES, LABELS * 1000, [f"c{i}" for i in range(9001)]), batch_size=4)
    assert len(source.classes) == 9001


def test_what_opens_a_batch_can_be_in_a_graph():
    """`capture` refuses iterators, and records anew when a plain value or a tensor that the step reads changes; the position does."""
    source = source_of((IMAGES, LABELS), batch_size=4, flip=True)
    draws = Draws()

    def step(index):
        return source.open((index,), draws)

    reached = Reached(step)
    places = [slot.name for slot in reached.slots]
    assert reached.iterators == [] and "self.leaves[0]" in places and "self.flip" in places
    assert not [name for name in places if "taken" in name or "_queue" in name or "order" in name]


REFUSED = {
    "path": ("photos", "got str, wants a tensor.*folder"),
    "array": (np.zeros((4, 3)), r"got ndarray.*torch\.from_numpy"),
    "arrays": ((np.zeros((4, 3)), np.zeros(4)), r"got \(ndarray, ndarray\).*from_numpy"),
    "nothing": ((), "data is an empty tuple"),
    "a name in a dict": ({"image": IMAGES, "name": "x"}, "got a dict of 'image': Tensor, 'name': str, wants"),
    "few masks": ({"image": IMAGES, "mask": IMAGES[:9]}, r"'mask' has shape \(9, 3, 4, 4\), there are 10 samples.*unpaired\("),
    "empty": (IMAGES[:0], r"empty: shape \(0, 3, 4, 4\)"),
    "bytes that are no images": (IMAGES[:, 0], r"dtype uint8 and shape \(10, 4, 4\).*unsqueeze\(1\)"),
    "integers": (IMAGES.long(), r"dtype torch.int64.*to\(torch.uint8\)"),
    "numbers": (torch.randn(10), r"shape \(10,\).*unsqueeze"),
    "channels last": (torch.zeros(10, 8, 8, 3, dtype=torch.uint8), r"permute\(0, 3, 1, 2\)"),
    "levels as floats": (torch.arange(256.0).expand(2, 1, 4, 256), r"floats from 0 to 255.*/ 127.5 - 1"),
    "few labels": ((IMAGES, LABELS[:9]), r"second item has shape \(9,\), there are 10 samples.*unpaired\("),
    "float labels": ((IMAGES, LABELS.float()), r"dtype torch.float32.*\.long\(\)"),
    "names as labels": ((IMAGES, ["a"] * 10), r"got \(Tensor, list\).*names\.index"),
    "identities": ((IMAGES, torch.tensor([0] * 9 + [10**7])), "up to 10000000, and only 2 different ones occur.*unique"),
    "hashes": ((IMAGES, LABELS * 1000), "up to 9000, and only 10 different ones occur"),
    "negative small labels": ((IMAGES, (LABELS - 1).to(torch.int8)), "labels from -1"),
    "complex labels": ((IMAGES, LABELS.to(torch.complex64)), "dtype torch.complex64, wants labels"),
    "negative labels": ((IMAGES, LABELS - 1), "labels from -1"),
    "labels from 1": ((IMAGES, LABELS + 1), r"labels go from 1 to 10, wants 0.*unique\(return_inverse=True\)"),
    "labels as a column": ((IMAGES, LABELS[:, None]), r"one dimension: y\[:, 0\]"),
    "one-hot": ((IMAGES, torch.eye(10, dtype=torch.int64)), r"vectors are floats: y.float\(\)"),
    "names missing": (ImageData(IMAGES, LABELS, ["a", "b"]), "labels go up to 9, but there are names for 2 classes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_cannot_be_trained_on_is_refused(name):
    data, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        source_of(data, batch_size=4)


def test_a_source_is_taken_as_it_is():
    source = source_of(IMAGES, batch_size=8, world=2)
    assert source_of(source, batch_size=4) is source
    with pytest.raises(ValueError, match="gives 4 entries to each process, batch_size got 8: 8 for each"):
        source_of(source, batch_size=8)


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="batch_size got 5 for 2 processes, wants a multiple of 2"):
        source_of(IMAGES, batch_size=5, world=2)
    with pytest.raises(ValueError, match=r"flip mirrors images .* shape \(10, 2\)"):
        source_of(torch.randn(10, 2), batch_size=5, flip=True)
    with pytest.raises(ValueError, match="images of 4x4, image_size wants 8x8"):
        source_of(IMAGES, batch_size=5, image_size=8)


WARNED = {
    "not scaled": (torch.rand(10, 1, 4, 4), r"taken as it is.*\[-1, 1\].*x \* 2 - 1.*sigmoid"),
    "other scale": (torch.randn(10, 1, 4, 4) * 2, "tanh gives"),
    "NaN": (torch.ones(10, 2).index_fill(0, torch.tensor([3, 5]), torch.nan), "2 of 10 entries .* hold NaN or infinity, the first is 3"),
    "gap": ((IMAGES, LABELS // 9 * 3), "labels go up to 3, but only 2 of these 4 classes occur; there is nothing to learn of 1, 2. lab"),
    "gaps": ((IMAGES, LABELS * 3), "up to 27, but only 10 of these 28 classes occur; there is nothing to learn of 1, .*, 14 and 8 more"),
    "many classes": ((IMAGES, LABELS * 99), "up to 891, but only 10"),
    "not scaled, resized": (torch.rand(10, 1, 4, 4) * 1.04 - 0.02, r"taken as it is.*x \* 2 - 1"),
    "ImageNet's scale": (torch.rand(10, 3, 4, 4) * 4.7 - 2.1, "ImageNet's mean and deviation do not"),
    "bytes not scaled": (torch.rand(10, 1, 4, 4).round().to(torch.uint8), r"0 and 1 alone.*x \* 255"),
}


@pytest.mark.parametrize("name", WARNED)
def test_data_that_looks_wrong_is_told(name):
    data, words = WARNED[name]
    with pytest.warns(UserWarning, match=words):
        source_of(data, batch_size=4)


@pytest.mark.filterwarnings("error")
def test_data_as_it_should_be_is_no_reason_for_a_word():
    for data in (IMAGES, to_float(IMAGES), torch.rand(10, 2), torch.zeros(10, 1, 4, 4), -torch.ones(10, 1, 4, 4)):
        source_of(data, batch_size=4)
