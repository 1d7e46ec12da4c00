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
from ganfast.train.styles import mixing
from ganfast.train.styles.projection import Projected, project
from ganfast.train.watch import curves, grids


@dataclass
class Project:
    """The styles whose image is most like a picture: projected.png beside the picture, loss.png, styles.pt, and transfer.png, its styles
    mixed with those of samples."""

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
    out: Path | None = None
    """folder to write to; none: one in the run's, named by the picture"""


def run(args: list[str]) -> None:
    wanted = commands.parse(Project, "project", args)
    sampler = recipes.load_sampler(wanted.run)
    recipe = recipes.recipe_of(wanted.run)
    true = _picture(wanted, recipe.image_size, recipe.channels)
    label = commands.labels_of(sampler, wanted.label)[0] if wanted.label is not None else None
    found = project(
        sampler, true, steps=wanted.steps, rate=wanted.rate, condition=label, each_layer=wanted.each_layer, seed=wanted.seed
    )  # fmt: skip
    folder = wanted.run if wanted.run.is_dir() else wanted.run.parent
    out = wanted.out or folder / f"project-{commands.file_name(wanted.image.stem)}"
    out.mkdir(parents=True, exist_ok=True)
    fields = grids.about(sampler.name, wanted.seed) | {"Projected": wanted.image.name}
    pair = grids.tile(torch.stack([true, found.image.cpu()]), 2)
    grids.write_png(out / "projected.png", pair, fields, mixing.scale_of(pair, 1))
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
    except (OSError, ValueError) as error:
        _checks.fail("project", f"{wanted.image} cannot be read: {error}")
    if (width, height) != (size, size) and not wanted.fit:
        cause = "--fit cuts the middle square and resizes it"
        _checks.fail("project", f"{wanted.image} has {width} x {height} pixels, the run's images {size} x {size}", cause)
    return to_float(decode.read(wanted.image, size, channels))


def _transfer(sampler, found: Projected, wanted: Project, label: int | None) -> Tensor:
    """Rows: the picture's coarse styles, and those of samples; columns: the fine styles of the same."""
    latents = sampler.latents(wanted.others, wanted.seed + 1)
    labels = None
    if sampler.classes:
        labels = torch.full((wanted.others,), label) if label is not None else torch.arange(wanted.others) % len(sampler.classes)
    all_styles = torch.cat([found.styles, sampler.styles(latents, labels)])
    return mixing.table(sampler, all_styles[:1], all_styles[1:], wanted.coarse)
