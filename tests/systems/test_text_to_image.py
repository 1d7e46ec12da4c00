"""The parts of text-to-image that need no training: its terms, its networks, folders of captioned pictures."""

import dataclasses

import pytest
import torch
from PIL import Image

from ganfast.models.captions import TextDiscriminator, TextGenerator
from ganfast.systems import matching, text, text_to_image
from ganfast.systems.sources import shapes
from ganfast.systems.sources.captioned import captioned


def test_all_mismatched_pairs_count_and_the_own_one_does_not():
    own = torch.tensor([[True, False, False], [False, False, True]])
    logits = torch.tensor([[9.0, 1.0, -2.0], [0.5, 0.0, -9.0]])
    wanted = torch.stack([torch.tensor([0.0, 1.0, -2.0]).logsumexp(0), torch.tensor([0.0, 0.5, 0.0]).logsumexp(0)]).mean()
    torch.testing.assert_close(matching.mismatched(logits, own), wanted)
    picked = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2]))
    torch.testing.assert_close(matching.told(torch.tensor([9.0, -9.0]), logits, own), picked)
    tokens = torch.tensor([[1, 2], [3, 0], [1, 3]])
    assert torch.equal(matching.owners(tokens[[0, 2]], tokens), own)


def test_the_captions_most_alike_are_found():
    captions = ["a red circle on blue", "one white dog", "a red square on blue", "one white cat"]
    encoder = text.encoder("words", captions)
    bags = encoder.bags(encoder.encode(captions))
    assert bags.shape == (4, 10) and torch.equal(bags.sum(1), torch.tensor([5.0, 3.0, 5.0, 3.0]))
    assert text.alike(bags, 1).flatten().tolist() == [2, 3, 0, 1]


def test_two_ways_to_write_a_caption_are_one_and_one_word_is_enough(tmp_path):
    for i, caption in enumerate(["red", "Red!", "blue", " blue"]):
        Image.new("RGB", (9, 9), "red" if i < 2 else "blue").save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(caption)
    options = text_to_image.Options(data=str(tmp_path), steps=1, matching=1, fused=False, precision="fp32")
    data, library, _ = text_to_image.prepared(options)
    assert library.shape == (2, 2) and torch.equal(data["captions"][0], data["captions"][1])
    text_to_image.SYSTEM.trainer(options).fit(progress_bar=False)
    for name in ("2", "3"):
        (tmp_path / f"{name}.txt").write_text("RED")
    with pytest.raises(ValueError, match="wants pictures with at least two different captions"):
        text_to_image.prepared(dataclasses.replace(options, seed=1))


def test_a_picture_is_told_from_captions_like_its_own_where_the_library_lacks_some():
    options = text_to_image.Options(data="portraits", pictures=300, library=8, steps=2, matching=2, fused=False, precision="fp32")
    data, library, encoder = text_to_image.prepared(options)
    own, near = (encoder.bags(data[name].flatten(0, -2)) for name in ("captions", "near"))
    apart = (near.view(300, text_to_image.NEAR, -1) - own[:, None]).abs().sum(2)
    assert apart.min() > 0 and apart.mean() < 0.7 * (own - own.roll(1, 0)).abs().sum(1).mean()
    others = matching.others_of({name: part[:5] for name, part in data.items()}, library)
    assert others.shape[0] == 8 + 5 * text_to_image.NEAR and torch.equal(others[8:12], data["near"][0])
    trainer = text_to_image.SYSTEM.trainer(options)
    trainer.fit(progress_bar=False)
    assert text_to_image.SYSTEM.drawn(trainer, options).shape == (3, 160, 192)


def test_pictures_of_one_caption_are_held_apart_as_real_ones_are():
    own = torch.eye(3, dtype=torch.bool)[[0, 1, 0, 2]]
    own[3] = False  # a caption that the library lacks
    images, real = torch.zeros(4, 3, 2, 2), torch.zeros(4, 3, 2, 2)
    images[2], images[1], real[2] = 0.5, 7.0, 2.0
    images.requires_grad_()
    found = matching.too_alike(images, real, own)
    assert found.item() == 0.75
    (gradient,) = torch.autograd.grad(found, images)
    assert (gradient[2] < 0).all() and (gradient[0] > 0).all() and not gradient[[1, 3]].any()
    assert matching.too_alike(images, real / 5, own).item() == 0
    assert matching.too_alike(images, real, torch.eye(4, dtype=torch.bool)).item() == 0


def test_networks_hear_the_caption():
    encoder = text.encoder("words", ["a red circle", "a blue square"])
    captions = encoder.encode(["a red circle", "a blue square"])
    generator, discriminator = TextGenerator(encoder.network(32)).eval(), TextDiscriminator(encoder.network(32)).eval()
    latent = torch.randn(1, text_to_image.LATENT).expand(2, -1)
    images = generator(latent, captions)
    assert images.shape == (2, 3, 32, 32) and not torch.allclose(*images)
    features = discriminator.features(images)
    every = discriminator.all_pairs(features, captions)
    torch.testing.assert_close(every.diagonal(), discriminator(images, captions))
    assert not torch.allclose(*every.T)


def test_folders_hold_a_caption_beside_each_picture(tmp_path):
    for i, colour in enumerate(["red", "blue"]):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"all\n{colour}\n")
    images, captions = captioned(tmp_path, 16)
    assert images.shape == (2, 3, 16, 16) and captions == ["all red", "all blue"] and images[0, 0].min() == 255
    (tmp_path / "lone.txt").write_text("nothing")
    with pytest.raises(ValueError, match=r"1 captions without a picture: lone\.txt"):
        captioned(tmp_path)
    (tmp_path / "lone.txt").unlink()
    Image.new("RGB", (4, 4)).save(tmp_path / "bare.png")
    with pytest.raises(ValueError, match=r"1 pictures without a caption \(NAME\.txt\): bare\.png"):
        captioned(tmp_path)
    (tmp_path / "bare.txt").write_text(" ")
    with pytest.raises(ValueError, match=r"captions without a word: bare\.txt"):
        captioned(tmp_path)
    (tmp_path / "bare.txt").write_bytes("schön".encode("latin-1"))
    with pytest.raises(ValueError, match=r"captions that are not UTF-8: bare\.txt"):
        captioned(tmp_path)
    (tmp_path / "bare.txt").write_text("black")
    (tmp_path / "bare.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1 pictures that cannot be read: bare\.png"):
        captioned(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        captioned(tmp_path / "gone")


@pytest.mark.prove
def test_in_a_few_steps_fields_have_the_colour_that_the_caption_says():
    """Of captions asked for, and not of others: the condition reaches the picture."""
    options = text_to_image.Options(steps=60, matching=60, pictures=1500, fused=False, precision="fp32")
    trainer = text_to_image.SYSTEM.trainer(options)
    trainer.fit(progress_bar=False)
    _, wanted = shapes.pictures(60, seed=9)
    fakes = text_to_image.made(trainer, options, shapes.captions(wanted), 3)
    corners = torch.cat([fakes[:, :, :3].flatten(2), fakes[:, :, -3:].flatten(2)], 2).mean(2)
    palette = torch.tensor(list(shapes.COLOURS.values())) / 127.5 - 1
    fields = (corners[:, None] - palette).square().sum(2).argmin(1)
    assert (fields == wanted[:, 3]).float().mean() > 0.7 and (fields == wanted[:, 3].roll(1)).float().mean() < 0.4
    image = text_to_image.SYSTEM.drawn(trainer, options)
    assert image.shape == (3, 160, 192)
    asked = text_to_image.sample(trainer, options, 2, 0, "a small red circle on a blue field")
    assert asked.shape == (2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"words that are not known: 'purpl'"):
        text_to_image.sample(trainer, options, 2, 0, "a small purpl circle on a blue field")


def test_a_folder_of_one_s_own_trains_and_samples(tmp_path):
    for i, colour in enumerate(["red", "blue", "green"] * 8):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"all {colour}")
    options = text_to_image.Options(data=str(tmp_path), steps=2, matching=2, fused=False, precision="fp32")
    trainer = text_to_image.SYSTEM.trainer(options)
    trainer.fit(progress_bar=False)
    assert text_to_image.SYSTEM.figures(trainer, options) == {} and text_to_image.SYSTEM.drawn(trainer, options).shape[0] == 3
    assert text_to_image.sample(trainer, options, 2, 0, "all green").shape == (2, 3, 32, 32)
    with pytest.raises(ValueError, match="words that are not known: 'grey'"):
        text_to_image.sample(trainer, options, 2, 0, "all grey")
    state = trainer.generator.state_dict()
    (tmp_path / "0.txt").write_text("all crimson")  # of as many words, whose ids mean others now
    (tmp_path / "3.txt").write_text("all red")
    other = text_to_image.SYSTEM.trainer(dataclasses.replace(options, seed=1)).generator
    with pytest.raises(ValueError, match="other words than the saved network learned: crimson"):
        other.load_state_dict(state)
