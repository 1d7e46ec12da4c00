"""LSGAN (Mao et al. 2017) in the manner of collections of GANs: Linear, then Upsample and Conv; a critic with dropout."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.families.family import Family, Real, images, noise, numbered

img_size = 32
latent_dim = 16
channels = 1


class Generator(nn.Module):
    def __init__(self, latent_dim=latent_dim, width=16):
        super().__init__()
        self.width = width
        self.init_size = img_size // 4
        self.l1 = nn.Sequential(nn.Linear(latent_dim, width * self.init_size**2))

        self.conv_blocks = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, stride=1, padding=1),
            nn.BatchNorm2d(width, 0.8),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width // 2, 3, stride=1, padding=1),
            nn.BatchNorm2d(width // 2, 0.8),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width // 2, channels, 3, stride=1, padding=1),
            nn.Tanh(),
        )

    def forward(self, z):
        out = self.l1(z)
        out = out.view(out.shape[0], self.width, self.init_size, self.init_size)
        img = self.conv_blocks(out)
        return img


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()

        def discriminator_block(in_filters, out_filters, bn=True):
            block = [nn.Conv2d(in_filters, out_filters, 3, 2, 1), nn.LeakyReLU(0.2, inplace=True), nn.Dropout2d(0.25)]
            if bn:
                block.append(nn.BatchNorm2d(out_filters, 0.8))
            return block

        self.model = nn.Sequential(
            *discriminator_block(channels, 4, bn=False),
            *discriminator_block(4, 8),
            *discriminator_block(8, 16),
        )
        ds_size = img_size // 2**3
        self.adv_layer = nn.Linear(16 * ds_size**2, 1)

    def forward(self, img):
        out = self.model(img)
        out = out.view(out.shape[0], -1)
        validity = self.adv_layer(out)
        return validity


class BilinearGenerator(nn.Module):
    """Resize, then convolve: what counts as an upsampling here is the nearest one alone, and only before stride 1."""

    def __init__(self, c=8):
        super().__init__()
        self.start = nn.Linear(latent_dim, c * 16)
        self.body = nn.Sequential(
            nn.Unflatten(1, (c, 4, 4)),
            nn.BatchNorm2d(c),
            nn.ELU(),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(c, c, 3, padding=1),
            nn.BatchNorm2d(c, momentum=0.3),
            nn.ELU(0.7, inplace=True),
            nn.UpsamplingNearest2d(scale_factor=4),
            nn.Conv2d(c, c, 3, stride=2, padding=1),
            nn.SELU(),
            nn.Upsample(scale_factor=(2, 2), mode="nearest"),
            nn.ReflectionPad2d(1),
            nn.Conv2d(c, c, 3),
            nn.InstanceNorm2d(c),
            nn.GELU(),
            nn.Conv2d(c, channels, 1, bias=False),
        )

    def forward(self, z):
        return self.body(self.start(z)).sigmoid()


class FunctionalDiscriminator(nn.Module):
    """Every activation by a function, with its own defaults or by position."""

    def __init__(self, c=4):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, c, 3, padding=1)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1)
        self.conv3 = nn.Conv2d(c, 2 * c, 4, 2, 1)
        self.norm3 = nn.InstanceNorm2d(2 * c, affine=True)
        self.conv4 = nn.Conv2d(2 * c, 2 * c, 3, padding=1)
        self.norm4 = nn.BatchNorm2d(2 * c)
        self.conv5 = nn.Conv2d(2 * c, 2 * c, 3, padding=1)
        self.conv6 = nn.Conv2d(2 * c, 2 * c, 3, padding=1)
        self.slope = nn.Parameter(torch.full((2 * c,), 0.3))
        self.conv7 = nn.Conv2d(2 * c, 2 * c, 3, padding=1)
        self.conv8 = nn.Conv2d(2 * c, 1, 8)

    def forward(self, x):
        x = F.leaky_relu(self.conv1(x))
        x = F.elu(self.conv2(x), 0.5)
        x = F.silu(self.norm3(self.conv3(x)))
        x = F.softplus(self.norm4(self.conv4(x)), beta=2)
        x = F.gelu(self.conv5(x))
        x = F.prelu(self.conv6(x), self.slope)
        x = F.elu(F.selu(self.conv7(x)))
        return torch.sigmoid(self.conv8(x)).flatten(1)


ROWS = [
    Family(
        "lsgan-g",
        Generator,
        noise(latent_dim),
        numbered("conv_blocks", "0 1 2 3", "4 5 6 7", "8 9"),
        real=Real(
            lambda: Generator(100, 128),
            noise(100),
            8,
            "LSGAN (Mao et al. 2017) as in PyTorch-GAN (lsgan.py): 100 latents, 128 and 64 channels, 32x32; batch 64 there",
        ),
    ).with_small(4),
    Family("lsgan-d", Discriminator, images(channels, 32, 32), numbered("model", "0 1", "3 4", "6", "7 8", "10")),
    Family(
        "functional-d",
        FunctionalDiscriminator,
        images(channels, 16, 16),
        [
            ("conv1", "leaky_relu()"),
            ("conv2", "elu()"),
            ("conv3", "norm3", "silu()"),
            ("conv4", "norm4", "softplus()"),
            ("conv5", "gelu()"),
            ("conv6", "prelu()"),
            ("conv7", "selu()"),
            ("conv8", "sigmoid()"),
        ],
    ),
    Family("resize-g", BilinearGenerator, noise(latent_dim), numbered("body", "1 2", "4 5 6", "8 9", "12 13 14", "15 sigmoid()")),
]
