"""Mixed styles: the published table of a style-based generator, whose rows give the coarse styles and whose columns the fine ones."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.train.sampling import Sampler
from ganfast.train.watch.grids import tile


def seeds_of(text: str) -> list[int]:
    """ "3,5" -> [3, 5]. Raises: ValueError for what are not two seeds or more."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) < 2 or not all(part.isascii() and part.isdigit() and int(part) < 2**63 for part in parts):
        _checks.fail("sample", f"mix got {text!r}, wants two seeds or more, whole numbers joined by commas", "--mix 3,5")
    return [int(part) for part in parts]


def coarse_layers(layers: int, resolution: int) -> int:
    """How many of the layers' styles belong to resolutions up to this one. Raises: ValueError for none of the generator's."""
    sizes = [4 << i for i in range(layers // 2)]
    if resolution not in sizes[:-1]:
        _checks.fail("sample", f"coarse got {resolution!r}, wants one of {', '.join(map(str, sizes[:-1]))}", "Pixels of a layer's side")
    return 2 * (sizes.index(resolution) + 1)


def cross(coarse: Tensor, fine: Tensor, layers: int) -> Tensor:
    """coarse [A, L, D], fine [B, L, D] -> [A, B, L, D]: the first `layers` styles of one, the others of the other."""
    a, b = coarse[:, None].expand(-1, len(fine), -1, -1), fine[None].expand(len(coarse), -1, -1, -1)
    return torch.cat([a[:, :, :layers], b[:, :, layers:]], 2)


def mixed(sampler: Sampler, seeds: Sequence[int], coarse: int = 8, label: int | None = None) -> Tensor:
    """A sheet [C, H, W] in [-1, 1]: on top the seeds' samples, from which each column has its fine styles; on the left the same, from which
    each row has those up to `coarse` pixels. label: the class of all; None: the classes in turn, where there are some.

    Raises: ValueError for a generator without styles, a resolution that it does not have.
    Source: Karras, Laine & Aila 2019, "A style-based generator architecture for generative adversarial networks", figure 3.
    """
    n = len(seeds)
    latents = torch.cat([sampler.latents(1, seed) for seed in seeds])
    labels = None
    if sampler.classes:
        labels = torch.full((n,), label) if label is not None else torch.arange(n) % len(sampler.classes)
    return table(sampler, *[sampler.styles(latents, labels)] * 2, coarse)


def table(sampler: Sampler, rows: Tensor, columns: Tensor, coarse: int) -> Tensor:
    """The same of styles [A, L, D] for the rows and [B, L, D] for the columns."""
    crossed = cross(rows, columns, coarse_layers(rows.shape[1], coarse))
    inner = sampler.synthesised(crossed.flatten(0, 1)).unflatten(0, crossed.shape[:2])
    left, top = sampler.synthesised(rows), sampler.synthesised(columns)
    blank = torch.full_like(top[:1], -1)
    cells = torch.cat([torch.cat([blank, top])[None], torch.cat([left[:, None], inner], 1)])
    return tile(cells.flatten(0, 1), len(columns) + 1)


def scale_of(sheet: Tensor, columns: int) -> int:
    """How often to repeat small pictures' pixels, so that one is seen."""
    return max(1, 96 * (columns + 1) // sheet.shape[2])
