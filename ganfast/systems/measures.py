"""Measures of pictures that learn nothing: of handwriting (slant, thickness, ...) and of any pictures (brightness, contrast, ...).

Each is a function of images [N, C, H, W] in [-1, 1] that gives a number for each, float32 [N]; `STROKES` and `PICTURES` name them.
Source: slant and spread by the ink's second moments, Hu 1962, "Visual pattern recognition by moment invariants"; thickness as of a strip,
by its area and its outline.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast import _checks

Measure = Callable[[Tensor], Tensor]
FAINT = 0.1  # ink below this is taken for paper: a generator's background is not quite black


def ink(images: Tensor) -> Tensor:
    """[N, H, W] from 0, paper, to 1: bright on dark as in MNIST, colours averaged."""
    grey = (images.float().mean(1) + 1) / 2
    return torch.where(grey < FAINT, 0.0, grey.clamp(max=1))


def _slope(grey: Tensor) -> Tensor:
    """[N, H - 1, W - 1]: how steep brightness [N, H, W] is."""
    down, right = grey.diff(dim=1)[:, :, :-1], grey.diff(dim=2)[:, :-1]
    return (down.square() + right.square()).sqrt()


def _moments(images: Tensor) -> dict[str, Tensor]:
    """Central moments of the ink, in pixels, y upwards."""
    drawn = ink(images)
    share = drawn / drawn.sum((1, 2), keepdim=True).clamp_min(1e-6)
    mean = lambda values: (share * values).sum((1, 2))
    y = torch.arange(drawn.shape[1], 0, -1, dtype=torch.float32, device=drawn.device)[:, None]
    x = torch.arange(drawn.shape[2], dtype=torch.float32, device=drawn.device)
    x, y = x - mean(x)[:, None, None], y - mean(y)[:, None, None]
    return {"xx": mean(x * x), "xy": mean(x * y), "yy": mean(y * y).clamp_min(1e-3), "yyy": mean(y**3)}


def slant(images: Tensor) -> Tensor:
    """Shear of the ink: how many pixels to the right for each pixel that it goes up."""
    m = _moments(images)
    return m["xy"] / m["yy"]


def thickness(images: Tensor) -> Tensor:
    """Of the strokes, in pixels: twice the ink's area over the length of its outline, which is the sum of all slopes."""
    drawn = F.pad(ink(images), (1, 1, 1, 1))
    return 2 * drawn.sum((1, 2)) / _slope(drawn).sum((1, 2)).clamp_min(1e-3)


def height(images: Tensor) -> Tensor:
    """Spread of the ink from top to bottom: its standard deviation, in pixels."""
    return _moments(images)["yy"].sqrt()


def width(images: Tensor) -> Tensor:
    """Spread of the ink from left to right with its slant undone, in pixels."""
    m = _moments(images)
    return (m["xx"] - m["xy"].square() / m["yy"]).clamp_min(0).sqrt()


def balance(images: Tensor) -> Tensor:
    """Skew of the ink from bottom to top: above 0 where most of it lies low with a little far up, below 0 the other way round."""
    m = _moments(images)
    return m["yyy"] / m["yy"] ** 1.5


def brightness(images: Tensor) -> Tensor:
    """The mean of all pixels."""
    return images.float().mean((1, 2, 3))


def contrast(images: Tensor) -> Tensor:
    """The standard deviation of brightness over the picture."""
    return images.float().mean(1).flatten(1).std(1)


def detail(images: Tensor) -> Tensor:
    """How steep brightness is, on average, over the contrast: much for fine patterns, little for large forms."""
    return _slope(images.float().mean(1)).mean((1, 2)) / contrast(images).clamp_min(1e-3)


def warmth(images: Tensor) -> Tensor:
    """Red less blue; 0 for grey pictures."""
    return images[:, 0].float().mean((1, 2)) - images[:, -1].float().mean((1, 2))


def greenness(images: Tensor) -> Tensor:
    """Green less the mean of red and blue; 0 for grey pictures."""
    red, green, blue = (images[:, i % images.shape[1]].float().mean((1, 2)) for i in range(3))
    return green - (red + blue) / 2


def middle(images: Tensor) -> Tensor:
    """How much brighter the middle half of the picture is than all of it."""
    h, w = images.shape[2:]
    return images[:, :, h // 4 : h - h // 4, w // 4 : w - w // 4].float().mean((1, 2, 3)) - brightness(images)


STROKES: dict[str, Measure] = {f.__name__: f for f in (slant, thickness, height, width, balance)}
PICTURES: dict[str, Measure] = {f.__name__: f for f in (brightness, contrast, detail, warmth, greenness, middle)}


def suited(images: Tensor) -> dict[str, Measure]:
    """The measures that suit the pictures: STROKES where they are grey and most of them is paper, else PICTURES; of grey ones those alone
    that need no colours."""
    if images.shape[1] == 1 and (ink(images) == 0).float().mean() > 0.5:
        return STROKES
    return {name: PICTURES[name] for name in PICTURES if images.shape[1] > 1 or name not in ("warmth", "greenness")}


def taken(measures: Mapping[str, Measure], images: Tensor) -> dict[str, Tensor]:
    """name -> [N]. Raises: ValueError for a function that fails, or gives anything else than a number for each picture."""
    found = {}
    for name, function in measures.items():
        try:
            values = torch.as_tensor(function(images))
        except Exception as error:  # the user's own code
            _checks.fail("edit", f"the measure {name} failed: {type(error).__name__}: {error}")
        if values.shape != (len(images),):
            _checks.fail("edit", f"the measure {name} gave shape {list(values.shape)} for {len(images)} pictures, wants [{len(images)}]")
        found[name] = values.detach().float().cpu()
    return found
