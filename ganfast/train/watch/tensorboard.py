"""TensorBoard: a callback that writes a run's numbers, alarms and grids as events, where tensorboard is installed."""

from pathlib import Path
from typing import TYPE_CHECKING

from ganfast import _checks
from ganfast.train.saving.checkpoint import GRIDS
from ganfast.train.watch.callbacks import Callback, TrainerLike
from ganfast.train.watch.curves import PANELS, panel_of
from ganfast.train.watch.grids import about

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Callback):
    """Writes events for `tensorboard --logdir` into log_dir, by default `tensorboard` in the run's folder: the numbers of each log line,
    what the alarms say, and the grids that lie in the run's folder.

    A resumed run hides what the stopped one wrote after its checkpoint. Training waits for nothing but the files.
    Raises: ValueError without tensorboard, and where there is neither log_dir nor run_dir.
    """

    def __init__(self, log_dir: str | Path | None = None) -> None:
        self.log_dir = log_dir
        self._writer: SummaryWriter | None = None
        self._shown: set[Path] = set()
        _writer_class()

    def on_start(self, trainer: TrainerLike) -> None:
        if self.log_dir is None and trainer.run_dir is None:
            _checks.fail("TensorBoard", "log_dir is None and the run has no run_dir", "Give one of them")
        folder = Path(self.log_dir) if self.log_dir is not None else trainer.run_dir / "tensorboard"
        self._writer = _writer_class()(str(folder), purge_step=trainer.steps + 1 if trainer.steps else None)
        self._shown = {path for step, path in _grids(trainer) if step <= trainer.steps}
        text = "\n\n".join(f"{key}: {value}" for key, value in about(trainer.name, trainer.config.seed).items())
        self._writer.add_text("about", text, trainer.steps)

    def on_log(self, trainer: TrainerLike, row: dict) -> None:
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                self._writer.add_scalar(_tag(name), value, trainer.steps)
        for message in row.get("alarm_messages", ()):
            name, _, text = message.partition(": ")
            self._writer.add_text(f"alarm/{name}", text, trainer.steps)
        self._show_grids(trainer, trainer.steps - 1)  # this step's is yet to be written; a stopped run may have left one
        self._writer.flush()

    def on_end(self, trainer: TrainerLike) -> None:
        self._show_grids(trainer, trainer.steps)
        self._writer.close()
        self._writer = None

    def _show_grids(self, trainer: TrainerLike, until: int) -> None:
        for step, path in _grids(trainer):
            if step <= until and path not in self._shown:
                self._shown.add(path)
                _, _, *network = path.stem.split("-")
                self._writer.add_image("/".join(["grid", *network]), _pixels(path), step, dataformats="HWC")


def _writer_class() -> "type[SummaryWriter]":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        _checks.fail("TensorBoard", f"tensorboard cannot be imported ({error})", "pip install tensorboard, or train without it")
    return SummaryWriter


def _tag(name: str) -> str:
    """Panels become TensorBoard's sections: loss/loss_d, metrics/kid (pixels8), run/seconds."""
    panel = panel_of(name)
    section = "run" if panel is None else panel if panel in PANELS else "metrics"
    return f"{section}/{name}"


def _grids(trainer: TrainerLike) -> list[tuple[int, Path]]:
    """(step, file) of each."""
    found = (trainer.run_dir / GRIDS).glob("step-*.png") if trainer.run_dir is not None else []
    return sorted((int(path.stem.split("-")[1]), path) for path in found)


def _pixels(path: Path):
    """[H, W, 3] uint8."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
