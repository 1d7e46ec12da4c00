"""Checkpoint files and the run's folder. A file on the disk is whole, whenever the process dies.

A new file is written beside the old one, forced to the disk and renamed over it; the old checkpoints go after that.
"""

import contextlib
import json
import math
import os
import re
import weakref
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ganfast import _tune
from ganfast._tell import tell
from ganfast.train.saving import kernels
from ganfast.train.saving.disk import WRITING, atomic, release, sync, take_lock

FORMAT, VERSION = "ganfast-checkpoint", 2
CONFIG, LOG, BROKEN, GRIDS, BEST, LOCK = "config.json", "log.jsonl", "broken.txt", "grids", "best.pt", ".lock"
ASIDE = ".aside"  # end of a name: a checkpoint that a run goes on without
SYNTHETIC = "what a generator with these weights makes is synthetic"


class Damaged(ValueError):
    """A checkpoint that was cut short or changed on the disk; an older one may still be good."""


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns an OSError of writing (disk full, over quota, gone) into a RuntimeError that names the newest whole checkpoint."""
    try:
        yield
    except OSError as error:
        whole = newest(path.parent)
        rest = f"whole on the disk: {whole}" if whole else "there is no whole checkpoint beside it"
        raise RuntimeError(f"checkpoint: {path} cannot be written: {error.strerror or error}; {rest}.") from error


def write(state: dict, path: Path) -> None:
    """`state`: tensors, numbers, strings, lists and dicts of these; all that weights_only=True reads back.

    Raises: ValueError, before anything is written, for what could not be read back; RuntimeError where the disk refuses it.
    """
    _check_readable(state, "state")
    sums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)  # `_read` compares them
    try:
        with _named(path), atomic(path) as file:
            torch.save({"format": FORMAT, "version": VERSION} | state, file)
    finally:
        torch.serialization.set_crc32_options(sums)


def _check_readable(value: object, where: str) -> None:
    """Raises: ValueError for what weights_only=True would refuse. By exact type: numpy.float64 is a float, and refused."""
    kind = type(value)
    if kind in (dict, OrderedDict):
        for key, part in value.items():
            _check_readable(key, f"a key of {where}")
            _check_readable(part, f"{where}[{key!r}]")
    elif kind in (list, tuple):
        for i, part in enumerate(value):
            _check_readable(part, f"{where}[{i}]")
    elif kind not in (Tensor, nn.Parameter, bool, int, float, str, bytes, type(None), torch.Size, torch.dtype, torch.device):
        name = f"{kind.__module__}.{kind.__qualname__}"
        raise ValueError(f"checkpoint: {where} is a {name}, wants tensors, numbers, strings, lists and dicts, which are safe to read.")


def load(path: Path) -> dict:
    """The state that `write` was given, on the CPU; of a run's folder its newest good checkpoint, with a word if that is not the last.

    Raises: ValueError for what is missing, damaged, of another program or of another version; it names the newest good one beside it.
    """
    if path.is_dir():
        return _load_newest(path)
    try:
        return _read(path)
    except ValueError as error:
        good = newest(path.parent)
        raise ValueError(str(error) + (f" The newest good one beside it is {good}." if good else "")) from None


def with_kernels(path: Path) -> dict:
    """As `load`, with the tuner's choices that the run made since the checkpoint, whose steps come again."""
    state, folder = load(path), path if path.is_dir() else path.parent
    return state | {"kernels": kernels.joined(state["kernels"], folder)}


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that can be read; best.pt if no other can, None if none can."""
    for path in _candidates(folder):
        with contextlib.suppress(ValueError):
            _read(path)
            return path
    return None


def checkpoints(folder: Path) -> dict[int, Path]:
    """step -> file, in the order of steps, which is not that of the names once a step has more than seven digits."""
    found = ((re.fullmatch(r"checkpoint-(\d+)\.pt", path.name), path) for path in folder.glob("checkpoint-*.pt"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def _candidates(folder: Path) -> list[Path]:
    """Newest first; best.pt before the one from which nothing was trained yet."""
    found, best = checkpoints(folder), folder / BEST
    begun = [found.pop(0)] if 0 in found else []
    return [*reversed(found.values()), *([best] if best.is_file() else []), *begun]


def _load_newest(folder: Path) -> dict:
    damaged = []
    for path in _candidates(folder):
        try:  # one of another version ends the search: going back in silence would lose what it holds
            state = _read(path)
        except Damaged as error:
            damaged.append(str(error))
            continue
        except ValueError as error:
            good = newest(folder)
            raise ValueError(str(error) + (f" The newest good one beside it is {good}." if good else "")) from None
        if damaged:
            tell(f"{' '.join(damaged)} Taking {path}, the newest good one")
        return state
    if damaged:
        raise ValueError(f"{' '.join(damaged)} There is no good one in {folder}; move them away to start anew.")
    started = (folder / LOG).exists() or (folder / CONFIG).exists()
    cause = " Its run ended before the first one; start it again without resume." if started else ""
    raise ValueError(f"checkpoint: there is none in {folder}.{cause}")


def _read(path: Path) -> dict:
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself compares no checksums
            spoiled = archive.testzip()
    except FileNotFoundError:
        raise ValueError(f"checkpoint: there is no file {path}.") from None
    except PermissionError as error:
        raise ValueError(f"checkpoint: {path} cannot be read: {error.strerror}.") from None
    except MemoryError:
        raise
    except Exception as error:  # by where the damage lies: BadZipFile, EOFError, RuntimeError, OSError, UnicodeDecodeError, ...
        spoiled = error
    if spoiled is not None:
        raise Damaged(f"checkpoint: {path} is cut short, damaged, or no checkpoint ({spoiled}).")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # KeyError, UnpicklingError, RuntimeError, ...
        first = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        raise ValueError(f"checkpoint: {path} was written by another program, or is not safe to read ({first[:120]}).") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or not isinstance(state.get("version"), int):
        raise ValueError(f"checkpoint: {path} was written by another program, wants one that ganfast wrote.")
    if state["version"] != VERSION:
        cause = "update ganfast" if state["version"] > VERSION else "an older ganfast wrote it"
        raise ValueError(f"checkpoint: {path} has format version {state['version']}, this ganfast reads {VERSION}; {cause}.")
    return state


def write_weights(path: Path, module: nn.Module, step: int | None = None) -> None:
    """The module's tensors as safetensors, for `module.load_state_dict(safetensors.torch.load_file(path))`.

    Tied tensors are written once per name and strides are dropped (safetensors takes neither). Whatever else the state_dict holds
    cannot be in such a file; its names are in the metadata.
    """
    from safetensors.torch import save

    state = module.state_dict()
    plain = torch.contiguous_format
    tensors = {name: t.to("cpu", copy=True, memory_format=plain) for name, t in state.items() if isinstance(t, Tensor)}
    about = {"format": "pt", "note": SYNTHETIC} | ({} if step is None else {"step": str(step)})
    if len(tensors) < len(state):
        about["left_out"] = ", ".join(name for name in state if name not in tensors)
    with _named(path), atomic(path) as file:
        file.write(save(tensors, about))


class RunFolder:
    """A run's folder, held by one process at a time. Of an earlier run in it nothing is touched unless `resume`.

    Raises: ValueError where the folder cannot be written, is in use, or holds a run and `resume` is off.
    """

    def __init__(self, path: Path, *, resume: bool, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"train: keep_checkpoints got {keep}, wants at least 1.")
        self.path, self.keep, self.resume, self._answered = path, keep, resume, None
        try:
            (path / GRIDS).mkdir(parents=True, exist_ok=True)
            self.close = weakref.finalize(self, release, take_lock(path / LOCK))
            for temporary in path.rglob(f"*{WRITING}"):  # of a run that was killed
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise ValueError(f"train: run_dir {path} cannot be written: {error.strerror or error}.") from None
        begun = checkpoints(path).get(0)  # nothing was trained from it: a first run that failed may begin again
        held = sorted(file.name for pattern in ("checkpoint*.pt", BEST) for file in path.glob(pattern) if file != begun)
        if held and not resume:
            self.close()
            names = ", ".join(held)
            raise ValueError(f"train: run_dir {path} already holds a run ({names}); resume it (--resume), or take another --run-dir.")
        if not held and not resume and ((path / LOG).exists() or (path / CONFIG).exists()):
            tell(f"the run in {path} ended before its first checkpoint; it begins again")

    def begin(self, config: dict, step: int, broken: list[str], state: Callable[[], dict] | None = None) -> None:
        """Writes the settings, the list of unreadable images and, where there is none, a first checkpoint of `state`. What is later than
        `step` is put out of the way: checkpoints aside (damaged, or the user chose an older one), log lines for good: they come again."""
        for later, file in checkpoints(self.path).items():
            if later == 0 and not self.resume:
                file.unlink()  # a failed run's, of other weights than this one's
            elif later > step:
                aside = file.with_name(file.name + ASIDE)
                os.replace(file, aside)
                tell(f"the run goes on from step {step}; {file.name} is set aside as {aside.name}")
        if (self.path / LOG).exists():
            lines = _lines_until(step, (self.path / LOG).read_bytes())
            self._write(LOG, "".join(lines))
        self._write(CONFIG, json.dumps(config, indent=2) + "\n")
        if broken:
            self._write(BROKEN, "".join(line + "\n" for line in broken))
        else:
            (self.path / BROKEN).unlink(missing_ok=True)
        self.keep_kernels()
        if state and not checkpoints(self.path):  # a run killed before the next one goes on from here
            self.save(state(), step)

    def _write(self, name: str, text: str) -> None:
        with _named(self.path / name), atomic(self.path / name) as file:
            file.write(text.encode())

    def log(self, row: dict) -> None:
        """Appends a line, which the system has when this returns. JSON has no NaN: a number that is not finite is written as null."""
        row = {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}  # a callback's own numbers
        row = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        path = self.path / LOG
        with _named(path):
            size = path.stat().st_size if path.exists() else 0
            try:
                with open(path, "ab") as file:
                    file.write((json.dumps(row) + "\n").encode())
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(path, size)  # no half line either
                raise
        self.keep_kernels()  # the line's samples ask the tuner too

    def keep_kernels(self) -> None:
        """The tuner's choices, on the disk when this returns."""
        if self._answered != (answered := _tune.answered()):
            if answered and not (self._answered or self.resume):
                tell(kernels.WORDS.format(self.path))
            self._write(kernels.FILE, kernels.text())
            self._answered = answered

    def save(self, state: dict, step: int) -> Path:
        """Writes a checkpoint and keeps the last `keep`, that of step 0 only while it is the only one; an older one is deleted when the new
        one is on the disk."""
        path = self.path / f"checkpoint-{step:07d}.pt"
        if (self.path / LOG).exists():
            with _named(path):
                sync(self.path / LOG)  # a run resumed from here has all lines up to here
        write(state, path)
        found = checkpoints(self.path)
        kept = set(list(found)[-self.keep :]) - ({0} if step else set())
        for old in found.keys() - kept:
            found[old].unlink(missing_ok=True)
        return path

    def keep_best(self, state: dict) -> None:
        """best.pt, which no later checkpoint deletes."""
        write(state, self.path / BEST)

    def weights(self, name: str, module: nn.Module, step: int) -> Path:
        write_weights(self.path / name, module, step)
        return self.path / name


def _lines_until(step: int, log: bytes) -> list[str]:
    """The log's readable lines up to `step`: the last line may be cut off, and a crash of the machine may spoil others."""
    lines = []
    for line in log.decode(errors="replace").splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or not line.endswith("\n"):
            continue
        if row.get("step", 0) > step:
            break
        lines.append(line)
    return lines
