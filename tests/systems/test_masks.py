import pytest
import torch
from PIL import Image

from ganfast.systems.sources.masks import KINDS, masks, of_folder


@pytest.mark.parametrize("kind", KINDS)
def test_ones_and_zeros_and_some_of_each(kind):
    made = masks(kind, 64, 32, 14, seed=1)
    assert made.shape == (64, 1, 32, 32) and made.dtype == torch.float32
    assert ((made == 0) | (made == 1)).all()
    missing = made.mean((1, 2, 3))
    assert missing.min() > 0.02 and missing.max() < 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_follow_from_the_seed(kind):
    assert torch.equal(masks(kind, 8, 32, 14, seed=3), masks(kind, 8, 32, 14, seed=3))
    assert not torch.equal(masks(kind, 8, 32, 14, seed=3), masks(kind, 8, 32, 14, seed=4))


def test_a_block_is_a_square_away_from_the_border():
    made = masks("block", 200, 32, 14)[:, 0]
    rows, columns = made.amax(2), made.amax(1)
    assert (made.sum((1, 2)) == 14 * 14).all() and (rows.sum(1) == 14).all() and (columns.sum(1) == 14).all()
    assert not rows[:, :4].any() and not rows[:, -4:].any() and not columns[:, :4].any() and not columns[:, -4:].any()
    assert rows[:, 4].any() and rows[:, 27].any() and columns[:, 4].any() and columns[:, 27].any()  # as far as they may


def test_a_border_is_a_block_s_opposite():
    assert torch.equal(masks("border", 9, 32, 14, seed=2), 1 - masks("block", 9, 32, 14, seed=2))


def test_strokes_cover_about_as_much_as_the_block():
    share = masks("free", 500, 32, 14).mean().item()
    assert 0.6 < share / (14 / 32) ** 2 < 1.5


def test_strokes_are_of_one_piece_each():
    made = masks("free", 20, 32, 14, seed=5)
    for mask in made[:, 0].bool():
        left, pieces = mask.clone(), 0
        while left.any():
            piece = torch.zeros_like(left)
            piece.view(-1)[left.view(-1).int().argmax()] = True
            while True:
                grown = torch.nn.functional.max_pool2d(piece.float()[None, None], 3, 1, 1)[0, 0].bool() & left
                if torch.equal(grown, piece):
                    break
                piece = grown
            left, pieces = left & ~piece, pieces + 1
        assert pieces in (1, 2)


def test_a_step_s_own_numbers():
    asked = []

    def uniform(*shape):
        asked.append(shape)
        return torch.full(shape, 0.5)

    for kind in KINDS:
        made = masks(kind, 3, 32, 14, uniform=uniform)
        assert torch.equal(made[0], made[1])
    assert len(set(asked)) == 1, "equal shapes for each kind, whatever is drawn"


@pytest.mark.parametrize("hole", [0, -1, 32, 40])
def test_a_hole_that_is_none_is_refused(hole):
    with pytest.raises(ValueError, match=rf"masks: hole is {hole}, wants 1 to 31"):
        masks("block", 1, 32, hole)


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'block'"):
        masks("blok", 1, 32, 14)


def test_masks_of_a_folder_and_of_another_size(tmp_path):
    for i, side in enumerate((8, 8, 10)):
        picture = Image.new("L", (side, side), 0)
        picture.paste(255, (0, 0, 4, 2))
        picture.save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"masks of another size than 8 x 8: 2\.png \(10 x 10\)\."):
        of_folder(str(tmp_path), 8)
    (tmp_path / "2.png").unlink()
    found = of_folder(str(tmp_path), 8)
    assert found.shape == (2, 1, 8, 8) and found[0, 0, :2, :4].min() == 1 and found.sum() == 16
    Image.new("L", (8, 8), 255).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"1 of the 2 masks in .* are all black or all white"):
        of_folder(str(tmp_path), 8)
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").unlink()
    with pytest.raises(ValueError, match="there is no picture in"):
        of_folder(str(tmp_path), 8)
