"""Measures of drawn pictures whose truth is known."""

import math

import pytest
import torch

from ganfast.systems import measures
from ganfast.systems.measures import PICTURES, STROKES


def bar(slope=0.0, thick=3.0, tall=20.0, side=32):
    """A stroke through the middle: `slope` pixels to the right for each up, smooth at its outline, [1, 1, side, side]."""
    y, x = torch.meshgrid(torch.arange(side - 1.0, -1, -1), torch.arange(float(side)), indexing="ij")
    y, x = y - (side - 1) / 2, x - (side - 1) / 2
    across = (x - slope * y).abs() / math.sqrt(1 + slope**2)
    drawn = (thick / 2 + 0.5 - across).clamp(0, 1) * (tall / 2 + 0.5 - y.abs()).clamp(0, 1)
    return (2 * drawn - 1)[None, None]


@pytest.mark.parametrize("slope", [-0.5, 0.0, 0.3])
def test_slant_is_the_shear(slope):
    assert measures.slant(bar(slope)).item() == pytest.approx(slope, abs=0.03)
    assert measures.width(bar(slope)).item() == pytest.approx(measures.width(bar()).item(), abs=0.35)


def test_thickness_is_the_strokes_and_not_their_length_or_ink():
    for thick in (2.0, 3.0, 5.0):
        upright, leaning = (measures.thickness(bar(slope, thick, tall=24)).item() for slope in (0.0, 0.4))
        assert upright == pytest.approx(thick * 24 / (thick + 24), rel=0.12) and leaning == pytest.approx(upright, rel=0.1)
    pale = bar(thick=3) * 0.5 - 0.5
    assert measures.thickness(pale).item() == pytest.approx(measures.thickness(bar(thick=3)).item(), rel=0.05)


def test_height_and_width_are_spreads():
    assert measures.height(bar(tall=20)).item() == pytest.approx(20 / math.sqrt(12), rel=0.05)
    wide = bar(thick=12, tall=20)
    assert measures.width(wide).item() == pytest.approx(12 / math.sqrt(12), rel=0.08)


def test_balance_says_where_most_of_the_ink_is():
    low = bar(tall=20)
    low[..., 22:26, 8:24] = 1
    assert measures.balance(low).item() > 0.2 and measures.balance(low.flip(2)).item() == pytest.approx(
        -measures.balance(low).item(), abs=1e-3
    )
    assert measures.balance(bar()).abs().item() < 1e-3


def test_a_faint_background_is_paper():
    drawn = bar(0.3)
    for name, measure in STROKES.items():
        assert measure(drawn.clamp_min(-0.85)).item() == pytest.approx(measure(drawn).item(), abs=0.1), name


def test_measures_of_any_picture():
    grey = torch.zeros(1, 3, 8, 8)
    red, green = grey.clone(), grey.clone()
    red[:, 0], green[:, 1] = 1, 1
    assert measures.warmth(red).item() == 1 and measures.warmth(red.flip(1)).item() == -1 and measures.warmth(green).item() == 0
    assert measures.greenness(green).item() == 1 and measures.greenness(red).item() == -0.5
    assert measures.brightness(grey + 0.5).item() == 0.5
    halves = grey.clone()
    halves[..., 4:] = 1
    stripes = grey.clone()
    stripes[..., ::2] = 1
    assert measures.contrast(halves).item() == pytest.approx(measures.contrast(stripes).item()) and measures.contrast(grey).item() == 0
    assert measures.detail(stripes).item() > 5 * measures.detail(halves).item()
    spot = grey.clone()
    spot[..., 2:6, 2:6] = 1
    assert measures.middle(spot).item() == pytest.approx(0.75) and measures.middle(halves).item() == 0


def test_which_suit():
    digits, photographs = bar().expand(4, -1, -1, -1), torch.rand(4, 1, 16, 16)
    assert measures.suited(digits) == STROKES and measures.suited(digits.expand(-1, 3, -1, -1)) == PICTURES
    assert list(measures.suited(photographs)) == ["brightness", "contrast", "detail", "middle"]


def test_a_measure_that_fails_or_gives_something_else_is_named():
    pictures = torch.zeros(3, 1, 8, 8)
    for function, words in {
        (lambda images: images.nothing): "measure mine failed: AttributeError",
        (lambda images: images): r"measure mine gave shape \[3, 1, 8, 8\] for 3 pictures, wants \[3\]",
    }.items():
        with pytest.raises(ValueError, match=words):
            measures.taken({"mine": function}, pictures)
    assert measures.taken({"mine": lambda images: images[:, 0, 0, 0].double().tolist()}, pictures)["mine"].dtype == torch.float32
