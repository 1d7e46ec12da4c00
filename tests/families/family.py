"""What a row of the families' table says."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ganfast import explain
from ganfast.testing import Case

Groups = list[tuple[str, ...]]


@dataclass(frozen=True)
class Real:
    """Another size of a row's network. As `Family.real` it is the one at which people train, what a benchmark runs; `source`: who
    published it, and what is smaller here."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]
    batch: int
    source: str


@dataclass(frozen=True, eq=False)  # Case compares names: what is remembered for a row is remembered by its name
class Family(Case):
    """One network. `make` takes the global seed as it finds it; so does `inputs`, which is asked for a batch of `batch`.

    `fused`: the layers of every group, derived by hand from the rules of `accelerate`, in the order in which a forward comes to them:
    a layer that is called twice stands there twice. `half`: how people run it in bfloat16, by "cast" of the whole model or by
    "autocast". `small`: a size whose call takes under 2 ms on two CPU cores.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]
    fused: Groups
    batch: int = 3
    half: str = "cast"
    real: Real | None = None
    small: Real | None = None

    def variant(self, name: str, **changes) -> "Family":
        return replace(self, name=f"{self.name} {name}", **changes)

    def with_small(self, batch: int) -> "Family":
        """The row whose own size is its small one too, in batches of `batch`."""
        return replace(self, small=Real(self.make, self.inputs, batch, "the size that is tested"))

    def at_size(self, which: str = "real") -> "Family":
        """The row with the network and inputs of its other size, "real" or "small"."""
        size = getattr(self, which)
        return replace(self, make=size.make, inputs=size.inputs, batch=size.batch)

    def build(self, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.make()

    def example(self, seed: int = 0) -> tuple[Tensor, ...]:
        with torch.random.fork_rng():
            torch.manual_seed(1000 + seed)
            return self.inputs(self.batch)


def noise(*size: int) -> Callable[[int], tuple[Tensor, ...]]:
    """A generator's latents, or anything normal, of this size per sample."""
    return lambda batch: (torch.randn(batch, *size),)


def images(*size: int) -> Callable[[int], tuple[Tensor, ...]]:
    """Pictures or volumes in [-1, 1]; neighbouring values differ, as noise does."""
    return lambda batch: (torch.rand(batch, *size) * 2 - 1,)


def numbered(prefix: str, *groups: str) -> Groups:
    """numbered("main", "0 1 2", "3 4") -> [("main.0", "main.1", "main.2"), ("main.3", "main.4")]; "relu()" stays as it is."""
    name = lambda part: part if part.endswith("()") else f"{prefix}.{part}"
    return [tuple(name(part) for part in group.split()) for group in groups]


def aliases(model: nn.Module, groups: Groups) -> Groups:
    """The groups sorted, each module by its first name: one that is registered twice has two."""
    first: dict[nn.Module, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        first.setdefault(module, path)
    name = lambda part: part if part.endswith("()") else first[model.get_submodule(part)]
    return sorted(tuple(name(part) for part in group) for group in groups)


def groups_of(model: nn.Module) -> Groups:
    """The layers of those that an accelerated model has run."""
    return aliases(model, [group.layers for group in explain(model).groups])
