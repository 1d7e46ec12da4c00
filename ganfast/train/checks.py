"""Checks of the networks, phases, data and settings before training starts, so that a mistake is an error in words at once."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn, Protocol

import torch
from torch import Tensor, nn

from ganfast import _checks
from ganfast._tell import tell
from ganfast.step.errors import CaptureError
from ganfast.train import parts as parts_of
from ganfast.train import trees
from ganfast.train.config import TrainConfig
from ganfast.train.data.batches import Source
from ganfast.train.distributed.world import World
from ganfast.train.networks import Network, Networks
from ganfast.train.objectives.terms import KNOWN, Adversarial, Terms, adversaries, refuse_sigmoid
from ganfast.train.phases import EVERY, Call, Phase
from ganfast.train.reconstruction.perceptual import call_of
from ganfast.train.sampling import Conditioner, as_arguments


class Later(Protocol):
    """An objective whose discriminator begins at a later step."""

    generator: str
    discriminator: str
    start: int

    def rehearse(self, discriminator: nn.Module, real: Tensor, given: tuple) -> None: ...


class Checked(Protocol):
    """What these checks use of a Trainer."""

    config: TrainConfig
    source: Source
    world: World
    classes: list[str]
    latent_shape: tuple[int, ...] | None
    condition: object
    conditioner: Conditioner | None
    settings: dict[str, Network]
    networks: Networks
    calls: dict[str, Call]
    autoencoders: Sequence[Later]
    steps: int

    def reals(self, n: int, network: str | None = None) -> Tensor: ...


def networks(given: dict[str, Network], usual: bool) -> None:
    """usual: the objective is ganfast's, not one of the user's own."""
    for name, network in given.items():
        module = network.module
        if not network.frozen and not any(p.requires_grad for p in module.parameters()):
            held = any(True for _ in module.parameters())
            cause = "Its parameters have requires_grad=False; Network(..., frozen=True) says that this is meant" if held else ""
            _checks.fail("train", f"the {name} has no parameter that learns", cause)
        dtypes = {p.dtype for p in module.parameters() if p.is_floating_point()}
        if dtypes and torch.float32 not in dtypes:
            kinds = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            cause = "Data and latents are float32" + ("" if torch.float64 in dtypes else "; see TrainConfig.precision")
            _checks.fail("train", f"the {name}'s weights are {kinds}, wants float32: {name}.float()", cause)
    last = given["discriminator"].module if "discriminator" in given else None
    while isinstance(last, nn.Sequential) and len(last):  # of another network its first logits tell
        last = last[-1]
    if usual and isinstance(last, nn.Sigmoid):
        refuse_sigmoid()


def phases(given: Sequence[Phase], networks: dict[str, Network], config: TrainConfig, usual: bool, short: bool) -> None:
    """short: the networks were given as generator and discriminator, one of which may not learn."""
    if not given or not all(isinstance(phase, Phase) for phase in given):
        _checks.fail("train", f"phases is {given!r}, wants some of ganfast.train.Phase", error=TypeError)
    names = [phase.name for phase in given]
    if len(set(names)) < len(names):
        _checks.fail("train", f"phases are called {', '.join(names)}", "Give each a name of its own")
    for phase in given:
        for name in phase.networks:
            if name not in networks:
                _checks.nearest("train", f"a network of phase {phase.name!r}", name, networks)
            if networks[name].frozen:
                _checks.fail("train", f"phase {phase.name!r} updates {name!r}, which is frozen")
        _shares(phase, networks)
        if usual:
            _terms(phase, networks, config)
    updated = {name for phase in given for name in phase.networks}
    idle = [name for name, network in networks.items() if name not in updated and not network.frozen]
    if idle and not short:
        _checks.fail("train", f"no phase updates the network {idle[0]!r}", "Network(..., frozen=True) says that this is meant")
    terms = adversaries(tuple(given))
    _unused(given, config, terms.values(), usual)
    for called, term in terms.items():
        for name in (term.generator, term.discriminator):
            if name not in networks:
                _checks.nearest("train", "a network of an adversarial term", name, networks)
        for name, every in ((name, getattr(config, every)) for name, every in EVERY.items()):
            if getattr(term.config, name) != getattr(config, name):
                _checks.fail("train", f"the term {called} was made for {name}={getattr(term.config, name)}, the run has another")
            if name in term.terms and not getattr(config, name):
                _checks.fail("train", f"the term {called} has {name}, whose weight in the config is 0", f"Set {name}")
            if name in term.terms and every > 1 and "adversarial" in term.terms:
                cause = f"Here terms=('adversarial',); a phase with interval={every} gets adversarial(config, ..., terms=({name!r},))"
                _checks.fail("train", f"the term {called} has {name}, which is due every {every} steps", cause)
    pools = [id(term.pool) for term in terms.values() if term.pool is not None]
    if len(set(pools)) < len(pools):
        _checks.fail("train", "two adversarial terms have one ImagePool", "Give each its own")
    frozen = {p: name for name, network in networks.items() if network.frozen for p in network.module.parameters()}
    for name, network in networks.items():
        for key, p in network.module.named_parameters() if not network.frozen else ():
            if p in frozen:
                _checks.fail("train", f"{frozen[p]!r} is frozen, and {name!r} holds its parameter {key!r}", "Freeze a copy of it")


def one_config(term: Adversarial, config: TrainConfig) -> None:
    """The settings of a run's one adversary, an autoencoder's, as its term took them, are the run's, by which the alarms go."""
    taken = {"loss": term.kind, "smoothing": term.smoothing, "fused": term.backend is None}
    taken |= {name: getattr(term.config, name) for name in EVERY}
    for name, value in taken.items():
        if value != getattr(config, name):
            got = f"autoencoding was made with {name}={value!r}, the run has {getattr(config, name)!r}"
            _checks.fail("train", got, "Give both one TrainConfig, and change it before")


def _unused(given: Sequence[Phase], config: TrainConfig, terms: Iterable[Adversarial], usual: bool) -> None:
    """Says which of the config's settings nothing of these phases uses."""
    named = {name for phase in given for name in phase.weighted} | {name for term in terms for name in term.terms}
    unused = [name for name in EVERY if usual and getattr(config, name) and name not in named]
    unused += ["n_critic"] if config.n_critic > 1 and not any(phase.repeats > 1 for phase in given) else []
    if unused:
        remedy = "a penalty is a term, {'adversarial': 1, 'r1': 1}, n_critic a phase's repeats"
        tell(f"{', '.join(unused)} of the config change nothing: no phase has them ({remedy})")


def _shares(phase: Phase, networks: dict[str, Network]) -> None:
    """Two optimizers would each take a step on a parameter that two networks of a phase hold."""
    owner = {}
    for name in phase.networks:
        for key, p in networks[name].module.named_parameters():
            if p.requires_grad and owner.setdefault(p, name) != name:
                both = f"{owner[p]!r} and {name!r}"
                cause = "Make the shared part a network of its own, which the phase updates with them"
                _checks.fail("train", f"phase {phase.name!r} updates {both}, which both hold the parameter {key!r}", cause)


def _terms(phase: Phase, networks: dict[str, Network], config: TrainConfig) -> None:
    sides = [side for side in KNOWN if side in phase.networks]
    known = tuple(term for side in sides for term in KNOWN[side])
    for term, (function, _) in (phase.weighted or {"": (None, 1)}).items():
        if function is not None:
            continue
        if term not in known:
            _checks.nearest("train", f"a term of phase {phase.name!r}", term, known)
        if lacking := [side for side in KNOWN if side not in networks]:
            _checks.fail("train", f"phase {phase.name!r} has the term {term}, and there is no network {lacking[0]!r}", "Give phases=...")
        if term != "adversarial" and not getattr(config, term):
            _checks.fail("train", f"phase {phase.name!r} has the term {term}, whose weight in the config is 0", f"Set {term}")


def adaptive(objective: object, phases: Sequence[Phase], networks: Iterable[str]) -> None:
    """ADA's probability follows from the logits of one discriminator, which ganfast's own losses tell it."""
    if "ada" in networks:
        _checks.fail("train", "a network is called 'ada', as ADA's own part of a checkpoint is", "Give it another name")
    terms = [term for term in adversaries(tuple(phases)).values() if "adversarial" in term.terms]
    if isinstance(objective, Terms) and any(phase.weighted.get("adversarial", (True,))[0] is None for phase in phases):
        terms.append(objective.usual)
    judges = sorted({term.discriminator for term in terms})
    if len(judges) != 1:
        got = f"and the run has {len(judges)}: {', '.join(judges)}" if judges else "and no phase has an adversarial term of ganfast's"
        cause = 'DiffAugment needs none: augment="color,translation,cutout"'
        _checks.fail("train", f"ADA's probability follows from the logits of one discriminator, {got}", cause)


def parts(trainer: Checked) -> None:
    """Whether data, condition and settings fit together."""
    c, (real, told) = trainer.config, trainer.source.reals(1)
    pair = told is not None and not any(leaf is real for leaf in trees.leaves(told))
    for name, network in trainer.settings.items():
        if network.real is not None and not callable(network.real):
            parts_of.part(parts_of.whole(real, told), network.real, f"real of the network {name!r}")
        if isinstance(network.condition, str) and pair and isinstance(told, Tensor):
            _pair(network.condition, f"condition of the network {name!r}")
        elif isinstance(network.condition, str):
            parts_of.part(real if told is None else told, network.condition, f"condition of the network {name!r}")
    if c.augment and real.dim() != 4:
        _checks.fail("train", f"augment is {c.augment!r}, and the data are no images: {list(real.shape[1:])} each")
    if "color" in c.adaptive and real.shape[1] not in (1, 3):
        got = f"augment is {c.augment!r}, whose colours want 1 channel or 3, and the data have {real.shape[1]}"
        _checks.fail("train", got, 'augment="ada:blit,geom" takes any number')
    for name in ("metrics_every", "tensorboard") if c.run_dir is None else ():
        if getattr(c, name):
            tell(f"{name} changes nothing without run_dir, the folder for what it writes")
    if trainer.conditioner is None:
        return
    given = trainer.condition
    if given is True and told is not None and not pair:
        cause = "A part's name, or a function of the item, says which: condition='mask'"
        _checks.fail("train", f"condition is True, and an item has {', '.join(trees.names(trees.structure(told)))}", cause)
    if isinstance(given, str) and pair:
        _pair(given, "condition")
    if told is None and (isinstance(given, Tensor) or given is True):
        _checks.fail("train", "condition was given, and the data have no second item", "Pass (images, labels), or a Dataset of such pairs")
    table = trainer.condition
    if isinstance(table, Tensor) and len(trainer.classes) > len(table):
        _checks.fail("train", f"condition has {len(table)} rows, and the data {len(trainer.classes)} classes")


def _pair(given: str, what: str) -> NoReturn:
    _checks.fail("train", f"{what} got {given!r}, and an item is a pair without names", "condition=True hands on its second")


@contextlib.contextmanager
def first_step(trainer: Checked) -> Iterator[None]:
    """Around the first step: adds the shapes that the networks, or the perceptual one, were called with to torch's own error. A
    discriminator that begins later is tried now."""
    try:
        for term in trainer.autoencoders:
            if trainer.steps + 1 < term.start:
                real, told = trainer.source.reals(trainer.source.rows)
                made = trainer.calls[term.discriminator].conditioner
                given = as_arguments(made and made(real if told is None else told))
                term.rehearse(trainer.networks[term.discriminator], trainer.reals(len(real), term.generator), given)
        yield
    except (RuntimeError, TypeError, IndexError, ValueError, AttributeError, KeyError) as error:
        known = isinstance(error, (CaptureError, torch.OutOfMemoryError)) or str(error).startswith(("train:", "data:"))
        call = call_of(error)
        known |= not call and isinstance(error, AttributeError | KeyError)
        known |= not call and isinstance(error, ValueError) and not str(error).startswith("Expected more than 1 ")  # of torch's norms
        if known or trainer.world.size > 1:
            raise
        words = " ".join(str(error).split())[:500]
        if call:
            raise RuntimeError(f"train: the first update failed in perceptual: {words} ({call}).") from error
        real, told = trainer.source.reals(1)
        rows = trainer.source.rows
        labels = "" if told is None else "; the data's second item is not used, condition=True would pass it on"
        latent = "no latents" if trainer.latent_shape is None else f"latents {[rows, *trainer.latent_shape]}"
        reals, given = [rows, *real.shape[1:]], ""
        if trainer.conditioner is not None:
            made = trees.leaves(trainer.conditioner(real if told is None else told))
            shapes = ", ".join(str(list(leaf.shape[1:])) for leaf in made if isinstance(leaf, Tensor))
            given, labels = f" with a condition {shapes} each", ""
        if trainer.settings.keys() == {"generator", "discriminator"}:
            latents, both = f"{latent}, see latent_dim and latent_shape", "both" if given else ""
            if trainer.autoencoders:
                latents, labels, both = "the images", "", "the latter" if given else ""
            calls = f"the generator is called with {latents}, the discriminator with {reals}"
            calls += f", {both}{given}" if both else ""
        else:  # the user's own terms call them
            calls = f"the run has {latent}, see latent_dim and latent_shape, and reals {reals}{given}"
        raise RuntimeError(f"train: the first update failed: {words} ({calls}{labels}).") from error
