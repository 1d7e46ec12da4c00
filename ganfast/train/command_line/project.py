"""The command `ganfast project`: a picture looked for among a run's images, and what its styles make with those of others."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from ganfast import _checks
from ganfast.train.command_line import commands, recipes
from ganfast.train.data import decode
from ganfast.train.parts import to_float
from ganfast.train.sampling import Sampler
from ganfast.train.styles import mixing
from ganfast.train.styles.projection import Projected, noise_maps, project
from ganfast.train.watch import curves, grids


@dataclass
class Project:
    """The styles whose image is most like a picture: projected.png, which shows both, loss.png, styles.pt, and transfer.png, the picture's
    styles mixed with those of samples."""

    image: tyro.conf.Positional[Path]
    """a picture of the size that the run's generator makes"""
    run: tyro.conf.Positional[Path]
    """a run of `ganfast train --model stylegan2`, or a checkpoint of it"""
    fit: bool = False
    """cut the middle square of a picture of another size, and resize it"""
    steps: int = 500
    rate: float = 0.1
    """of Adam"""
    each_layer: bool = False
    """styles of its own for each layer: nearer to the picture, further from what latents make"""
    label: str | None = None
    """the picture's class by name, where the run has classes; none: the mean of all"""
    coarse: int = 8
    """transfer.png: the resolution up to which styles are coarse"""
    others: int = 6
    """transfer.png: how many samples"""
    seed: int = 0
    device: str = "cpu"
    out: Path | None = None
    """folder to write to; none: one in the run's, named by the picture"""


def run(args: list[str]) -> None:
    wanted = commands.parse(Project, "project", args)
    if wanted.others < 1:
        _checks.fail("project", f"others got {wanted.others}, wants at least 1")
    sampler = recipes.load_sampler(wanted.run, wanted.device)
    sampler.want_styles("project")
    recipe = recipes.recipe_of(wanted.run)
    true = _picture(wanted, recipe.image_size, recipe.channels)
    label = commands.labels_of(sampler, wanted.label)[0] if wanted.label is not None else None
    mixing.coarse_layers(sampler.generator.synthesis.layers, wanted.coarse)  # refused before the search
    how = {"steps": wanted.steps, "rate": wanted.rate, "each_layer": wanted.each_layer, "seed": wanted.seed}
    found = project(sampler, true, condition=label, **how)
    folder = wanted.run if wanted.run.is_dir() else wanted.run.parent
    out = wanted.out or folder / f"project-{commands.file_name(wanted.image.stem)}"
    out.mkdir(parents=True, exist_ok=True)
    fields = grids.about(sampler.name, wanted.seed) | {"Projected": wanted.image.name}
    pair = grids.tile(torch.stack([true, found.image.cpu()]), 2)
    beside = {"Synthetic": "yes: the right half is made by a generative model; the left half is the picture that was given"}
    grids.write_png(out / "projected.png", pair, fields | beside, mixing.scale_of(pair, 1))
    curves.write_loss(out / "loss.png", found.losses, fields)
    (out / "loss.json").write_text(json.dumps(found.losses) + "\n")
    torch.save({"styles": found.styles.cpu(), "noises": [noise.cpu() for noise in found.noises]}, out / "styles.pt")
    transfer = _transfer(sampler, found, wanted, label)
    grids.write_png(out / "transfer.png", transfer, fields, mixing.scale_of(transfer, wanted.others))
    print(f"unlike by {found.losses[0]:.4f} at first, {min(found.losses):.4f} at best; projected.png, loss.png, transfer.png in {out}")


def _picture(wanted: Project, size: int, channels: int) -> Tensor:
    if not wanted.image.is_file():
        _checks.fail("project", f"there is no file {wanted.image}")
    try:
        with decode.opened(wanted.image) as opened:
            width, height = opened.size
        image = to_float(decode.read(wanted.image, size, channels))
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises them all
        _checks.fail("project", f"{wanted.image} cannot be read: {error}")
    if (width, height) != (size, size) and not wanted.fit:
        cause = "--fit cuts the middle square and resizes it"
        _checks.fail("project", f"{wanted.image} has {width} x {height} pixels, the run's images {size} x {size}", cause)
    return image


def _transfer(sampler: Sampler, found: Projected, wanted: Project, label: int | None) -> Tensor:
    """On the left the image that was found, whose coarse styles the row has; on top samples, whose fine styles the columns have. With the
    noise maps that were found."""
    latents = sampler.latents(wanted.others, wanted.seed + 1)
    labels = None
    if sampler.classes:
        labels = torch.full((wanted.others,), label) if label is not None else torch.arange(wanted.others) % len(sampler.classes)
    for noise, value in zip(noise_maps(sampler.generator), found.noises):
        noise.copy_(value)
    return mixing.table(sampler, found.styles, sampler.styles(latents, labels), wanted.coarse)
