"""What is said of an error in the first step."""

import pytest
import torch
from torch import nn

from ganfast.models.cyclegan import PatchDiscriminator
from ganfast.train import TrainConfig, Trainer, autoencoding


@pytest.mark.parametrize("start", [1, 5])
def test_a_discriminator_too_deep_for_the_images_is_told_with_its_call(tmp_path, start):
    """Torch's norms raise a ValueError where an image has shrunk to one pixel."""
    network = nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1))
    images = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8)
    config = TrainConfig(steps=3, batch_size=4, loss="hinge", run_dir=str(tmp_path), device="cpu")
    trainer = Trainer(network, PatchDiscriminator(3, 8, 3), images, config, objective=autoencoding(config, start=start))
    with pytest.raises(RuntimeError, match=r"Expected more than 1 .*the discriminator with \[4, 3, 16, 16\]"):
        trainer.fit(progress_bar=False)


def _index(image):
    return [image][3]


PERCEPTUAL = {
    "colours": (nn.Conv2d(3, 4, 3), r"expected input\[4, 1, 16, 16\] to have 3 channels.*perceptual is called.*expand\(-1, 3"),
    "a loss": (lambda made, true: made @ true.flatten(1), r"perceptual is called with \[4, 1, 16, 16\] twice"),
    "torch's ValueError": (nn.BatchNorm1d(1), r"expected 2D or 3D input.*perceptual is called"),
    "an index": (_index, r"list index out of range.*perceptual is called"),
}


@pytest.mark.parametrize("name", PERCEPTUAL)
def test_an_error_inside_the_perceptual_network_is_told_as_one(name):
    given, words = PERCEPTUAL[name]
    config = TrainConfig(steps=3, batch_size=4, loss="hinge", device="cpu", fused=False)
    pair, images = (nn.Conv2d(1, 1, 3, 1, 1), PatchDiscriminator(1, 8, 1)), torch.randint(0, 256, (16, 1, 16, 16), dtype=torch.uint8)
    trainer = Trainer(*pair, images, config, objective=autoencoding(config, perceptual=given))
    with pytest.raises(RuntimeError, match=f"train: the first update failed in perceptual: .*{words}") as caught:
        trainer.step()
    assert "generator" not in str(caught.value) and caught.value.__cause__ is not None


def test_an_error_beside_the_perceptual_network_is_not_told_as_one():
    config = TrainConfig(steps=3, batch_size=4, loss="hinge", device="cpu", fused=False)
    images = torch.randint(0, 256, (16, 1, 16, 16), dtype=torch.uint8)
    objective = autoencoding(config, perceptual=nn.Conv2d(1, 4, 3))
    trainer = Trainer(nn.Conv2d(3, 1, 3, 1, 1), PatchDiscriminator(1, 8, 1), images, config, objective=objective)
    with pytest.raises(RuntimeError, match="the generator is called with the images") as caught:
        trainer.step()
    assert "perceptual" not in str(caught.value)
