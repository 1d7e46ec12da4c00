"""DCGAN (Radford et al. 2015): one flat Sequential as in tutorials, and Sequentials of blocks."""

import torch
from torch import nn

from tests.families.family import Family, Real, images, noise, numbered

nc = 3
nz = 16
ngf = 8
ndf = 8


def weights_init(m):
    classname = m.__class__.__name__
    if classname.find("Conv") != -1:
        nn.init.normal_(m.weight.data, 0.0, 0.02)
    elif classname.find("BatchNorm") != -1:
        nn.init.normal_(m.weight.data, 1.0, 0.02)
        nn.init.constant_(m.bias.data, 0)


class Generator(nn.Module):
    def __init__(self, nz=nz, ngf=ngf):
        super().__init__()
        self.main = nn.Sequential(
            # latent -> 4x4
            nn.ConvTranspose2d(nz, ngf * 4, 4, 1, 0, bias=False),
            nn.BatchNorm2d(ngf * 4),
            nn.ReLU(True),
            # 8x8
            nn.ConvTranspose2d(ngf * 4, ngf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf * 2),
            nn.ReLU(True),
            # 16x16
            nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf),
            nn.ReLU(True),
            # 32x32
            nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, input):
        return self.main(input)


class Discriminator(nn.Module):
    def __init__(self, ndf=ndf):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(nc, ndf, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 2, ndf * 4, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 4),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 4, 1, 4, 1, 0, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, input):
        return self.main(input).view(-1, 1).squeeze(1)


class BlockGenerator(nn.Module):
    def __init__(self, channels_noise=nz, channels_img=nc, features_g=ngf):
        super().__init__()
        self.net = nn.Sequential(
            self._block(channels_noise, features_g * 4, 4, 1, 0),
            self._block(features_g * 4, features_g * 2, 4, 2, 1),
            self._block(features_g * 2, features_g, 4, 2, 1),
            nn.ConvTranspose2d(features_g, channels_img, kernel_size=4, stride=2, padding=1),
            nn.Tanh(),
        )

    def _block(self, in_channels, out_channels, kernel_size, stride, padding):
        return nn.Sequential(
            nn.ConvTranspose2d(in_channels, out_channels, kernel_size, stride, padding, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    def forward(self, x):
        return self.net(x)


class BlockDiscriminator(nn.Module):
    """Blocks end in their norm; the activation, one instance for all, comes after each block, across its border."""

    def __init__(self, channels_img=nc, features_d=ndf):
        super().__init__()
        act = nn.LeakyReLU(0.2)
        layers = [nn.Conv2d(channels_img, features_d, 4, 2, 1), act]
        for i in range(2):
            layers += [self._block(features_d << i, features_d << (i + 1)), act]
        layers += [nn.Conv2d(features_d * 4, 1, kernel_size=4, stride=2, padding=0), nn.Flatten()]
        self.disc = nn.Sequential(*layers)
        self.apply(weights_init)

    def _block(self, in_channels, out_channels):
        return nn.Sequential(nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, x):
        return self.disc(x)


class FunctionalGenerator(nn.Module):
    """The same network with its activations in forward, by functions, by a method, and in place."""

    def __init__(self, d=ngf):
        super().__init__()
        self.deconv1 = nn.ConvTranspose2d(nz, d * 4, 4, 1, 0)
        self.deconv1_bn = nn.BatchNorm2d(d * 4)
        self.deconv2 = nn.ConvTranspose2d(d * 4, d * 2, 4, 2, 1)
        self.deconv2_bn = nn.BatchNorm2d(d * 2)
        self.deconv3 = nn.ConvTranspose2d(d * 2, d, 4, 2, 1)
        self.deconv3_bn = nn.BatchNorm2d(d)
        self.deconv4 = nn.ConvTranspose2d(d, nc, 4, 2, 1)

    def weight_init(self, mean, std):
        for m in self._modules:
            if isinstance(self._modules[m], nn.ConvTranspose2d):
                self._modules[m].weight.data.normal_(mean, std)
                self._modules[m].bias.data.zero_()
        return self

    def forward(self, input):
        x = nn.functional.relu(self.deconv1_bn(self.deconv1(input)))
        x = self.deconv2_bn(self.deconv2(x)).relu()
        x = nn.functional.relu(self.deconv3_bn(self.deconv3(x)), inplace=True)
        x = torch.tanh(self.deconv4(x))
        return x


ROWS = [
    Family(
        "dcgan-flat-g",
        lambda: Generator().apply(weights_init),
        noise(nz, 1, 1),
        numbered("main", "0 1 2", "3 4 5", "6 7 8", "9 10"),
        real=Real(
            lambda: Generator(100, 128).apply(weights_init),
            noise(100, 1, 1),
            8,
            "DCGAN (Radford et al. 2015), figure 1 from its 512 channels on: 100 latents, 512 to 128 channels, 32x32; batch 128 there",
        ),
    ).with_small(4),
    Family(
        "dcgan-flat-d",
        lambda: Discriminator().apply(weights_init),
        images(nc, 32, 32),
        numbered("main", "0 1", "2 3 4", "5 6 7", "8 9"),
        real=Real(
            lambda: Discriminator(128).apply(weights_init),
            images(nc, 32, 32),
            8,
            "DCGAN (Radford et al. 2015), its critic to 512 channels: 128 to 512, 32x32; batch 128 there",
        ),
    ),
    Family("dcgan-blocks-g", BlockGenerator, noise(nz, 1, 1), numbered("net", "0.0 0.1 0.2", "1.0 1.1 1.2", "2.0 2.1 2.2", "3 4")),
    Family("dcgan-blocks-d", BlockDiscriminator, images(nc, 32, 32), numbered("disc", "0 1", "2.0 2.1 3", "4.0 4.1 5", "6")),
    Family(
        "dcgan-functional-g",
        lambda: FunctionalGenerator().weight_init(mean=0.0, std=0.02),
        noise(nz, 1, 1),
        [
            ("deconv1", "deconv1_bn", "relu()"),
            ("deconv2", "deconv2_bn", "relu()"),
            ("deconv3", "deconv3_bn", "relu()"),
            ("deconv4", "tanh()"),
        ],
    ),
]
