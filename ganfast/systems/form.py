"""The form of a system: its options, what it trains, how that is measured and drawn. A system's file ends with SYSTEM = System(...)."""

import dataclasses
import functools
import math
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.train import TrainConfig, Trainer
from ganfast.train.config import fits
from ganfast.train.randomness import own_randomness
from ganfast.train.watch import grids

__all__ = ["Film", "Labelled", "Options", "Sound", "System", "reached", "remembered"]
COMPARE = {"<=": float.__le__, ">=": float.__ge__}


def reached(figures: Mapping[str, float], goals: Mapping[str, tuple[str, float]]) -> dict[str, bool]:
    """Goal by goal. A number that is not finite reaches none."""
    met = lambda value, sign, bound: math.isfinite(value) and COMPARE[sign](float(value), float(bound))
    return {name: met(figures[name], *goal) for name, goal in goals.items()}


def remembered(*names: str) -> Callable[[Callable], Callable]:
    """Decorates a function of the options, which may read those of `names` alone. What it gave last is given again as long as these are
    the same: training, measure and picture read the same data, and in a resumed run other options than in the one that was put back."""

    def decorate(function: Callable) -> Callable:
        held: dict[tuple, object] = {}

        @functools.wraps(function)
        def call(options: Options):
            key = tuple(getattr(options, name) for name in names)
            if key not in held:
                held.clear()  # before the next is read, as both may fill the memory
                held[key] = function(SimpleNamespace(**dict(zip(names, key))))
            return held[key]

        call.cache_clear = held.clear
        return call

    return decorate


@dataclass(frozen=True)
class Options:
    """What every system can be asked for. A system inherits from it, gives `steps` its own default and adds fields of its own, each with a
    line below it that `ganfast run NAME --help` shows.

    Raises: TypeError, ValueError for values that are of another kind; systems add checks of their own by `want` in __post_init__.
    """

    data: str | None = None
    """data of your own, a folder; none: the system's"""
    run_dir: str | None = None
    """folder for checkpoints, log, pictures and the result; `ganfast run NAME` takes runs/NAME"""
    steps: int = 2000
    """length of the training; schedules end with it"""
    max_seconds: float | None = None
    """stop, with all schedules finished, when this much training time is used up before `steps` are done"""
    seed: int = 0
    """of the networks, the data's order and all that is drawn"""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware has units for it, else fp32"""
    device: str = "auto"
    """auto: a GPU if torch sees one"""
    fused: bool = True
    """ganfast's kernels, and accelerated networks; no: torch's own"""
    log_every: int = 50
    """steps between lines of log.jsonl, where the alarms are looked at"""

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(type(self)).items():
            value = getattr(self, name)
            if isinstance(value, list):  # JSON has no tuples
                value = tuple(value)
                object.__setattr__(self, name, value)
            if not fits(value, kind):
                for one in (kind, *typing.get_args(kind)):  # a Literal, or one that may be left out
                    if typing.get_origin(one) is Literal:
                        _checks.nearest("run", name, value, map(str, typing.get_args(one)))
                words = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
                raise TypeError(f"run: {name} got {value!r}, wants {words}.")
        for name in ("steps", "log_every"):
            self.want(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
        self.want("seed", 0 <= self.seed < 2**63, "a number from 0 to 2**63")
        self.want("max_seconds", self.max_seconds is None or self.max_seconds > 0, "a positive number, or none")

    def of_own_data(self, *names: str) -> None:
        """Raises: ValueError where one of these options, which are of the system's own data alone, was changed and `data` is given too."""
        for name in names:
            unchanged = getattr(self, name) == getattr(type(self), name)
            self.want(name, self.data is None or unchanged, "no value beside data: it is of the system's own data alone")

    def want(self, name: str, good: bool, wanted: str) -> None:
        """Raises: ValueError unless `good`."""
        if not good:
            raise ValueError(f"run: {name} got {getattr(self, name)!r}, wants {wanted}.")

    def flag(self, name: str, value: object, steps: int) -> str:
        """How `ganfast run` is asked for a setting of TrainConfig. steps: the length of these options' training."""
        return f"--{name.replace('_', '-')} {value}"

    def config(self, **settings) -> TrainConfig:
        """A TrainConfig of these options and of `settings`, which the system sets. Pictures of samples come eight times in a run, unless
        `sample_every` is set."""
        shared = {f.name for f in dataclasses.fields(Options)} - {"data"}
        pictures = {"sample_every": max(1, settings.get("steps", self.steps) // 8)}
        return TrainConfig(**{name: getattr(self, name) for name in shared} | pictures | settings)


class Film(NamedTuple):
    """Samples that are frames one after another, which `ganfast sample` also writes as clip.gif: frames [T, C, H, W] in [-1, 1]; fields:
    text of each file beside what all files of samples say, such as whose face it is; own: whether that is the user's, not the system's."""

    frames: Tensor
    fields: Mapping[str, str]
    own: bool = False


class Labelled(NamedTuple):
    """Samples of classes: images [N, C, H, W] in [-1, 1], and for each the name of its class, which `ganfast sample` writes into the
    file's name and its text."""

    images: Tensor
    labels: list[str]


class Sound(NamedTuple):
    """What is written as a WAV file: wave [T] in [-1, 1], samples a second; fields: text of the file beside what all files of samples say,
    or, where the network did not make it, all of its text."""

    wave: Tensor
    rate: int
    fields: Mapping[str, str]
    made: bool = True


@dataclass(frozen=True)
class System:
    """One application.

    Arguments:
        name: as `ganfast run` takes it. does: one line. options: its Options.
        build: options -> the Trainer. Data first, as the Trainer makes the run's folder: an error in data leaves nothing behind.
        measure: (trainer, options) -> {figure: number}, on data that was held out, by the trainer's averaged generator.
        picture: (trainer, options) -> uint8 [3, H, W], for the gallery.
        goals: figure -> ("<=" or ">=", number), on the system's own data; of --data none is known.
        needs: packages that it cannot do without on its own data.
        credit: whose data the picture shows, with their licence; a function of the options where they decide.
        sample: (trainer, options, *, count, seed, text, label, pick, face, driver) -> [count, C, H, W] in [-1, 1], a Film, Labelled or
            {name: Sound}, for `ganfast sample`; text and label only where it draws by them, with a default where they may be left out;
            pick, by default (), where its picture is a contact sheet: these numbers of it, large; face and driver, by default None, where
            it moves a face: paths of a picture and of a film. None: trainer.sample, by a label of the data's classes.
        applied: (trainer, options, file) -> {ending: [C, H, W] in [-1, 1]}: what is made of a picture of the user's own, by what comes
            after its name, for `ganfast sample RUN --input FILE_OR_FOLDER`. It reads the file by `sources.own.picture_at`. None: that is
            refused.
        hears: whether that takes WAV files instead, reads them by `sources.wav.read`, and gives {ending: Sound}.
        sources: what `data` may name beside a folder.
        fixed: options that decide what is held out, or are of no use later: a resumed run keeps them, as it does `data` and `seed`.
        shows: options -> further text fields of the picture, such as whose face it shows. None: there are none.
        restored: options that `build` gets where a run is put back, or a function of the run's options and of the checkpoint's state that
            gives them: what was learned or read before the training lies in the checkpoint.
    Raises: ValueError for a name or goals of another form, and for fixed options that there are not.
    """

    name: str
    does: str
    options: type[Options]
    build: Callable[[Options], Trainer]
    measure: Callable[[Trainer, Options], Mapping[str, float]]
    picture: Callable[[Trainer, Options], Tensor]
    goals: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    credit: str | Callable[[Options], str] = ""
    sample: Callable[..., Tensor] | None = None
    applied: Callable[[Trainer, Options, Path], Mapping[str, Tensor | Sound]] | None = None
    hears: bool = False
    sources: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    shows: Callable[[Options], Mapping[str, str]] | None = None
    restored: Mapping[str, object] | Callable[[Options, Mapping], Mapping[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            _checks.fail("System", f"name is {self.name!r}, wants small letters and digits, words joined by -")
        for figure, goal in self.goals.items():
            if not isinstance(goal, (tuple, list)) or len(goal) != 2 or goal[0] not in COMPARE:
                _checks.fail("System", f"the goal of {figure} is {goal!r}, wants ('<=' or '>=', number)")
        known = [f.name for f in dataclasses.fields(self.options)]
        for name in self.fixed:
            if name not in known:
                _checks.nearest("System", "fixed", name, known)

    def trainer(self, options: Options) -> Trainer:
        """What `build` makes. Networks that it initialises follow from the seed, and torch's own random state stays as it was."""
        with own_randomness(options.seed):
            return self.build(options)

    def goals_of(self, options: Options) -> Mapping[str, tuple[str, float]]:
        return {} if options.data else self.goals

    def credit_of(self, options: Options) -> str:
        return self.credit(options) if callable(self.credit) else self.credit

    def fields_of(self, trainer: Trainer, options: Options, seed: int | None = None, own: bool = False) -> dict[str, str]:
        """The text fields that all files of a run have: that they are synthetic, by which model and seed (None: the run's), from whose
        data. own: pictures of the user's are shown, and the data are what the network was trained on alone."""
        fields = grids.about(f"{self.name}: {trainer.name}", options.seed if seed is None else seed)
        credit = self.credit_of(options)
        return fields | ({"Network trained on" if own else "Credit": credit} if credit else {})

    def figures(self, trainer: Trainer, options: Options) -> dict[str, float]:
        """What `measure` found. Raises: ValueError where it is no dict of numbers, or lacks one that has a goal."""
        found = self.measure(trainer, options)
        if not isinstance(found, Mapping) or not all(isinstance(value, (int, float)) for value in found.values()):
            _checks.fail("run", f"measure of {self.name} gave {found!r}, wants a dict of numbers")
        if missing := [name for name in self.goals_of(options) if name not in found]:
            _checks.fail("run", f"measure of {self.name} gave {', '.join(found)}; goals name {', '.join(missing)} too")
        return {name: float(value) for name, value in found.items()}

    def drawn(self, trainer: Trainer, options: Options) -> Tensor:
        """What `picture` drew, on the CPU. Raises: ValueError where it is no uint8 [3, H, W]."""
        image = self.picture(trainer, options)
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.dim() != 3 or len(image) != 3:
            got = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
            _checks.fail("run", f"picture of {self.name} gave {got}, wants uint8 [3, H, W]")
        return image.cpu()
