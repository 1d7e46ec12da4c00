"""Samples of a generator: latents by a seed, conditions by name, number or vector."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _forward_unimplemented

from ganfast import _checks
from ganfast.train.randomness import mixed, own_randomness

Conditioner = Callable[[Tensor], Tensor]  # the data's second item -> what the networks are given


@dataclass
class Sampler:
    """A generator ready to sample. `conditioner` None: it is unconditional. `seconds`: some of the data's second items, which serve in turn
    where none are asked for and there are no classes."""

    generator: nn.Module
    latent_shape: tuple[int, ...]
    name: str  # what it is, for the text fields of pictures
    step: int = 0
    classes: list[str] = field(default_factory=list)
    conditioner: Conditioner | None = None
    seconds: Callable[[], Tensor] | None = None
    chunk: int = 256  # samples in one forward, which bounds its memory

    def sample(self, n: int, condition: object = None, seed: int = 0) -> Tensor:
        """[n, ...] float32 on the generator's device, images in [-1, 1]; the same for the same n, condition and seed.

        condition: a class by name or number; a list of n of these; labels [n] int64; vectors [n, D] as the networks take them. None: the
            classes in turn, or the data's own conditions.
        Raises: ValueError for an n below 1, a condition that the generator cannot have, or as many as are not n.
        """
        return self.generate(self.latents(n, seed), condition, seed)

    def latents(self, n: int, seed: int = 0) -> Tensor:
        """[n, *latent_shape] on the CPU: the same on every device."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"sample: n got {n!r}, wants a whole number of at least 1.")
        return torch.randn(n, *self.latent_shape, generator=torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def generate(self, latents: Tensor, condition: object = None, seed: int = 0) -> Tensor:
        """Samples of these latents [n, *latent_shape]. The generator runs in eval mode and gets its own mode back; what it draws itself
        follows from the seed, and torch's, numpy's and Python's generators are afterwards as they were."""
        n, device = len(latents), next(self.generator.parameters()).device
        tensors = latents.to(device), *self._conditions(n, condition, device)
        with in_eval_mode(self.generator), own_randomness(mixed(seed, "sample"), device):
            return torch.cat([self.generator(*(t[i : i + self.chunk] for t in tensors)).float() for i in range(0, n, self.chunk)])

    def _conditions(self, n: int, condition: object, device: torch.device) -> tuple[Tensor, ...]:
        if self.conditioner is None:
            if condition is not None:
                _checks.fail("sample", f"condition got {condition!r}, wants none", "The generator is unconditional")
            return ()
        if isinstance(condition, Tensor) and condition.is_floating_point():
            return (self._all(n, condition.to(device)),)
        return (self.conditioner(self._all(n, self._second(n, condition).to(device))),)

    def _second(self, n: int, condition: object) -> Tensor:
        """The data's second items (labels, vectors, ...) that `condition` asks for."""
        if condition is None:
            if self.classes:
                return torch.arange(n) % len(self.classes)
            if self.seconds is None:
                _checks.fail("sample", f"condition is None, wants {n} of what the generator was trained with")
            found = self.seconds()
            return found[torch.arange(n, device=found.device) % len(found)]
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
    if condition is True:
        return lambda second: second
    if isinstance(condition, Tensor):
        if condition.dim() < 2:
            raise ValueError(f"train: condition got a tensor of shape {list(condition.shape)}, wants [classes, D], a row for each label.")
        table = condition.to(device)
        return lambda labels: table[labels]
    if callable(condition):
        return condition
    kinds = "None, True, a table [classes, D] or a function of the data's second item"
    raise ValueError(f"train: condition got {type(condition).__name__}, wants {kinds}.")


def can_sample(generator: nn.Module) -> bool:
    """False for a container of several networks, which an objective of the user's own calls one by one."""
    return getattr(type(generator), "forward", None) is not _forward_unimplemented


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
