"""Checks of the networks, phases, data and settings before training starts, so that a mistake is an error in words at once."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ganfast import _checks
from ganfast._tell import tell
from ganfast.step.errors import CaptureError
from ganfast.train.config import TrainConfig
from ganfast.train.data.batches import Source
from ganfast.train.distributed.world import World
from ganfast.train.phases import PENALTIES, Phase, refuse_sigmoid
from ganfast.train.sampling import Conditioner

TERMS = {"discriminator": ("adversarial", *PENALTIES), "generator": ("adversarial", "mode_seeking")}


class Checked(Protocol):
    """What these checks use of a Trainer."""

    config: TrainConfig
    source: Source
    world: World
    classes: list[str]
    latent_shape: tuple[int, ...]
    condition: object
    conditioner: Conditioner | None


def networks(generator: object, discriminator: object, usual: bool) -> None:
    """usual: the objective is ganfast's, not one of the user's own."""
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        if not isinstance(network, nn.Module):
            got = f"the class {network.__name__}" if isinstance(network, type) else f"a {type(network).__name__}"
            _checks.fail("train", f"{name} is {got}, wants a torch.nn.Module", "Make an instance of it", TypeError)
        if not any(p.requires_grad for p in network.parameters()):
            cause = "Its parameters have requires_grad=False" if any(True for _ in network.parameters()) else ""
            _checks.fail("train", f"the {name} has no parameter that learns", cause)
        dtypes = {p.dtype for p in network.parameters() if p.is_floating_point()}
        if dtypes and torch.float32 not in dtypes:
            kinds = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            cause = "Data and latents are float32" + ("" if torch.float64 in dtypes else "; see TrainConfig.precision")
            _checks.fail("train", f"the {name}'s weights are {kinds}, wants float32: {name}.float()", cause)
    last = discriminator
    while isinstance(last, nn.Sequential) and len(last):  # of another network its first logits tell
        last = last[-1]
    if usual and isinstance(last, nn.Sigmoid):
        refuse_sigmoid()


def phases(given: Sequence[Phase], config, usual: bool) -> None:
    if not given or not all(isinstance(phase, Phase) for phase in given):
        _checks.fail("train", f"phases is {given!r}, wants some of ganfast.train.Phase", error=TypeError)
    names = [phase.name for phase in given]
    if len(set(names)) < len(names):
        _checks.fail("train", f"phases are called {', '.join(names)}", "Give each a name of its own")
    for phase in given if usual else ():
        for term in phase.terms or ("",):
            if term not in TERMS[phase.network]:
                _checks.nearest("train", f"a term of phase {phase.name!r}", term, TERMS[phase.network])
            if term != "adversarial" and not getattr(config, term):
                _checks.fail("train", f"phase {phase.name!r} has the term {term}, whose weight in the config is 0", f"Set {term}")


def parts(trainer: Checked) -> None:
    """Whether data, condition and settings fit together."""
    c, (real, second) = trainer.config, trainer.source.reals(1)
    if c.augment and real.dim() != 4:
        _checks.fail("train", f"augment is {c.augment!r}, and the data are no images: {list(real.shape[1:])} each")
    for name in ("metrics_every", "tensorboard") if c.run_dir is None else ():
        if getattr(c, name):
            tell(f"{name} changes nothing without run_dir, the folder for what it writes")
    if trainer.conditioner is None:
        return
    if second is None:
        _checks.fail("train", "condition was given, and the data have no second item", "Pass (images, labels), or a Dataset of such pairs")
    table = trainer.condition
    if isinstance(table, Tensor) and len(trainer.classes) > len(table):
        _checks.fail("train", f"condition has {len(table)} rows, and the data {len(trainer.classes)} classes")


@contextlib.contextmanager
def first_step(trainer: Checked) -> Iterator[None]:
    """Around the first step: adds the shapes that the networks were called with to torch's own error."""
    try:
        yield
    except (RuntimeError, TypeError, IndexError) as error:
        known = isinstance(error, (CaptureError, torch.OutOfMemoryError)) or str(error).startswith(("train:", "data:"))
        if known or trainer.world.size > 1:
            raise
        real, second = trainer.source.reals(1)
        rows = trainer.source.rows
        given = "" if trainer.conditioner is None else f", both with a condition {list(trainer.conditioner(second).shape[1:])} each"
        latent, image = [rows, *trainer.latent_shape], [rows, *real.shape[1:]]
        labels = "" if second is None or trainer.conditioner else "; the data's second item is not used, condition=True would pass it on"
        raise RuntimeError(
            f"train: the first update failed: {' '.join(str(error).split())[:500]} (the generator is called with latents {latent}, see "
            f"latent_dim and latent_shape, the discriminator with {image}{given}{labels})."
        ) from error
