"""Pictures of samples: grids, clips, scatter plots. Every file's text fields say that it is synthetic, by which model and seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.train.parts import to_uint8
from ganfast.train.sampling import Sampler
from ganfast.train.saving.disk import atomic

if TYPE_CHECKING:
    from PIL import Image


def about(model: str, seed: int) -> dict[str, str]:
    """The text fields of a PNG, the comment of a GIF."""
    synthetic = "yes: made by a generative model, not a record of anything real"
    return {"Synthetic": synthetic, "Model": model, "Seed": str(seed), "Software": "ganfast"}


def tile(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """[N, C, H, W] -> [C, rows*(H+gap)+gap, columns*(W+gap)+gap], row by row; free places and gaps hold the darkest value."""
    n, c, h, w = images.shape
    rows = -(-n // columns)
    sheet = images.new_full((c, rows * (h + gap) + gap, columns * (w + gap) + gap), -1)
    for i in range(n):
        top, left = gap + i // columns * (h + gap), gap + i % columns * (w + gap)
        sheet[:, top : top + h, left : left + w] = images[i]
    return sheet


def picture(image: Tensor, scale: int = 1) -> "Image.Image":
    """`image` [C, H, W] in [-1, 1], each pixel repeated `scale` times; grey for one or two channels, else the first three as RGB."""
    from PIL import Image

    pixels = to_uint8(image).cpu().repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return Image.fromarray(pixels[0].numpy() if len(pixels) < 3 else pixels[:3].permute(1, 2, 0).contiguous().numpy())


def write_png(path: Path, image: Tensor, fields: dict[str, str], scale: int = 1) -> None:
    """`picture` of `image` as a PNG with `fields` as its text."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in fields.items():
        info.add_text(key, value)
    picture(image, scale).save(path, format="PNG", pnginfo=info)


WIDE = 300  # pixels of a clip that shows how samples change, about


def _small(image: "Image.Image") -> "Image.Image":
    """About WIDE pixels wide, in 32 colours: fifty frames stay below 3 MB."""
    from PIL import Image

    return image.reduce(max(1, image.width // WIDE)).quantize(32, dither=Image.Dither.NONE)


def _first(sheet: "Image.Image", cell: tuple[int, int], columns: int, rows: bool) -> "Image.Image":
    """A sheet of `columns` pictures of `cell`, height and width, a row, as `write_grid` makes it; where `_small` would make them smaller
    than they are, and what is small in them unreadable, as many of a row as fit, and as many rows, or all `rows`. Pictures wider than a
    clip are left to `_small`."""
    scale, (height, width) = _scale(cell), cell
    fit = (WIDE + 40) // (width + 2)
    if not fit or sheet.width // WIDE <= scale or sheet.width != scale * (columns * (width + 2) + 2):
        return sheet
    high = sheet.height if rows else min(sheet.height, scale * (fit * (height + 2) + 2))
    return sheet.crop((0, 0, scale * (fit * (width + 2) + 2), high))


def _save_gif(path: "Path | IO[bytes]", pictures: list["Image.Image"], milliseconds: list[int], fields: dict[str, str]) -> None:
    comment = "; ".join(f"{key}: {value}" for key, value in fields.items()).encode()
    pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, comment=comment)


def write_clip(path: Path, frames: Sequence[Tensor], fields: dict[str, str], scale: int = 1, milliseconds: int = 150) -> None:
    """A film of frames [C, H, W] in [-1, 1], each shown so long, that begins anew; `fields` become the comment."""
    with atomic(path) as file:
        _save_gif(file, [picture(frame, scale) for frame in frames], [milliseconds] * len(frames), fields)


def write_gif(
    path: Path,
    frames: list[Path],
    fields: dict[str, str],
    seconds: float = 8.0,
    cell: tuple[int, int] | None = None,
    columns: int = 10,
    rows: bool = False,
) -> None:
    """The learning clip: the PNGs one after another, the last one held; `fields` become the comment. cell: height and width of the
    pictures in grids of so many `columns`: where they would become smaller than they are, the clip shows the first of them alone, of all
    rows if `rows`.

    Raises: ValueError without frames.
    """
    from PIL import Image

    if not frames:
        _checks.fail("write_gif", "frames is empty, wants at least one PNG", "The run wrote no grids")
    pictures = []
    for frame in frames:
        with Image.open(frame) as image:
            pictures.append(_small(_first(image, cell, columns, rows) if cell else image))
    each = max(40, int(1000 * seconds / len(pictures)))
    _save_gif(path, pictures, [each] * (len(pictures) - 1) + [2000], fields)


def write_grid(path: Path, sampler: Sampler, seed: int, columns: int = 10) -> None:
    """A grid of samples as a PNG. Its latents and labels depend on the seed alone, so that a run's grids show the same images over time."""
    labels, n = _places(sampler, columns)
    sheet, scale = _sheet(sampler.sample(n, labels, seed), columns)
    write_png(path, sheet, about(sampler.name, seed), scale)


def interpolation(
    path: Path,
    sampler: Sampler,
    seed: int,
    columns: int = 4,
    stops: int = 4,
    frames: int = 12,
    labels: Tensor | None = None,
    more: dict[str, str] | None = None,
) -> None:
    """A clip that ends where it began: each place of a grid walks through `stops` latents by `slerp`, of a generator with styles through
    their styles in straight lines, `frames` frames from one to the next; a row for each class, or each of `labels`, else a square. Smooth
    changes say that the generator did not learn images by heart. more: fields of the comment."""
    labels, n = _places(sampler, columns) if labels is None else (labels.repeat_interleave(columns), columns * len(labels))
    latents = sampler.latents(n * stops, seed).unflatten(0, (stops, n))
    if sampler.styled:
        styles = [sampler.styles(stop, labels) for stop in latents]
        between = lambda a, b, t: sampler.synthesised(torch.lerp(styles[a], styles[b], t))
    else:
        between = lambda a, b, t: sampler.generate(slerp(latents[a], latents[b], t), labels)
    steps = [(stop, (stop + 1) % stops, frame / frames) for stop in range(stops) for frame in range(frames)]
    pictures = [_small(picture(*_sheet(between(*step), columns))) for step in steps]
    _save_gif(path, pictures, [80] * len(pictures), about(sampler.name, seed) | (more or {}))


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """From a [N, ...] (t=0) to b (t=1), row by row along the great circle: a Gaussian latent's length, which a straight line would
    shorten on its way, stays typical.

    Source: White 2016, "Sampling generative networks", section 2.1.
    """
    x, y = a.flatten(1), b.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(x, y, dim=1)
    angle = cosine.clamp(-1, 1).acos()[:, None]
    sine = angle.sin()
    straight = sine < 1e-4  # parallel or opposite: no one great circle, and a division by 0
    from_a = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / sine)
    from_b = torch.where(straight, t, (t * angle).sin() / sine)
    return (from_a * x + from_b * y).view_as(a)


def class_rows(classes: int, columns: int) -> Tensor | None:
    """Labels of a grid: a row for each class, 16 rows at most; None without classes (0)."""
    return torch.arange(min(classes, 16)).repeat_interleave(columns) if classes else None


def _places(sampler: Sampler, columns: int) -> tuple[Tensor | None, int]:
    """A grid's labels, and how many images it has: a row for each class, else a square."""
    labels = class_rows(len(sampler.classes), columns)
    return labels, columns * columns if labels is None else len(labels)


def _sheet(images: Tensor, columns: int) -> tuple[Tensor, int]:
    """All images in one, and the factor by which to enlarge it: small images to about 64 pixels."""
    if images.dim() != 4:
        cause = "Points in the plane want grids.scatter" if images.dim() == 2 else ""
        _checks.fail("grids", f"the sampler gives shape {list(images.shape)}, wants images [N, C, H, W]", cause)
    return tile(images, columns), _scale(images.shape[2:])


def _scale(cell: tuple[int, int]) -> int:
    """By which pictures of this height and width are enlarged."""
    return max(1, 64 // max(cell))


def draw_points(axes, fake: Tensor, real: Tensor, title: str) -> None:
    """Draws real points in grey and generated ones in colour over them, on matplotlib's axes."""
    for points, colour, label in ((real, "0.65", "real"), (fake, "tab:red", "generated")):
        x, y = points.detach().float().cpu().unbind(1)
        axes.scatter(x, y, s=3, color=colour, alpha=0.5, linewidths=0, label=label)
    low, high = real.min().item(), real.max().item()
    margin = 0.15 * (high - low)
    axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal", title=title)
    axes.legend(loc="upper right", markerscale=4, fontsize="small")


def scatter(path: Path, fake: Tensor, real: Tensor, fields: dict[str, str], title: str = "") -> None:
    """A PNG of both; `fields` are its text fields, which say that it is synthetic (`about`)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    draw_points(figure.subplots(), fake, real, title)
    figure.savefig(path, format="png", dpi=110, metadata=fields)
