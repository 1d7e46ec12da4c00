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
