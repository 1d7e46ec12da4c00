"""SRGAN (Ledig et al. 2017): residual blocks with PReLU, sub-pixel upsampling, a VGG-like critic."""

import torch
from torch import nn

from tests.families.family import Family, Real, images, numbered


class ResidualBlock(nn.Module):
    def __init__(self, in_features):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.Conv2d(in_features, in_features, kernel_size=3, stride=1, padding=1),
            nn.BatchNorm2d(in_features, 0.8),
            nn.PReLU(),
            nn.Conv2d(in_features, in_features, kernel_size=3, stride=1, padding=1),
            nn.BatchNorm2d(in_features, 0.8),
        )

    def forward(self, x):
        return x + self.conv_block(x)


class GeneratorResNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=3, n_residual_blocks=2, width=8):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(in_channels, width, kernel_size=9, stride=1, padding=4), nn.PReLU())
        res_blocks = []
        for _ in range(n_residual_blocks):
            res_blocks.append(ResidualBlock(width))
        self.res_blocks = nn.Sequential(*res_blocks)
        self.conv2 = nn.Sequential(nn.Conv2d(width, width, kernel_size=3, stride=1, padding=1), nn.BatchNorm2d(width, 0.8))
        upsampling = []
        for _ in range(2):
            upsampling += [
                nn.Conv2d(width, width * 4, 3, 1, 1),
                nn.BatchNorm2d(width * 4),
                nn.PixelShuffle(upscale_factor=2),
                nn.PReLU(width),
            ]
        self.upsampling = nn.Sequential(*upsampling)
        self.conv3 = nn.Sequential(nn.Conv2d(width, out_channels, kernel_size=9, stride=1, padding=4), nn.Tanh())

    def forward(self, x):
        out1 = self.conv1(x)
        out = self.res_blocks(out1)
        out2 = self.conv2(out)
        out = torch.add(out1, out2)
        out = self.upsampling(out)
        out = self.conv3(out)
        return out


class FunctionalResidualBlock(nn.Module):
    """With one slope per channel, and sums written in place."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        residual = self.conv1(x)
        residual = self.bn1(residual)
        residual = self.prelu(residual)
        residual = self.conv2(residual)
        residual = self.bn2(residual)
        residual += x
        return residual


class NearestGenerator(nn.Module):
    """Real-ESRGAN's way: nearest upsampling and leaky relu, blocks by name in a loop."""

    def __init__(self, width=8, n=2):
        super().__init__()
        self.n = n
        self.conv_first = nn.Conv2d(3, width, 3, 1, 1)
        for i in range(n):
            self.add_module("residual_block" + str(i + 1), FunctionalResidualBlock(width))
        self.conv_up1 = nn.Conv2d(width, width, 3, 1, 1)
        self.conv_hr = nn.Conv2d(width, width, 3, 1, 1)
        self.conv_last = nn.Conv2d(width, 3, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(negative_slope=0.2, inplace=True)

    def forward(self, x):
        feat = self.conv_first(x)
        y = feat.clone()
        for i in range(self.n):
            y = self.__getattr__("residual_block" + str(i + 1))(y)
        feat = feat + y
        feat = self.lrelu(self.conv_up1(torch.nn.functional.interpolate(feat, scale_factor=2, mode="nearest")))
        out = self.conv_last(self.lrelu(self.conv_hr(feat)))
        return out


class Discriminator(nn.Module):
    def __init__(self, input_shape=(3, 32, 32), filters=(8, 16)):
        super().__init__()
        self.input_shape = input_shape
        in_channels, in_height, in_width = self.input_shape
        patch_h, patch_w = int(in_height / 2 ** len(filters)), int(in_width / 2 ** len(filters))
        self.output_shape = (1, patch_h, patch_w)

        def discriminator_block(in_filters, out_filters, first_block=False):
            layers = []
            layers.append(nn.Conv2d(in_filters, out_filters, kernel_size=3, stride=1, padding=1))
            if not first_block:
                layers.append(nn.BatchNorm2d(out_filters))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            layers.append(nn.Conv2d(out_filters, out_filters, kernel_size=3, stride=2, padding=1))
            layers.append(nn.BatchNorm2d(out_filters))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            return layers

        layers = []
        in_filters = in_channels
        for i, out_filters in enumerate(filters):
            layers.extend(discriminator_block(in_filters, out_filters, first_block=(i == 0)))
            in_filters = out_filters
        layers.append(nn.Conv2d(out_filters, 1, kernel_size=3, stride=1, padding=1))
        self.model = nn.Sequential(*layers)

    def forward(self, img):
        return self.model(img)


class PooledDiscriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, kernel_size=3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8, 16, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.LeakyReLU(0.2),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(16, 32, kernel_size=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(32, 1, kernel_size=1),
        )

    def forward(self, x):
        batch_size = x.size(0)
        return torch.sigmoid(self.net(x).view(batch_size))


_RES = [group for i in range(2) for group in numbered(f"res_blocks.{i}.conv_block", "0 1 2", "3 4 add()")]
_FUNCTIONAL_RES = [group for i in (1, 2) for group in numbered(f"residual_block{i}", "conv1 bn1 prelu", "conv2 bn2 add()")]

ROWS = [
    Family(
        "srgan-g",
        GeneratorResNet,
        images(3, 8, 8),
        [
            ("conv1.0", "conv1.1"),
            *_RES,
            ("conv2.0", "conv2.1", "add()"),
            ("upsampling.0", "upsampling.1"),
            ("upsampling.4", "upsampling.5"),
            ("conv3.0", "conv3.1"),
        ],
        real=Real(
            lambda: GeneratorResNet(n_residual_blocks=16, width=64),
            images(3, 24, 24),
            1,
            "SRGAN (Ledig et al. 2017): 16 blocks of 64 channels, 24x24 to 96x96; batch 16 there",
        ),
    ).with_small(1),
    Family(
        "srgan-nearest-g",
        NearestGenerator,
        images(3, 8, 8),
        [("conv_first",), *_FUNCTIONAL_RES, ("interpolate()", "conv_up1", "lrelu"), ("conv_hr", "lrelu"), ("conv_last",)],
    ),
    Family(
        "srgan-d",
        Discriminator,
        images(3, 32, 32),
        numbered("model", "0 1", "2 3 4", "5 6 7", "8 9 10", "11"),
        real=Real(
            lambda: Discriminator((3, 96, 96), (64, 128, 256, 512)),
            images(3, 96, 96),
            1,
            "SRGAN (Ledig et al. 2017): 64 to 512 channels, 96x96, ends in a convolution as in PyTorch-GAN; batch 16 there",
        ),
    ),
    Family("srgan-pooled-d", PooledDiscriminator, images(3, 16, 16), numbered("net", "0 1", "2 3 4", "6 7", "8")),
]
