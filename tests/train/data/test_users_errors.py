"""An exception of the user's own code that reads data ends the run, with the item, the exception and its traceback, wherever it is."""

import multiprocessing
import os
import traceback

import pytest
import torch
from PIL import Image, UnidentifiedImageError
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ganfast.train import TrainConfig, Trainer, data
from ganfast.train.data.items import Failed
from ganfast.train.data.sources import source_of
from ganfast.train.saving import checkpoint

LATE = 13  # not among the items that are looked at first


class Strange(Exception):
    """Cannot be pickled and made again, as many a library's own."""

    def __init__(self, path, *, code):
        super().__init__(f"{path} has code {code}")
        self.held = lambda: code


ERRORS = {
    "KeyError": lambda: KeyError("label of 13"),
    "IndexError": lambda: IndexError("label of 13"),
    "StopIteration": lambda: StopIteration("label of 13"),
    "RuntimeError": lambda: RuntimeError("label of 13"),
    "UnidentifiedImageError": lambda: UnidentifiedImageError("label of 13"),
    "Strange": lambda: Strange("label of 13", code=3),
}


class Raising(Dataset):
    def __init__(self, error, at=LATE, length=20):
        self.error, self.at, self.length = error, at, length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        if i == self.at:
            self.transform()
        return torch.full((2,), i / 20)

    def transform(self):
        raise self.error()


class Stream(IterableDataset):
    def __init__(self, error):
        self.dataset = Raising(error)

    def __iter__(self):
        return (self.dataset[i] for i in range(20))


def collate(batch, error):
    if any(x[0] == torch.tensor(LATE / 20) for x in batch):
        raise error()
    return torch.stack(batch)


def trained(data, **options):
    config = TrainConfig(steps=8, latent_dim=8, batch_size=4, precision="fp32", sample_every=0, **options)
    Trainer(nn.Linear(8, 2), nn.Linear(2, 1), data, config).fit(progress_bar=False)


def text(error) -> str:
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", [True, False], ids=["memory", "stream"])
@pytest.mark.parametrize("name", ERRORS)
def test_a_dataset_that_raises(name, cache, workers):
    with pytest.raises(Failed, match=rf"item 13 of the Dataset \(Raising\) raised {name}: .*label of 13") as told:
        source = source_of(Raising(ERRORS[name]), batch_size=4, cache=cache, workers=workers)
        for _ in range(5):
            source.next()
    assert "in transform" in text(told.value) and f"skip={name}" in str(told.value)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("at", [0, LATE])
@pytest.mark.parametrize("folder", [True, False])
def test_a_run_ends_and_nothing_is_listed_as_broken(tmp_path, folder, at):
    """At item 0 it is raised as the trainer is made; later ones are decoded in the first steps where they are not kept in memory."""
    options = {"run_dir": str(tmp_path / "run")} if folder else {}
    for cache in (True, False):
        with pytest.raises(RuntimeError, match=f"data: item {at} of the Dataset"):
            trained(source_of(Raising(ERRORS["IndexError"], at), batch_size=4, cache=cache), **options)
    assert not (tmp_path / "run" / checkpoint.BROKEN).exists()


LOADERS = {
    "item": lambda e, w: DataLoader(Raising(e), 4, num_workers=w),
    "collate": lambda e, w: DataLoader(Raising(e, -1), 4, num_workers=w, collate_fn=lambda batch: collate(batch, e)),
    "stream": lambda e, w: DataLoader(Stream(e), 4, num_workers=w),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", ["KeyError", "IndexError"])
@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_that_raises(name, error, workers):
    source = source_of(LOADERS[name](ERRORS[error], workers), batch_size=4)
    with pytest.raises(RuntimeError, match=rf"batch 4 of epoch 0 of the DataLoader raised {error}") as told:
        for _ in range(5):
            source.next()
    assert ("in collate" if name == "collate" else "in transform") in text(told.value)
    if name == "item" and not workers:
        assert "item 13 of the Dataset (Raising), in batch 4" in str(told.value)
    with pytest.raises(RuntimeError, match=rf"a batch of the DataLoader raised {error}"):
        source.reals(20)
    assert multiprocessing.active_children() == []


def test_an_error_in_the_first_step_is_not_taken_for_the_networks():
    """They raise IndexError, too, where shapes are wrong."""
    data = DataLoader(Raising(ERRORS["IndexError"], 0), 4)
    source = source_of(data, batch_size=4)
    source.reals = lambda n: (torch.zeros(n, 2), None)
    with pytest.raises(Failed, match=r"item 0 of the Dataset \(Raising\), in batch 1"):
        trained(source)


@pytest.mark.parametrize("error", ["KeyError", "IndexError"])
def test_a_stream_that_raises(error):
    with pytest.raises(RuntimeError, match=rf"item 13 of the IterableDataset \(Stream\) raised {error}") as told:
        trained(Stream(ERRORS[error]))
    assert "in transform" in text(told.value)


@pytest.mark.parametrize("cache", [True, False])
def test_files_that_a_dataset_opens_are_its_own(tmp_path, cache):
    """Of a folder they are left out and listed; a Dataset says by `skip` that it wants the same."""
    for i in range(6):
        Image.new("RGB", (4, 4), (10 * i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    (tmp_path / "5.png").write_bytes((tmp_path / "5.png").read_bytes()[:-30])

    class Opened(Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, i):
            return Image.open(tmp_path / f"{i}.png")  # decoded by whoever gets it, as Pillow does

    for skip, at in ((), 3), (UnidentifiedImageError, 5):
        with pytest.raises(Failed, match=rf"item {at} of the Dataset \(Opened\) raised .*Error"):
            source_of(Opened(), batch_size=6, cache=cache, workers=0, skip=skip).next()
    with pytest.warns(UserWarning, match="2 of the Dataset's 6 items cannot be read"):
        source = source_of(Opened(), batch_size=6, cache=cache, workers=0, skip=OSError)
        source.next()
        source.close()
    assert sorted(line[:6] for line in source.broken) == ["item 3", "item 5"]
    assert len(data.folder(tmp_path, 4, workers=0).broken) == 2


def test_what_skip_may_be():
    for wrong in ("OSError", OSError(), (OSError, KeyboardInterrupt)):
        with pytest.raises(ValueError, match=r"skip got .* wants exceptions, such as OSError"):
            source_of(Raising(OSError), batch_size=4, skip=wrong)
    with pytest.raises(ValueError, match="skip is for map-style Datasets, got DataLoader"):
        source_of(DataLoader(Raising(OSError), 4), batch_size=4, skip=OSError)
    with pytest.raises(ValueError, match="of 8 items of the Dataset none can be read: OSError: no file"):
        source_of(Gone(None), batch_size=4, skip=OSError)


class Gone(Raising):
    def __getitem__(self, i):
        raise OSError("no file")


def test_a_worker_that_dies_is_no_fault_of_the_networks():
    class Dying(Raising):
        def __getitem__(self, i):
            if i == LATE and multiprocessing.parent_process():
                os._exit(9)
            return super().__getitem__(0)

    for cache in (True, False):
        with pytest.raises(RuntimeError, match=r"data: a process that decodes the Dataset ended: .*exited unexpectedly"):
            trained(source_of(Dying(None, -1), batch_size=4, cache=cache, workers=1))
