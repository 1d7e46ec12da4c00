"""Pictures of a run; every file says in its text fields that it is synthetic, by which model and seed."""

from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ganfast.train.checkpoint import Sampler
from ganfast.train.data import to_uint8


def about(model: str, seed: int) -> dict[str, str]:
    """The text fields of a PNG, the comment of a GIF."""
    synthetic = "yes: made by a generative model, not a record of anything real"
    return {"Synthetic": synthetic, "Model": model, "Seed": str(seed), "Software": "ganfast"}


def tile(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """[N, C, S, S] -> [C, rows*(S+gap)+gap, columns*(S+gap)+gap], row by row; free places and gaps hold the darkest value."""
    n, c, h, w = images.shape
    rows = -(-n // columns)
    sheet = images.new_full((c, rows * (h + gap) + gap, columns * (w + gap) + gap), -1)
    for i in range(n):
        top, left = gap + i // columns * (h + gap), gap + i % columns * (w + gap)
        sheet[:, top : top + h, left : left + w] = images[i]
    return sheet


def write_png(path: Path, image: Tensor, fields: dict[str, str], scale: int = 1) -> None:
    """`image` [C, H, W] in [-1, 1], each pixel repeated `scale` times."""
    pixels = to_uint8(image).cpu().repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    picture = Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy())
    info = PngInfo()
    for key, value in fields.items():
        info.add_text(key, value)
    picture.save(path, format="PNG", pnginfo=info)


def _frame(path: Path) -> Image.Image:
    with Image.open(path) as image:
        small = image.reduce(max(1, image.width // 300))
        return small.quantize(32, dither=Image.Dither.NONE)  # fifty frames stay below 3 MB


def write_gif(path: Path, frames: list[Path], fields: dict[str, str], seconds: float = 8.0) -> None:
    """The PNGs one after another, the last one held; `fields` become the comment."""
    pictures = [_frame(frame) for frame in frames]
    each = max(40, int(1000 * seconds / len(pictures)))
    comment = "; ".join(f"{key}: {value}" for key, value in fields.items()).encode()
    durations = [each] * (len(pictures) - 1) + [2000]
    pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0, comment=comment)


def write_grid(path: Path, sampler: Sampler, seed: int, columns: int = 10) -> None:
    """Latents and labels depend on the seed alone, so that grids of one run show the same images over time."""
    sheet = tile(sampler(class_rows(len(sampler.classes), columns), seed), columns)
    write_png(path, sheet, about(sampler.name, seed), scale=max(1, 64 // sampler.config.image_size))


def class_rows(classes: int, columns: int) -> Tensor:
    """Labels of a grid: a row per class, 16 rows at most; without classes (0) a square."""
    return torch.arange(min(classes, 16)).repeat_interleave(columns) if classes else torch.zeros(columns * columns, dtype=torch.long)
