"""CycleGAN (Zhu et al. 2017): padding modules, instance norm, residual blocks, ConvTranspose with output_padding."""

import torch.nn.functional as F
from torch import nn

from tests.families.family import Family, Real, images, numbered


class ResidualBlock(nn.Module):
    def __init__(self, in_features):
        super().__init__()
        conv_block = [
            nn.ReflectionPad2d(1),
            nn.Conv2d(in_features, in_features, 3),
            nn.InstanceNorm2d(in_features),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(in_features, in_features, 3),
            nn.InstanceNorm2d(in_features),
        ]
        self.conv_block = nn.Sequential(*conv_block)

    def forward(self, x):
        return x + self.conv_block(x)


class Generator(nn.Module):
    def __init__(self, input_nc=3, output_nc=3, n_residual_blocks=2, ngf=8):
        super().__init__()
        model = [nn.ReflectionPad2d(3), nn.Conv2d(input_nc, ngf, 7), nn.InstanceNorm2d(ngf), nn.ReLU(inplace=True)]

        in_features = ngf
        out_features = in_features * 2
        for _ in range(2):
            model += [
                nn.Conv2d(in_features, out_features, 3, stride=2, padding=1),
                nn.InstanceNorm2d(out_features),
                nn.ReLU(inplace=True),
            ]
            in_features = out_features
            out_features = in_features * 2

        for _ in range(n_residual_blocks):
            model += [ResidualBlock(in_features)]

        out_features = in_features // 2
        for _ in range(2):
            model += [
                nn.ConvTranspose2d(in_features, out_features, 3, stride=2, padding=1, output_padding=1),
                nn.InstanceNorm2d(out_features),
                nn.ReLU(inplace=True),
            ]
            in_features = out_features
            out_features = in_features // 2

        model += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, output_nc, 7), nn.Tanh()]
        self.model = nn.Sequential(*model)

    def forward(self, x):
        return self.model(x)


class Discriminator(nn.Module):
    def __init__(self, input_nc=3, ndf=8):
        super().__init__()
        model = [nn.Conv2d(input_nc, ndf, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        model += [
            nn.Conv2d(ndf, ndf * 2, 4, stride=2, padding=1),
            nn.InstanceNorm2d(ndf * 2),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        model += [nn.Conv2d(ndf * 2, ndf * 4, 4, padding=1), nn.InstanceNorm2d(ndf * 4), nn.LeakyReLU(0.2, inplace=True)]
        model += [nn.Conv2d(ndf * 4, 1, 4, padding=1)]
        self.model = nn.Sequential(*model)

    def forward(self, x):
        x = self.model(x)
        return F.avg_pool2d(x, x.size()[2:]).view(x.size()[0], -1)


_BLOCKS = [group for i in (10, 11) for group in numbered(f"model.{i}.conv_block", "1 2 3", "5 6 add()")]

ROWS = [
    Family(
        "cyclegan-g",
        Generator,
        images(3, 32, 32),
        [*numbered("model", "1 2 3", "4 5 6", "7 8 9"), *_BLOCKS, *numbered("model", "12 13 14", "15 16 17", "19 20")],
        batch=2,
        real=Real(
            lambda: Generator(n_residual_blocks=6, ngf=64),
            images(3, 64, 64),
            1,
            "CycleGAN (Zhu et al. 2017), 64 to 256 channels, 6 blocks, batch 1; 64x64 instead of 128x128",
        ),
    ).with_small(1),
    Family("cyclegan-d", Discriminator, images(3, 32, 32), numbered("model", "0 1", "2 3 4", "5 6 7", "8")),
]
