"""WGAN-GP (Gulrajani et al. 2017): Sequentials as attributes, a linear map in front, critics without batch norm."""

import torch
from torch import nn

from tests.families.family import Family, Real, images, noise, numbered

DIM = 8
LATENT = 16


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        preprocess = nn.Sequential(
            nn.Linear(LATENT, 4 * 4 * 4 * DIM),
            nn.BatchNorm1d(4 * 4 * 4 * DIM),
            nn.ReLU(True),
        )
        block1 = nn.Sequential(
            nn.ConvTranspose2d(4 * DIM, 2 * DIM, 2, stride=2),
            nn.BatchNorm2d(2 * DIM),
            nn.ReLU(True),
        )
        block2 = nn.Sequential(
            nn.ConvTranspose2d(2 * DIM, DIM, 2, stride=2),
            nn.BatchNorm2d(DIM),
            nn.ReLU(True),
        )
        deconv_out = nn.ConvTranspose2d(DIM, 3, 2, stride=2)

        self.preprocess = preprocess
        self.block1 = block1
        self.block2 = block2
        self.deconv_out = deconv_out
        self.tanh = nn.Tanh()

    def forward(self, input):
        output = self.preprocess(input)
        output = output.view(-1, 4 * DIM, 4, 4)
        output = self.block1(output)
        output = self.block2(output)
        output = self.deconv_out(output)
        output = self.tanh(output)
        return output.view(-1, 3, 32, 32)


class Critic(nn.Module):
    def __init__(self, dim=DIM):
        super().__init__()
        self.dim = dim
        main = nn.Sequential(
            nn.Conv2d(3, dim, 3, 2, padding=1),
            nn.LeakyReLU(),
            nn.Conv2d(dim, 2 * dim, 3, 2, padding=1),
            nn.LeakyReLU(),
            nn.Conv2d(2 * dim, 4 * dim, 3, 2, padding=1),
            nn.LeakyReLU(),
        )
        self.main = main
        self.linear = nn.Linear(4 * 4 * 4 * dim, 1)

    def forward(self, input):
        output = self.main(input)
        output = output.view(-1, 4 * 4 * 4 * self.dim)
        output = self.linear(output)
        return output


class InstanceNormCritic(nn.Module):
    """Conditioned by a plane of the label's embedding."""

    def __init__(self, num_classes=5, img_size=32):
        super().__init__()
        self.img_size = img_size
        self.embed = nn.Embedding(num_classes, img_size * img_size)
        self.disc = nn.Sequential(
            nn.Conv2d(3 + 1, DIM, kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            self._block(DIM, DIM * 2, 4, 2, 1),
            self._block(DIM * 2, DIM * 4, 4, 2, 1),
            nn.Conv2d(DIM * 4, 1, kernel_size=4, stride=2, padding=0),
        )

    def _block(self, in_channels, out_channels, kernel_size, stride, padding):
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False),
            nn.InstanceNorm2d(out_channels, affine=True),
            nn.LeakyReLU(0.2),
        )

    def forward(self, x, labels):
        embedding = self.embed(labels).view(labels.shape[0], 1, self.img_size, self.img_size)
        x = torch.cat([x, embedding], dim=1)
        return self.disc(x)


ROWS = [
    Family(
        "wgan-gp-g",
        Generator,
        noise(LATENT),
        [("preprocess.1", "preprocess.2"), *numbered("block1", "0 1 2"), *numbered("block2", "0 1 2"), ("deconv_out", "tanh")],
    ),
    Family(
        "wgan-gp-d",
        Critic,
        images(3, 32, 32),
        numbered("main", "0 1", "2 3", "4 5"),
        real=Real(
            lambda: Critic(128), images(3, 32, 32), 16, "WGAN-GP (Gulrajani et al. 2017) for CIFAR-10: 128 to 512 channels; batch 64 there"
        ),
    ).with_small(4),
    Family(
        "wgan-gp-conditional-d",
        InstanceNormCritic,
        lambda n: (torch.rand(n, 3, 32, 32) * 2 - 1, torch.randint(0, 5, (n,))),
        numbered("disc", "0 1", "2.0 2.1 2.2", "3.0 3.1 3.2", "4"),
    ),
]
