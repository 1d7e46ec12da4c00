"""Samples of a generator: latents by a seed, conditions by name, number or vector."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _forward_unimplemented

from ganfast import _checks
from ganfast.train import parts, trees
from ganfast.train.randomness import mixed, own_randomness

Conditioner = Callable[[object], object]  # what the data tell of the samples -> what the networks are given


class _Inherited:
    """A network's condition where none of its own is given: the Trainer's."""

    def __repr__(self) -> str:
        return "the Trainer's"


class _Imitated:
    """The condition of a network that is called with the samples it imitates: an autoencoder."""

    def __repr__(self) -> str:
        return "what it imitates"


INHERITED, IMITATED = _Inherited(), _Imitated()


def as_arguments(condition: object) -> tuple:
    """A condition as a network's further arguments: none for None, several for a tuple."""
    return () if condition is None else condition if isinstance(condition, tuple) else (condition,)


@dataclass
class Sampler:
    """A generator ready to sample. latent_shape None: it takes no latent. `conditioner` None: it is unconditional. `seconds`: some of what
    the data tell of samples, which serves in turn where nothing is asked for and there are no classes. output: which part of what it
    gives are the samples, where that is a tuple or dict. by: a function (generator, *arguments) that is called instead of it. truncation:
    how far styles go from their mean, for a generator that has them: parts `mapping` and `synthesis`, as StyleGAN2's."""

    generator: nn.Module
    latent_shape: tuple[int, ...] | None
    name: str  # what it is, for the text fields of pictures
    step: int = 0
    classes: list[str] = field(default_factory=list)
    conditioner: Conditioner | None = None
    seconds: Callable[[], object] | None = None
    output: parts.Key = None
    by: Callable | None = None
    chunk: int = 256  # samples in one forward, which bounds its memory
    truncation: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.truncation <= 1:
            cause = "1 leaves styles as they are, 0 is their mean"
            _checks.fail("sample", f"truncation got {self.truncation!r}, wants a number in [0, 1]", cause)
        if self.truncation != 1:
            self.want_styles("truncation")

    @property
    def styled(self) -> bool:
        """Whether the generator makes styles of latents, and images of styles."""
        return self.by is None and all(hasattr(self.generator, name) for name in ("mapping", "synthesis", "styles"))

    def want_styles(self, what: str) -> None:
        if not self.styled:
            _checks.fail("sample", f"{what} wants a generator with styles, got {type(self.generator).__name__}", "model=stylegan2 has")

    def sample(self, n: int, condition: object = None, seed: int = 0, latents: Tensor | None = None) -> Tensor:
        """[n, ...] float32 on the generator's device, images in [-1, 1]; the same for the same n, condition, seed and latents.

        condition: a class by name or number; a list of n of these; labels [n] int64; vectors [n, D] as the networks take them, where the
            data have labels; else what the data tell of n samples (images, a dict of tensors), which goes through Trainer's `condition` as
            in training, bytes as [-1, 1]. None: the classes in turn, or the data's own.
        latents: [n, *latent_shape]; None: drawn from the seed.
        Raises: ValueError for an n below 1, a condition or latents that the generator cannot have, or as many as are not n.
        """
        drawn = self.latents(n, seed)
        if latents is None:
            return self.generate(drawn, condition, seed)
        if self.latent_shape is None or not isinstance(latents, Tensor) or latents.shape != drawn.shape:
            got = list(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
            wants = "none: the generator takes no latent" if self.latent_shape is None else f"a tensor {list(drawn.shape)}"
            raise ValueError(f"sample: latents got {got}, wants {wants}.")
        return self.generate(latents, condition, seed)

    def latents(self, n: int, seed: int = 0) -> Tensor:
        """[n, *latent_shape] on the CPU: the same on every device; [n, 0] for a generator without a latent."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"sample: n got {n!r}, wants a whole number of at least 1.")
        shape = (0,) if self.latent_shape is None else self.latent_shape
        return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def generate(self, latents: Tensor, condition: object = None, seed: int = 0) -> Tensor:
        """Samples of these latents [n, *latent_shape]. The generator runs in eval mode and gets its own mode back; what it draws itself
        follows from the seed, and torch's, numpy's and Python's generators are afterwards as they were."""
        call = self.by or (lambda generator, *given: generator(*given))
        if self.truncation != 1:
            call = lambda generator, *given: generator(*given, truncation=self.truncation)
        made = lambda *given: parts.samples(call(self.generator, *given), self.output, "the generator").float()
        return self._in_chunks(made, self._arguments(latents, condition), seed)

    @torch.no_grad()
    def styles(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        """[n, layers, D] of latents [n, *latent_shape], truncated. Raises: ValueError for a generator without styles."""
        self.want_styles("styles")
        made = lambda *given: self.generator.styles(*given, truncation=self.truncation).float()
        return self._in_chunks(made, self._arguments(latents, condition))

    @torch.no_grad()
    def synthesised(self, styles: Tensor) -> Tensor:
        """Samples of styles [n, layers, D], also of such as no latent has: mixed ones, ones between two. The noise is always the same."""
        self.want_styles("styles")
        return self._in_chunks(lambda some: self.generator.synthesis(some).float(), (styles.to(self._device()),))

    def _device(self) -> torch.device:
        return next(self.generator.parameters(), torch.empty(0)).device

    def _arguments(self, latents: Tensor, condition: object) -> tuple:
        latent = () if self.latent_shape is None else (latents.to(self._device()),)
        return (*latent, *self._conditions(len(latents), condition, self._device()))

    def _in_chunks(self, function: Callable[..., Tensor], given: tuple, seed: int = 0) -> Tensor:
        found, n = [], len(next(leaf for leaf in trees.leaves(given) if isinstance(leaf, Tensor)))
        with in_eval_mode(self.generator), own_randomness(mixed(seed, "sample"), self._device()):
            for i in range(0, n, self.chunk):
                some = trees.mapped(lambda leaf: leaf[i : i + self.chunk] if isinstance(leaf, Tensor) else leaf, given)  # noqa: B023
                found.append(function(*some))
        return torch.cat(found)

    def _conditions(self, n: int, condition: object, device: torch.device) -> tuple:
        if self.conditioner is None:
            if condition is not None:
                _checks.fail("sample", f"condition got {condition!r}, wants none", "The generator is unconditional")
            return ()
        if self.classes and isinstance(condition, Tensor) and condition.is_floating_point():
            return (self._all(n, condition.to(device)),)
        there = lambda leaf: self._all(n, leaf).to(device) if isinstance(leaf, Tensor) else leaf
        return as_arguments(self.conditioner(parts.as_networks_see(trees.mapped(there, self._second(n, condition)))))

    def _second(self, n: int, condition: object) -> object:
        """What the data would tell of the samples (labels, vectors, ...) that `condition` asks for."""
        if isinstance(condition, dict) or (isinstance(condition, tuple) and condition and isinstance(condition[0], Tensor)):
            return condition
        if condition is None:
            if self.classes:
                return torch.arange(n) % len(self.classes)
            if self.seconds is None:
                _checks.fail("sample", f"condition is None, wants {n} of what the generator was trained with")
            return trees.mapped(lambda leaf: leaf[torch.arange(n, device=leaf.device) % len(leaf)], self.seconds())
        if isinstance(condition, Tensor):
            labels = condition
        elif isinstance(condition, str) or not isinstance(condition, Sequence):
            labels = torch.tensor([self._label(condition)] * n)
        else:
            labels = torch.tensor([self._label(c) for c in condition])
        if self.classes and labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            got = f"condition holds the labels {int(labels.min())} to {int(labels.max())}"
            _checks.fail("sample", f"{got}, wants 0 to {len(self.classes) - 1}")
        return labels

    def _label(self, asked: object) -> int:
        if isinstance(asked, str):
            if not self.classes:
                _checks.fail("sample", f"label got {asked!r}, wants none", "The run has no classes")
            if asked not in self.classes:
                _checks.nearest("sample", "label", asked, self.classes)
            return self.classes.index(asked)
        if isinstance(asked, bool) or not isinstance(asked, int):
            raise ValueError(f"sample: condition got {asked!r}, wants a class by name or number, labels or vectors.")
        return asked

    @staticmethod
    def _all(n: int, rows: Tensor) -> Tensor:
        if rows.dim() < 1 or len(rows) != n:
            raise ValueError(f"sample: condition got shape {list(rows.shape)}, wants {n} rows, one for each sample.")
        return rows


def conditioner(condition: object, device: torch.device) -> Conditioner | None:
    """Trainer's `condition` as a function on the device. Raises: ValueError for what is none of its kinds."""
    if condition is None or condition is False:
        return None
    if condition is True or condition is IMITATED:
        return lambda given: given
    if isinstance(condition, Tensor):
        if condition.dim() < 2:
            raise ValueError(f"train: condition got a tensor of shape {list(condition.shape)}, wants [classes, D], a row for each label.")
        table = condition.to(device)
        return lambda labels: table[labels]
    if isinstance(condition, str):
        return lambda told: told if isinstance(told, Tensor) else parts.part(told, condition, "condition")
    if callable(condition):
        return condition
    kinds = "None, True, a part's name, a table [classes, D] or a function of what the data tell of the samples"
    raise ValueError(f"train: condition got {type(condition).__name__}, wants {kinds}.")


def can_sample(sampler: Sampler) -> bool:
    """False for a container of several networks, which an objective of the user's own calls one by one."""
    return sampler.by is not None or getattr(type(sampler.generator), "forward", None) is not _forward_unimplemented


@contextlib.contextmanager
def in_eval_mode(function: object) -> Iterator[torch.device | None]:
    """A module and its parts in eval mode, each with its own mode back afterwards. Gives the device of its parameters, None for what has
    none."""
    modes = {m: m.training for m in function.modules()} if isinstance(function, nn.Module) else {}
    parameter = next(function.parameters(), None) if modes else None
    for module in modes:
        module.training = False
    try:
        yield None if parameter is None else parameter.device
    finally:
        for module, mode in modes.items():
            module.training = mode
