import dataclasses

import pytest
import torch
from PIL import Image

from ganfast.systems import inpainting
from ganfast.systems.inpainting import SYSTEM, Discriminator, Options, UNet, completed, in_hole, sets, slope, without_holes
from ganfast.systems.sources.masks import KINDS, masks
from ganfast.train.data import to_float

SHORT = {"steps": 60, "width": 8, "batch_size": 16, "fused": False}


@pytest.fixture(scope="module")
def trained():
    options = Options(**SHORT)
    trainer = SYSTEM.trainer(options)
    untrained = inpainting.completed(trainer, options, to_float(sets(options)["test"]))[0]
    trainer.fit(progress_bar=False)
    return trainer, options, untrained


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_hole_hides_reaches_no_generator_and_the_rest_stays(kind):
    images, holes = torch.rand(6, 1, 32, 32) * 2 - 1, masks(kind, 6, 32, 14)
    others = torch.where(holes.bool(), torch.rand_like(images), images)
    network = UNet(1, 32, 8).eval()
    made, again = (network(*without_holes({"images": x, "masks": holes})) for x in (images, others))
    assert torch.equal(made, again)
    known = (1 - holes).expand_as(images).bool()
    assert torch.equal(made[known], images[known])


def test_the_generator_uses_what_is_around_the_hole(trained):
    trainer, options, _ = trained
    images = to_float(sets(options)["test"][:40])
    made, holes = completed(trainer, options, images)
    shuffled = completed(trainer, options, images.roll(1, 0))[0]
    assert in_hole((made - shuffled).abs(), holes) > 0.1
    assert in_hole((made - images).abs(), holes) < in_hole((shuffled - images).abs(), holes)


def test_it_learns_in_sixty_steps(trained):
    trainer, options, untrained = trained
    images = to_float(sets(options)["test"])
    made, holes = completed(trainer, options, images)
    mean = to_float(sets(options)["train"]).mean(0)
    error = lambda x: in_hole((x - images).abs(), holes).item()
    assert error(made) < 0.8 * error(mean) < error(untrained)


def test_the_hole_is_told_to_the_discriminator():
    network, images = Discriminator(1, 32, 8), torch.randn(2, 1, 32, 32)
    logits = [network(images, masks("block", 2, 32, 14, seed=seed)) for seed in (0, 1)]
    assert logits[0].shape == (2, 1) and not torch.equal(*logits)


def test_held_out_digits_are_no_training_digits():
    data = sets(Options())
    assert (len(data["train"]), len(data["test"])) == (1497, 300)
    seen = {image.numpy().tobytes() for image in data["train"]}
    assert not any(image.numpy().tobytes() in seen for image in data["test"])


def test_slope_of_a_ramp():
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    assert torch.equal(slope(ramp)[..., :-1], torch.ones(1, 1, 8, 7))


def test_own_pictures(tmp_path):
    for i in range(24):
        Image.effect_noise((20, 20), 20 + i).convert("RGB").save(tmp_path / f"{i}.png")
    options = Options(data=str(tmp_path), image_size=16, hole=6, mask="free", steps=3, width=8, batch_size=4, fused=False)
    trainer = SYSTEM.trainer(options)
    trainer.fit(progress_bar=False)
    assert "r1" in trainer.phases[0].terms and "r1" not in SYSTEM.trainer(dataclasses.replace(options, r1=0.0)).phases[0].terms
    figures = SYSTEM.measure(trainer, options)
    masks = tmp_path.with_name("masks")
    masks.mkdir()
    left = Image.new("L", (16, 16), 0)
    left.paste(255, (0, 0, 8, 16))
    left.save(masks / "left.png")
    with_masks = dataclasses.replace(options, masks=str(masks))
    for holes in (completed(trainer, with_masks, torch.zeros(3, 3, 16, 16))[1], SYSTEM.trainer(with_masks).told(2)[1]["masks"]):
        assert (holes[..., :8] == 1).all() and (holes[..., 8:] == 0).all()
    assert "read" not in figures and 0 < figures["l1"] < 2
    assert SYSTEM.picture(trainer, options).shape[0] == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"hole": 32}, "hole got 32, wants 1 to 31"),
        ({"hole": 0}, "hole got 0, wants 1 to 31"),
        ({"r1": -1.0}, "r1 got -1.0, wants at least 0"),
        ({"image_size": 64}, "image_size got 64, wants 32 for the digits"),
        ({"image_size": 24, "data": "x"}, "image_size got 24, wants a power of two"),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Options(**given)
