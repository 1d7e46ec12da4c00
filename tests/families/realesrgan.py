"""Real-ESRGAN (Wang et al. 2021): a critic as a U-Net with spectral norm, dense blocks with scaled residuals, and the compact network
that works at the lower resolution to the end."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm

from tests.families.family import Family, Real, images, numbered


class UNetDiscriminator(nn.Module):
    """A verdict for every pixel; down by strides, up by bilinear upsampling, with sums as skip connections."""

    def __init__(self, num_in_ch=3, num_feat=8, skip_connection=True):
        super().__init__()
        self.skip_connection = skip_connection
        self.conv0 = nn.Conv2d(num_in_ch, num_feat, kernel_size=3, stride=1, padding=1)
        down = lambda i: spectral_norm(nn.Conv2d(num_feat << i, num_feat << (i + 1), 4, 2, 1, bias=False))
        same = lambda c_in, c_out: spectral_norm(nn.Conv2d(c_in, c_out, 3, 1, 1, bias=False))
        self.conv1, self.conv2, self.conv3 = down(0), down(1), down(2)
        self.conv4, self.conv5, self.conv6 = (same(num_feat << i, num_feat << (i - 1)) for i in (3, 2, 1))
        self.conv7, self.conv8 = same(num_feat, num_feat), same(num_feat, num_feat)
        self.conv9 = nn.Conv2d(num_feat, 1, 3, 1, 1)

    def forward(self, x):
        x0 = F.leaky_relu(self.conv0(x), negative_slope=0.2, inplace=True)
        x1 = F.leaky_relu(self.conv1(x0), negative_slope=0.2, inplace=True)
        x2 = F.leaky_relu(self.conv2(x1), negative_slope=0.2, inplace=True)
        out = F.leaky_relu(self.conv3(x2), negative_slope=0.2, inplace=True)
        for conv, skip in ((self.conv4, x2), (self.conv5, x1), (self.conv6, x0)):
            out = F.interpolate(out, scale_factor=2, mode="bilinear", align_corners=False)
            out = F.leaky_relu(conv(out), negative_slope=0.2, inplace=True)
            if self.skip_connection:
                out = out + skip
        out = F.leaky_relu(self.conv7(out), negative_slope=0.2, inplace=True)
        out = F.leaky_relu(self.conv8(out), negative_slope=0.2, inplace=True)
        return self.conv9(out)


class CompactGenerator(nn.Module):
    """Learns what to add to the nearest upsampling; one slope per channel."""

    def __init__(self, num_feat=8, num_conv=2, upscale=2):
        super().__init__()
        self.upscale = upscale
        self.body = nn.ModuleList()
        self.body.append(nn.Conv2d(3, num_feat, 3, 1, 1))
        self.body.append(nn.PReLU(num_parameters=num_feat))
        for _ in range(num_conv):
            self.body.append(nn.Conv2d(num_feat, num_feat, 3, 1, 1))
            self.body.append(nn.PReLU(num_parameters=num_feat))
        self.body.append(nn.Conv2d(num_feat, 3 * upscale * upscale, 3, 1, 1))
        self.upsampler = nn.PixelShuffle(upscale)

    def forward(self, x):
        out = x
        for layer in self.body:
            out = layer(out)
        out = self.upsampler(out)
        out += F.interpolate(x, scale_factor=self.upscale, mode="nearest")
        return out


class DenseBlock(nn.Module):
    """Every convolution sees what all before it gave."""

    def __init__(self, channels, growth):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(channels + i * growth, growth if i < 4 else channels, 3, 1, 1) for i in range(5)])
        self.lrelu = nn.LeakyReLU(negative_slope=0.2, inplace=True)

    def forward(self, x):
        seen = [x]
        for conv in self.convs[:-1]:
            seen.append(self.lrelu(conv(torch.cat(seen, 1))))
        return self.convs[-1](torch.cat(seen, 1)) * 0.2 + x


class RRDB(nn.Module):
    def __init__(self, channels, growth, blocks):
        super().__init__()
        self.blocks = nn.Sequential(*[DenseBlock(channels, growth) for _ in range(blocks)])

    def forward(self, x):
        return self.blocks(x) * 0.2 + x


class RRDBNet(nn.Module):
    def __init__(self, num_feat=8, num_block=1, num_grow_ch=4, dense=2):
        super().__init__()
        self.conv_first = nn.Conv2d(3, num_feat, 3, 1, 1)
        self.body = nn.Sequential(*[RRDB(num_feat, num_grow_ch, dense) for _ in range(num_block)])
        self.conv_body = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_up1 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_up2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(num_feat, 3, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(negative_slope=0.2, inplace=True)

    def forward(self, x):
        feat = self.conv_first(x)
        feat = feat + self.conv_body(self.body(feat))
        for conv in (self.conv_up1, self.conv_up2):
            feat = self.lrelu(conv(F.interpolate(feat, scale_factor=2, mode="nearest")))
        return self.conv_last(self.lrelu(self.conv_hr(feat)))


def _dense(path: str) -> list[tuple[str, ...]]:
    """What is added is not multiplied by 0.2."""
    return [*((f"{path}.convs.{i}", f"{path}.lrelu") for i in range(4)), (f"{path}.convs.4", "mul()", "add()")]


ROWS = [
    Family(
        "realesrgan-unet-d",
        UNetDiscriminator,
        images(3, 16, 16),
        [*((f"conv{i}", "leaky_relu()", *(["add()"] if i in (4, 5, 6) else [])) for i in range(9)), ("conv9",)],
        batch=2,
        half="autocast",
        real=Real(
            lambda: UNetDiscriminator(num_feat=64),
            images(3, 64, 64),
            1,
            "Real-ESRGAN (Wang et al. 2021), U-Net of 64 to 512 channels; 64x64, there 256x256, batch 12 a GPU",
        ),
    ),
    Family(
        "realesrgan-compact-g",
        CompactGenerator,
        images(3, 8, 8),
        numbered("body", "0 1", "2 3", "4 5", "6"),
        real=Real(
            lambda: CompactGenerator(64, 16, 4),
            images(3, 64, 64),
            1,
            "Real-ESRGAN's realesr-animevideov3: 64 channels, 16 convolutions, 64x64 to 256x256",
        ),
    ).with_small(4),
    Family(
        "realesrgan-rrdb-g",
        RRDBNet,
        images(3, 6, 6),
        [
            ("conv_first",),
            *_dense("body.0.blocks.0"),
            *_dense("body.0.blocks.1")[:-1],
            ("body.0.blocks.1.convs.4", "mul()", "add()", "mul()"),  # the block's 0.2; a group adds one residual
            ("conv_body", "add()"),
            ("interpolate()", "conv_up1", "lrelu"),
            ("interpolate()", "conv_up2", "lrelu"),
            ("conv_hr", "lrelu"),
            ("conv_last",),
        ],
        batch=2,
        real=Real(
            lambda: RRDBNet(64, 4, 32, 3),
            images(3, 32, 32),
            1,
            "ESRGAN (Wang et al. 2018): 64 channels growing by 32; 4 blocks, there 23; 32x32 to 128x128, batch 16 there",
        ),
    ),
]
