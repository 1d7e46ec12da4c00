"""The options of pytorch-CycleGAN-and-pix2pix that two systems share: a training's length in epochs, the discriminators' layers."""

import math
from dataclasses import dataclass

from ganfast.systems import form


@dataclass(frozen=True)
class Options(form.Options):
    """A system adds batch_size, netD and n_layers_D, and whole(): these options with a value for what was not given."""

    n_epochs: int | None = None
    """epochs at constant rates, an epoch being all pictures of the larger set once; in place of steps"""
    n_epochs_decay: int | None = None
    """epochs after those of n_epochs, with rates that fall to 0"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_epochs", "n_epochs_decay"):
            self.want(name, getattr(self, name) is None or getattr(self, name) >= 0, "at least 0")
        if self.epochs:
            how = "none with n_epochs or n_epochs_decay; more epochs train longer, and where both are 0 steps count"
            self.want("steps", self.steps is None, how)

    @property
    def epochs(self) -> int:
        return (self.n_epochs or 0) + (self.n_epochs_decay or 0)

    def at_least(self, **least: float) -> None:
        """Raises: ValueError for an option that is smaller; one that is not given is not."""
        for name, bound in least.items():
            self.want(name, getattr(self, name) is None or getattr(self, name) >= bound, f"at least {bound}")

    def layers(self, usual: int) -> int:
        """Of the discriminators. Raises: ValueError where netD and n_layers_D say different numbers."""
        if self.netD == "basic":
            self.want("n_layers_D", self.n_layers_D in (None, 3), "none with netD basic, which has 3 layers")
            return 3
        return usual if self.n_layers_D is None else self.n_layers_D

    def length(self, items: int, usual: int) -> dict[str, object]:
        """Settings of TrainConfig. items: of the larger set. usual: steps, where neither these nor epochs are given."""
        if not self.epochs:
            return {"steps": self.steps or usual}
        return {"steps": max(1, self.epochs * items // self.batch_size), "decay_from": (self.n_epochs or 0) / self.epochs}

    def flag(self, name: str, value: object, steps: int) -> str:
        whole = self.whole()
        if name != "steps" or not whole.epochs:
            return super().flag(name, value, steps)
        return f"--n_epochs {math.ceil(whole.epochs * value / steps) - (whole.n_epochs_decay or 0)}"
