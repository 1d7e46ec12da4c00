"""TensorBoard: what it is given, and what is said where it is missing. A fake stands in; the real one is read back where installed."""

import math
import sys

import numpy as np
import pytest

from ganfast.train import Callback
from ganfast.train.command_line import recipes
from ganfast.train.watch import tensorboard
from ganfast.train.watch.tensorboard import TensorBoard
from tests.train.common import small, trained


class FakeWriter:
    def __init__(self, folder, purge_step=None):
        self.folder, self.purge_step, self.scalars, self.images, self.texts, self.open = folder, purge_step, {}, {}, {}, True
        self.flushed = 0
        WRITERS.append(self)

    def add_scalar(self, tag, value, step):
        assert self.open and isinstance(value, int | float)
        self.scalars.setdefault(tag, []).append((step, value))

    def add_image(self, tag, pixels, step, dataformats):
        assert self.open and dataformats == "HWC" and pixels.dtype == np.uint8 and pixels.shape[2] == 3
        self.images.setdefault(tag, []).append((step, pixels))

    def add_text(self, tag, text, step):
        assert self.open
        self.texts.setdefault(tag, []).append((step, text))

    def flush(self):
        self.flushed += 1

    def close(self):
        self.open = False


WRITERS: list[FakeWriter] = []


@pytest.fixture
def writers(monkeypatch):
    monkeypatch.setattr(tensorboard, "_writer_class", lambda: FakeWriter)
    WRITERS.clear()
    return WRITERS


class Alarming(Callback):
    def on_log(self, trainer, row):
        row["alarm_messages"] = ["mode_collapse: the same few images"] if trainer.steps == 2 else []
        row["kid (pixels8)"] = math.nan if trainer.steps == 2 else 0.5


def run(tmp_path, *callbacks, **changes):
    trainer = recipes.trainer(small(tmp_path / "run", **{"sample_every": 3} | changes), callbacks=callbacks)
    trainer.fit(progress_bar=False)
    return trainer


def test_a_run(tmp_path, writers):
    trainer = run(tmp_path, Alarming(), TensorBoard(tmp_path / "events"))
    (writer,) = writers
    assert writer.folder == str(tmp_path / "events") and writer.purge_step is None and not writer.open and writer.flushed == 3
    assert [step for step, _ in writer.scalars["loss/loss_d"]] == [2, 4, 6]
    assert {"run/seconds", "discriminator right/real_accuracy", "spread/spread", "metrics/kid (pixels8)"} <= writer.scalars.keys()
    assert not any("alarms" in tag or tag.endswith("/step") for tag in writer.scalars)
    assert [step for step, _ in writer.texts["alarm/mode_collapse"]] == [2]  # as it begins
    assert "Synthetic: yes" in writer.texts["about"][0][1] and trainer.name.split(",")[0] in writer.texts["about"][0][1]
    assert [step for step, _ in writer.images["grid"]] == [3, 6]


def test_the_grids_are_those_on_the_disk(tmp_path, writers):
    from PIL import Image

    trainer = run(tmp_path, TensorBoard())
    assert writers[0].folder == str(trainer.run_dir / "tensorboard")
    with Image.open(trainer.run_dir / "grids" / "step-0000003.png") as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), writers[0].images["grid"][0][1])


def test_a_resumed_run_shows_its_own_grids(tmp_path, writers):
    run(tmp_path, steps=6)
    left = tmp_path / "run" / "grids" / "step-0000009.png"
    left.write_bytes((left.parent / "step-0000003.png").read_bytes())  # of a run that was killed after its checkpoint
    resumed = recipes.trainer(small(tmp_path / "run", steps=9, log_every=1, sample_every=3), resume=True, callbacks=[TensorBoard()])
    resumed.fit(progress_bar=False)
    (writer,) = writers
    assert writer.purge_step == 7 and [step for step, _ in writer.images["grid"]] == [9]
    assert not np.array_equal(writer.images["grid"][0][1], tensorboard._pixels(left.parent / "step-0000003.png"))


def test_by_the_setting(tmp_path, writers):
    trained(tmp_path / "run", tensorboard=True, sample_every=3)
    assert writers[0].folder == str(tmp_path / "run" / "tensorboard") and writers[0].scalars


def test_without_a_folder(writers):
    class Bare:
        run_dir, steps = None, 0

    with pytest.raises(ValueError, match="log_dir is None and the run has no run_dir"):
        TensorBoard().on_start(Bare())


def test_without_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"tensorboard cannot be imported.*pip install tensorboard"):
        TensorBoard()


def test_the_real_one(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, Alarming(), TensorBoard(tmp_path / "events"))
    found = events.EventAccumulator(str(tmp_path / "events")).Reload()
    assert [event.step for event in found.Scalars("loss/loss_d")] == [2, 4, 6]
    assert [event.step for event in found.Images("grid")] == [3, 6]
    assert any(tag.startswith("metrics/kid") for tag in found.Tags()["scalars"])
    assert "about/text_summary" in found.Tags()["tensors"]
