"""Recipes, which `ganfast train` trains: data by name, and networks that fit the data."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

import ganfast
from ganfast import models
from ganfast.train import config as configs
from ganfast.train.config import TrainConfig
from ganfast.train.data import folders
from ganfast.train.distributed.world import World
from ganfast.train.known_answers import mixtures
from ganfast.train.loop import Trainer
from ganfast.train.randomness import mixed
from ganfast.train.sampling import Sampler, conditioner
from ganfast.train.saving import checkpoint
from ganfast.train.saving.resume import whole

NETWORK = (
    "model", "condition", "image_size", "channels", "latent_dim", "condition_dim", "width", "widest", "mapping_layers", "blocks",
    "spectral_norm",
)  # fmt: skip
NAMED = ("digits", *mixtures.MIXTURES)  # data that are no folder


@dataclass
class Subject:
    """The settings that choose data and networks."""

    data: str = "digits"
    """"digits", "ring8" or "grid25" (mixtures of Gaussians in the plane), or a folder of images (sub-folders are classes)"""
    model: Literal["auto", "dcgan", "stylegan2", "r3gan", "mlp"] = "auto"
    """auto: dcgan for images, mlp for points; each brings its own defaults of other settings"""
    condition: Literal["none", "label", "vector"] = "vector"
    """on the classes, if the data has some: by label (a learned vector each; in dcgan conditional batch norm), or by a fixed vector each,
    as a text encoder would give"""
    image_size: int = 32
    """a power of two, at least 16"""
    channels: int | None = None
    """1 grey, 3 RGB; none: 1 for the digits, 3 for a folder"""
    condition_dim: int = 16
    """length of a class's vector"""
    width: int = 32
    """channels of the layer next to the image, of mlp's every layer"""
    widest: int = 512
    """channels of a layer of stylegan2 and r3gan, at most"""
    mapping_layers: int = 2
    """stylegan2's layers from latents to styles"""
    style_mixing: float = 0.9
    """share of images to which two styles contribute, in stylegan2's training"""
    blocks: int = 1
    """r3gan's residual blocks at each resolution"""


@configs.names_checked
@dataclass
class Recipe(TrainConfig, Subject):
    """All settings of `ganfast train`: the data and networks, and TrainConfig."""

    def __post_init__(self) -> None:
        super().__post_init__()
        points = self.data in mixtures.MIXTURES
        if self.channels is None:
            self.channels = 1 if self.data == "digits" else 3
        if self.model == "auto":
            self.model = "mlp" if points else "dcgan"
        if points:
            self.condition = "none"
        wants = "mlp" if points else "dcgan, stylegan2 or r3gan"
        self._want("model", (self.model == "mlp") == points, f"{wants} for {self.data}")
        for name in ("condition_dim", "width", "widest", "mapping_layers", "blocks"):
            self._want(name, getattr(self, name) >= 1, "at least 1")
        self._want("batch_size", self.model != "dcgan" or self.batch_size >= 2, "at least 2; batch norm needs more than one image")
        styled = self.model in ("stylegan2", "r3gan")
        self._want("latent_dim", not styled or self.latent_dim >= 1, f"at least 1 for {self.model}")
        self._want("image_size", self.image_size >= 16 and self.image_size.bit_count() == 1, "a power of two, at least 16")
        self._want("channels", self.channels in (1, 3), "1 (grey) or 3 (RGB)")
        self._want("style_mixing", 0 <= self.style_mixing <= 1, "a share in [0, 1]")
        self._want("path_length", not self.path_length or self.model == "stylegan2", f"0 for {self.model}, which has no styles")

    @property
    def measure(self) -> Callable[[Tensor], dict[str, float]] | None:
        return mixtures.MIXTURES[self.data].measure if self.data in mixtures.MIXTURES else None


def networks(recipe: Recipe, classes: int) -> tuple[nn.Module, nn.Module]:
    """(generator, discriminator), freshly initialised from recipe.seed, which leaves torch's own random state as it was."""
    r = recipe
    with torch.random.fork_rng():
        torch.manual_seed(r.seed)
        if r.model == "mlp":
            return models.MLPGenerator(r.latent_dim, 2, r.width), models.MLPDiscriminator(2, r.width)
        given = {}
        if classes and r.condition != "none":
            given = {"num_classes": classes} if r.condition == "label" else {"condition_dim": r.condition_dim}
        if r.model == "stylegan2":
            shared = given | {"mapping_layers": r.mapping_layers, "widest": r.widest}
            generator = models.StyleGAN2Generator(r.image_size, r.latent_dim, r.width, r.channels, style_mixing=r.style_mixing, **shared)
            return generator, models.StyleGAN2Discriminator(r.image_size, r.width, r.channels, **shared)
        if r.model == "r3gan":
            shared = given | {"blocks": r.blocks, "widest": r.widest}
            generator = models.R3GANGenerator(r.image_size, r.latent_dim, r.width, r.channels, **shared)
            return generator, models.R3GANDiscriminator(r.image_size, r.width, r.channels, **shared)
        generator = models.DCGANGenerator(r.image_size, r.latent_dim, r.width, r.channels, **given)
        return generator, models.DCGANDiscriminator(r.image_size, r.width, r.channels, norm=not penalised(r), **given)


def penalised(recipe: Recipe) -> bool:
    """Under a gradient penalty the discriminator has no batch norm, which mixes the images."""
    return bool(recipe.r1 or recipe.r2 or recipe.gradient_penalty)


def condition_of(recipe: Recipe, classes: int) -> Tensor | bool | None:
    """Trainer's `condition`."""
    if not classes or recipe.condition == "none":
        return None
    return True if recipe.condition == "label" else folders.class_vectors(classes, recipe.condition_dim)


def trainer(recipe: Recipe, *, resume: bool = False, callbacks: tuple = ()) -> Trainer:
    """The run that `recipe` describes, or the one in its run_dir, gone on with: it keeps its networks, other settings may change.

    Raises: ValueError as Trainer, and for settings that a resumed run cannot change.
    """
    folder, world = Path(recipe.run_dir), World.from_environment(recipe.device)
    state = world.first(lambda: checkpoint.with_kernels(folder), share=True) if resume else None
    recipe.torch_device()
    if recipe.data not in NAMED:
        folders.existing(recipe.data, NAMED)  # before a folder is made for the run
    if state is not None:
        for name in NETWORK:
            known = Subject() if "model" in state["config"] else None  # of a run that is older than a setting
            if (saved := state["config"].get(name, getattr(known, name, None))) != (new := configs.to_dict(recipe)[name]):
                own = "" if saved is not None else " Networks of one's own go on by ganfast.Trainer.load, in Python."
                raise ValueError(f"train: {name} got {new!r}, the checkpoint has {saved!r}; a resumed run keeps its networks.{own}")
    else:
        keep = recipe.keep_checkpoints  # refused before data are decoded
        world.first(lambda: checkpoint.RunFolder(folder, resume=False, keep=keep).close())
    if recipe.data in mixtures.MIXTURES:
        mixture, classes = mixtures.MIXTURES[recipe.data], []
        made = mixture.sample(100_000, torch.Generator().manual_seed(mixed(recipe.seed, "points")))
    else:
        made = folders.images_of(recipe.data, recipe.image_size, recipe.channels)
        classes = made.classes if len(made.classes) > 1 else []
    generator, discriminator = networks(recipe, len(classes))
    resumed = None if state is None else (folder, state)
    condition = condition_of(recipe, len(classes))
    return Trainer(generator, discriminator, made, recipe, condition=condition, callbacks=callbacks, _resumed=resumed)


def load_sampler(path: str | Path, device: torch.device | str = "cpu", truncation: float = 1.0) -> Sampler:
    """The averaged generator of a run that a recipe made: from a checkpoint, or a run's folder for its newest good one.

    Raises: ValueError as checkpoint.load, for a run of other networks than a recipe's, or parts that are missing or do not fit together.
    """
    path = Path(path)
    state = checkpoint.load(path)
    recipe = _recipe(path, state)
    with whole(path, "generator"):
        generator, _ = networks(recipe, len(state["classes"]))
        generator.load_state_dict(state["networks"]["ema"])
        if recipe.fused:
            ganfast.accelerate(generator)
        given = conditioner(True if state["table"] is None and state["classes"] else state["table"], torch.device(device))
        name, step = f"{type(generator).__name__}, {path}, step {state['numbers']['steps']}", state["numbers"]["steps"]
        latent_shape = recipe.latent_shape or (recipe.latent_dim,)
    return Sampler(generator.to(device).eval(), latent_shape, name, step, state["classes"], given, truncation=truncation)


def recipe_of(path: str | Path) -> Recipe:
    """The settings of such a run. Raises: ValueError as load_sampler."""
    return _recipe(Path(path), checkpoint.load(Path(path)))


def _recipe(path: Path, state: dict) -> Recipe:
    if "data" not in state.get("config", {}):
        raise ValueError(f"checkpoint: {path} holds networks of one's own; build them and use ganfast.Trainer.load.")
    with whole(path, "settings"):
        return configs.from_dict(state["config"], Recipe, str(path))
