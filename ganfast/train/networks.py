"""The networks of a run by name: what each is trained with, called with, and sampled by."""

import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from ganfast import _checks
from ganfast.train import parts
from ganfast.train.phases import Phase
from ganfast.train.sampling import INHERITED

RESERVED = ("ema",)  # the generator's average is saved under it


@dataclass(frozen=True)
class Network:
    """A module of `Trainer(networks={...})`, or in place of one, with its settings.

    Arguments:
        module: called as module(latent, *condition), without a latent where the run has none or `latent` is off, without a condition where
            there is none; as a discriminator as module(samples, *condition).
        learning_rate, betas, weight_decay: of its Adam (weight_decay decoupled, as in AdamW). None: TrainConfig's.
        average: whether it has an average, which is what is sampled; None: where a phase with `average=True` updates it.
        sampled: whether samples of it are drawn in a run (grids, spread); None: where it has an average. What is called otherwise than with
            a latent and a condition, such as a decoder of codes, wants False.
        frozen: it learns nothing, and stays in eval mode: a teacher, a classifier.
        latent: off: it is called without one though the run has latents.
        condition: what it is called with, as Trainer's `condition`, which it has where this is left out; None: nothing.
        real: which part of an item its samples imitate; None: Trainer's `real`.
        output: which part of what it gives are the samples, where that is a tuple or dict; None: the first tensor.
        call: a function (module, *arguments) that is called instead of the module.
    Raises: ValueError for rates, betas and weight decays that make no sense; what the module must be, Trainer says.
    """

    module: nn.Module
    learning_rate: float | None = None
    betas: tuple[float, float] | None = None
    weight_decay: float = 0.0
    average: bool | None = None
    sampled: bool | None = None
    frozen: bool = False
    latent: bool = True
    condition: object = INHERITED
    real: parts.Key = None
    output: parts.Key = None
    call: Callable | None = None

    def __post_init__(self) -> None:
        rate, betas = self.learning_rate, self.betas
        if rate is not None and not (isinstance(rate, (int, float)) and rate > 0):
            _checks.fail("Network", f"learning_rate is {rate!r}, wants a positive number, or None")
        if betas is not None and (len(betas) != 2 or not all(0 <= b < 1 for b in betas)):
            _checks.fail("Network", f"betas is {betas!r}, wants two numbers in [0, 1), or None")
        if not (isinstance(self.weight_decay, (int, float)) and self.weight_decay >= 0):
            _checks.fail("Network", f"weight_decay is {self.weight_decay!r}, wants no negative number")
        if self.call is not None and not callable(self.call):
            _checks.fail("Network", f"call is {self.call!r}, wants a function, or None", error=TypeError)


class Networks(types.SimpleNamespace):
    """Modules by name: networks.generator, or networks["generator"]."""

    def __getitem__(self, name: str) -> nn.Module:
        return vars(self)[name]

    def __contains__(self, name: object) -> bool:
        return name in vars(self)

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self))


def named(generator: object, discriminator: object, networks: object) -> dict[str, Network]:
    """Trainer's networks with their settings: of the short case "generator" and "discriminator", which may be None.

    Raises: TypeError, ValueError for both forms at once, none, a name that is no identifier, one module under two names.
    """
    if networks is None:
        networks = {"generator": generator} | ({} if discriminator is None else {"discriminator": discriminator})
    elif generator is not None or discriminator is not None:
        _checks.fail("train", "networks was given beside generator or discriminator", "Name all of them in networks", TypeError)
    if not isinstance(networks, dict) or not networks:
        _checks.fail("train", f"networks is {networks!r}, wants torch.nn.Modules or ganfast.train.Network by name", error=TypeError)
    found, seen = {}, {}
    for name, given in networks.items():
        if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
            _checks.fail("train", f"networks has the name {name!r}, wants an identifier other than {', '.join(RESERVED)}")
        network = given if isinstance(given, Network) else Network(given)
        module = network.module
        if not isinstance(module, nn.Module):
            got = f"the class {module.__name__}" if isinstance(module, type) else f"a {type(module).__name__}"
            _checks.fail("train", f"{name} is {got}, wants a torch.nn.Module", "Make an instance of it", TypeError)
        if id(module) in seen:
            _checks.fail("train", f"networks holds one module as {seen[id(module)]!r} and as {name!r}", "Phases may update it by one name")
        found[name], seen[id(module)] = network, name
    return found


def averaged(networks: dict[str, Network], phases: Sequence[Phase]) -> list[str]:
    """Names of the networks that have an average. Raises: ValueError for one that wants an average which no phase moves."""
    moved = {name for phase in phases if phase.average for name in phase.networks}
    for name, network in networks.items():
        if network.average and name not in moved:
            _checks.fail("train", f"the network {name!r} has average=True, and no phase moves it", "Phase(..., average=True) does")
    return [name for name, network in networks.items() if name in moved and network.average is not False]


def sampled(networks: dict[str, Network], phases: Sequence[Phase]) -> list[str]:
    """Names of the networks that are sampled in a run, "generator" first: those with an average, or where there is none the generator."""
    usual = averaged(networks, phases) or [name for name in networks if name == "generator"]
    found = [name for name, network in networks.items() if (name in usual if network.sampled is None else network.sampled)]
    return sorted(found, key=lambda name: name != "generator")
