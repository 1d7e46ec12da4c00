"""TrainConfig: every setting of a run, checked, and saved as config.json in the run's folder."""

import dataclasses
import functools
import json
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import torch

from ganfast import _checks, ada, augment
from ganfast.train.schedules import Schedules
from ganfast.train.thresholds import Thresholds

Loss = Literal["minimax", "nonsaturating", "hinge", "lsgan", "wasserstein", "relativistic", "relativistic_average"]
SMOOTHED = ("minimax", "nonsaturating", "lsgan")
SIGNED = ("minimax", "nonsaturating", "hinge", "lsgan")  # losses whose logits say real or fake by themselves


_SOURCE = "source_of(data, batch_size=..., {}=...) of ganfast.train.data, whose answer Trainer takes as its data"
_ELSEWHERE = {
    "Trainer(generator, discriminator, data, config)": ("generator", "discriminator", "data"),
    "Trainer(generator, discriminator, data, config, {}=...)": ("networks", "objective", "phases", "condition", "real", "callbacks"),
    _SOURCE: ("image_size", "cache", "workers", "memory", "skip"),
}
"""Arguments that are looked for among the settings, and how they are given."""

Kind = TypeVar("Kind", bound=type)


def names_checked(kind: Kind) -> Kind:
    """A dataclass of settings whose unknown names are refused in words, and not as arguments of an __init__ that nobody wrote."""
    made = kind.__init__

    @functools.wraps(made)
    def init(self, *args, **given):
        for name in given:
            self._known(name, TypeError)
        made(self, *args, **given)

    kind.__init__ = init
    return kind


@names_checked
@dataclass
class TrainConfig(Schedules):
    """A run's settings, whatever its networks and data are; below each stands what it means, with its unit.

    Raises: TypeError, ValueError for values that make no sense and, at an assignment, for a name that is no setting; values assigned later
        are looked at by `check`, which Trainer and its `fit` call. Networks, losses and phases are as when the Trainer was made.
    Source: the papers' names: R1 and lazy regularisation Mescheder et al. 2018, Karras et al. 2020; WGAN-GP Gulrajani et al. 2017;
        spectral normalisation Miyato et al. 2018; DiffAugment Zhao et al. 2020; ADA, path lengths, the lazy correction Karras et al. 2020;
        mode seeking Mao et al. 2019.
    """

    run_dir: str | None = None
    """folder for config, log, pictures, checkpoints; none: nothing is written"""
    device: str = "auto"
    """auto: a GPU if torch sees one"""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware has units for it (tensor cores, AMX, AVX512-BF16), else fp32; weights and optimizers stay float32"""
    channels_last: bool = False
    """memory format of networks and images"""
    fused: bool = True
    """ganfast's kernels for losses and batches, and accelerated networks; no: torch's own"""
    latent_dim: int = 64
    """numbers a generator makes one sample from; 0: none, it is called with its condition alone"""
    latent_shape: tuple[int, ...] | None = None
    """of one latent, for a generator that wants another one than (latent_dim,), such as (100, 1, 1)"""

    batch_size: int = 64
    """real images a step, of all processes together"""
    steps: int = 2500
    """length of the run; schedules end with it"""
    max_seconds: float | None = None
    """stop, with all schedules finished, when this much training time is used up before `steps` are done"""
    seed: int = 0
    """of the networks, the order of the data and all that is drawn"""

    loss: Loss = "nonsaturating"
    """on logits; the relativistic ones compare reals with fakes, relativistic_average with the mean of each process's part of the batch"""
    smoothing: float = 0.0
    """real target 1 - smoothing, for minimax, nonsaturating and lsgan"""
    n_critic: int = 1
    """updates of the discriminator for each of the generator"""
    r1: float = 0.0
    """weight of the gradient penalty E|dD/dx|^2 on reals (gamma/2 of the paper), x as the discriminator sees it: augmented, with noise"""
    r2: float = 0.0
    """the same on fakes"""
    gradient_penalty: float = 0.0
    """weight of WGAN-GP's penalty, usually 10"""
    penalty_every: int = 1
    """lazy penalties: an update of their own, every so many steps, that many times as heavy; 1: a part of each discriminator's update"""
    penalty_end: float = 1.0
    """share of their weight that penalties have fallen to at the end of the run"""
    penalty_decay: Literal["geometric", "cosine"] = "geometric"
    """shape of that fall, over the whole run"""
    mode_seeking: float = 0.0
    """weight of a term against generators that answer different latents alike"""
    mode_seeking_every: int = 1
    """the same as penalty_every, for the generator"""
    path_length: float = 0.0
    """weight of StyleGAN2's path length penalty, 2 there, on half of a batch; the generator has parts `mapping` and `synthesis`"""
    path_length_every: int = 4
    """the same as penalty_every, for the generator"""
    lazy_correction: bool = False
    """a network with a lazy penalty every k steps takes k + 1 of Adam's steps where others take k; yes: with its learning rate times
    k / (k + 1) and its betas to that power, as published; no: as they are"""
    sync_batch_norm: bool = False
    """batch norm by the statistics of the whole batch, for which every such layer then waits; no: of each process's part"""
    spectral_norm: bool = False
    """spectral normalisation of every convolution, linear and embedding layer of the discriminator, of what weight norm makes too"""
    augment: str = ""
    """of all that the discriminator sees. DiffAugment: "color,translation,cutout" or a part of it. ADA, with a probability that follows
    from how sure the discriminator is of the reals: "ada", which is "ada:blit,geom,color", or a part of that"""
    ada_target: float = 0.6
    """mean sign of the real logits that ADA aims at: while it is above, the probability rises"""
    ada_course: float | None = None
    """ADA's probability at the end, to which it goes from 0 along the learning rates' shape, whatever the discriminator says: for the
    losses whose signs say nothing; none: it follows ada_target"""
    ada_speed: int = 500_000
    """real images in which that probability rises from 0 to 1, if it only rises; fewer for runs that are shorter than some millions"""
    flip: bool = False
    """mirror half of the real images"""
    noise: float = 0.0
    """deviation of Gaussian noise on all that the discriminator sees"""

    learning_rate: float = 5e-4
    """of Adam, for both networks"""
    discriminator_learning_rate: float | None = None
    """one of its own; none: the same"""
    betas: tuple[float, float] = (0.5, 0.9)
    """Adam's, for both networks"""
    decay: Literal["linear", "cosine"] = "linear"
    """shape of the learning rates' fall"""
    decay_from: float = 0.75
    """share of the run after which the learning rates fall"""
    decay_to: float = 0.0
    """share of the learning rates that is left at the end"""
    beta2_end: float | None = None
    """what the second of Adam's betas has moved to at the end, in 16 steps along the same shape; none: it stays"""
    ema: float = 0.998
    """how much of the averaged generator stays at each step"""
    ema_ramp: float = 10.0
    """a shorter memory while the first steps still count: at step n at most n / (n + ema_ramp) stays"""

    skip_limit: int = 20
    """so many updates in a row whose gradients are not finite end the run; each is skipped"""
    log_every: int = 50
    """steps between lines of log.jsonl, where the alarms are looked at"""
    sample_every: int = 250
    """steps between pictures of samples; at the end come clips and curves; 0: never"""
    checkpoint_every: int = 500
    """steps between checkpoints"""
    keep_checkpoints: int = 3
    """so many last ones, beside the best"""
    metrics_every: int = 0
    """steps between measurements of the averaged generator (images: precision, recall, KID, FID), the best of which keeps its
    checkpoint; 0: never"""
    features: Literal["pixels8", "inception"] = "pixels8"
    """what images are compared by: averages over 8x8 fields, or torch-fidelity's Inception, where it is installed with its weights"""
    tensorboard: bool = False
    """write run_dir/tensorboard too, where tensorboard is installed"""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """when the alarms go off"""

    measure = None  # what metrics_every measures samples by, a function; None: images' precision, recall, KID, FID

    def __setattr__(self, name: str, value: object) -> None:
        self._known(name, ValueError)
        if name in ("betas", "latent_shape") and isinstance(value, list):
            value = tuple(value)
        object.__setattr__(self, name, value)

    def __post_init__(self) -> None:
        if isinstance(self.thresholds, dict):
            self.thresholds = Thresholds(**self.thresholds)
        self.check()

    def check(self) -> None:
        """Raises: TypeError, ValueError for settings that make no sense, which may have been assigned since they were last looked at."""
        for name, kind in typing.get_type_hints(type(self)).items():
            if typing.get_origin(kind) is Literal:
                if getattr(self, name) not in typing.get_args(kind):
                    _checks.nearest(self._name, name, getattr(self, name), typing.get_args(kind))
            elif not fits(getattr(self, name), kind):
                words = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
                raise TypeError(f"{self._name}: {name} got {getattr(self, name)!r}, wants {words}.")
        for name in filter(None, () if self.adaptive else self.augment.split(",")):
            if name.strip() not in augment.POLICIES:
                _checks.nearest(self._name, "augment", name.strip(), (*augment.POLICIES, "ada alone"))
        signed = not self.adaptive or self.loss in SIGNED or self.ada_course is not None
        self._want("augment", signed, f"no ADA with {self.loss}, the signs of whose logits do not say real or fake, but by ada_course")
        self._want("ada_target", -1 < self.ada_target < 1, "a mean sign between -1 and 1")
        self._want("ada_speed", self.ada_speed >= 1, "at least 1")
        course = self.ada_course is None or (0 <= self.ada_course <= 1 and self.decay_from < 1)
        self._want("ada_course", course, "a probability, and decay_from below 1, as it follows the learning rates' fall; or none")
        every = ("penalty_every", "mode_seeking_every", "path_length_every", "log_every", "checkpoint_every")
        for name in ("batch_size", "steps", "n_critic", *every, "skip_limit", "keep_checkpoints"):
            self._want(name, getattr(self, name) >= 1, "at least 1")
        for name in ("latent_dim", "sample_every", "metrics_every", "seed"):
            self._want(name, 0 <= getattr(self, name) < 2**63, "a number from 0 to 2**63")
        self._want("latent_shape", self.latent_shape is None or all(n >= 1 for n in self.latent_shape), "sizes of at least 1")
        self._want("max_seconds", self.max_seconds is None or self.max_seconds > 0, "a positive number, or none")
        self._want("smoothing", 0 <= self.smoothing < 1, "a number in [0, 1)")
        self._want("smoothing", not self.smoothing or self.loss in SMOOTHED, f"0 for {self.loss}, which has no target to smooth")
        for name in ("r1", "r2", "gradient_penalty", "mode_seeking", "path_length", "noise", "ema_ramp"):
            self._want(name, 0 <= getattr(self, name) < math.inf, "no negative number")
        self._want("penalty_end", 0 < self.penalty_end < math.inf, "a positive number")
        self._want("learning_rate", 0 < self.learning_rate < math.inf, "a positive number")
        rate = self.discriminator_learning_rate
        self._want("discriminator_learning_rate", rate is None or 0 < rate < math.inf, "a positive number, or none")
        self._want("betas", all(0 <= b < 1 for b in self.betas), "two numbers in [0, 1)")
        for name in ("decay_from", "decay_to"):
            self._want(name, 0 <= getattr(self, name) <= 1, "a share in [0, 1]")
        self._want("beta2_end", self.beta2_end is None or 0 <= self.beta2_end < 1, "a number in [0, 1), or none")
        self._want("ema", 0 <= self.ema < 1, "a number in [0, 1)")

    @property
    def adaptive(self) -> str:
        """ADA's policy, "" without ADA."""
        return ada.policy_of(self.augment, self._name)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _known(self, name: str, error: type[Exception]) -> None:
        names = [f.name for f in dataclasses.fields(self)]
        if name in names:
            return
        for place, arguments in _ELSEWHERE.items():
            if name in arguments:
                raise error(f"{self._name}: {name} is no setting, but an argument elsewhere: {place.format(name)}.")
        _checks.nearest(self._name, "setting", name, names, error)

    def _want(self, name: str, good: bool, wanted: str) -> None:
        if not good:
            raise ValueError(f"{self._name}: {name} got {getattr(self, name)!r}, wants {wanted}.")

    def torch_device(self) -> torch.device:
        """Raises: ValueError for a device that torch does not know or see."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return torch.empty(0, device=self.device).device
        except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
            raise ValueError(f"{self._name}: device got {self.device!r}, which torch refuses: {str(error).splitlines()[0]}") from None


def fits(value: object, kind: object) -> bool:
    """Whether a value is of an annotated type; a whole number is a float too, True is neither."""
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        parts = parts[:1] * len(value) if isinstance(value, tuple) and parts[-1] is ... else parts
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(fits, value, parts))
    if others := typing.get_args(kind):
        return any(fits(value, other) for other in others)
    return isinstance(value, kind)


Config = TypeVar("Config", bound=TrainConfig)


def to_dict(config: TrainConfig) -> dict:
    """Plain lists, numbers, strings and dicts."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict, kind: type[Config] = TrainConfig, where: str = "config") -> Config:
    """Raises: ValueError for a name that `kind` lacks; a missing one takes its default."""
    names = [f.name for f in dataclasses.fields(kind)]
    if not isinstance(values, dict):
        raise ValueError(f"{where}: got {type(values).__name__}, wants an object of {kind.__name__}'s fields.")
    for name in values:
        if name not in names:
            _checks.nearest(where, "field", name, names)
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where}: a field has the wrong type: {error}.") from None


def load(path: Path, kind: type[Config] = TrainConfig) -> Config:
    """Raises: ValueError for a file that is missing, is no JSON, or holds other fields."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"config: {path} cannot be read: {error}.") from None
    return from_dict(values, kind, str(path))
