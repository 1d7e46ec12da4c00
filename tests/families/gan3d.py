"""3D-GAN (Wu et al. 2016): volumes, layers as attributes made by a helper."""

import torch
from torch import nn

from tests.families.family import Family, Real, images, noise

cube_len = 16
z_dim = 12
f_dim = 8


class net_G(nn.Module):
    def __init__(self, out_activation="sigmoid", z_dim=z_dim, f_dim=f_dim):
        super().__init__()
        self.out_dim = cube_len
        self.z_dim = z_dim
        self.layer1 = self.conv_layer(z_dim, f_dim * 4, kernel_size=2, stride=2, padding=0, bias=False)
        self.layer2 = self.conv_layer(f_dim * 4, f_dim * 2, kernel_size=4, stride=2, padding=(1, 1, 1), bias=False)
        self.layer3 = self.conv_layer(f_dim * 2, f_dim, kernel_size=4, stride=2, padding=(1, 1, 1), bias=False)
        self.layer4 = nn.Sequential(
            nn.ConvTranspose3d(f_dim, 1, kernel_size=4, stride=2, bias=False, padding=(1, 1, 1)),
            nn.Sigmoid() if out_activation == "sigmoid" else nn.Tanh(),
        )

    def conv_layer(self, input_dim, output_dim, kernel_size=4, stride=2, padding=(1, 1, 1), bias=False):
        layer = nn.Sequential(
            nn.ConvTranspose3d(input_dim, output_dim, kernel_size=kernel_size, stride=stride, bias=bias, padding=padding),
            nn.BatchNorm3d(output_dim),
            nn.ReLU(True),
        )
        return layer

    def forward(self, x):
        out = x.view(-1, self.z_dim, 1, 1, 1)
        out = self.layer1(out)
        out = self.layer2(out)
        out = self.layer3(out)
        out = self.layer4(out)
        out = torch.squeeze(out, 1)
        return out


class net_D(nn.Module):
    def __init__(self, leak_value=0.2):
        super().__init__()
        self.layer1 = self.conv_layer(1, f_dim, leak_value)
        self.layer2 = self.conv_layer(f_dim, f_dim * 2, leak_value)
        self.layer3 = self.conv_layer(f_dim * 2, f_dim * 4, leak_value)
        self.layer4 = nn.Sequential(nn.Conv3d(f_dim * 4, 1, kernel_size=2, stride=2, bias=False, padding=0), nn.Sigmoid())

    def conv_layer(self, input_dim, output_dim, leak_value, kernel_size=4, stride=2, padding=(1, 1, 1), bias=False):
        return nn.Sequential(
            nn.Conv3d(input_dim, output_dim, kernel_size=kernel_size, stride=stride, bias=bias, padding=padding),
            nn.BatchNorm3d(output_dim),
            nn.LeakyReLU(leak_value, inplace=True),
        )

    def forward(self, x):
        out = x.view(-1, 1, cube_len, cube_len, cube_len)
        out = self.layer1(out)
        out = self.layer2(out)
        out = self.layer3(out)
        out = self.layer4(out)
        return out.view(-1)


class UpsampleGenerator(nn.Module):
    """Nearest upsampling in three dimensions, one of them kept."""

    def __init__(self):
        super().__init__()
        self.project = nn.Sequential(nn.Linear(z_dim, f_dim * 4 * 16), nn.Unflatten(1, (f_dim * 4, 4, 2, 2)))
        self.decode = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv3d(f_dim * 4, f_dim, 3, padding=1, bias=False),
            nn.InstanceNorm3d(f_dim, affine=True),
            nn.SiLU(),
            nn.Upsample(scale_factor=(1, 2, 2)),
            nn.Conv3d(f_dim, 1, 3, padding=1),
            nn.Softplus(beta=1.5),
        )

    def forward(self, z):
        return self.decode(self.project(z))


def layers(*ends: int) -> list[tuple[str, ...]]:
    return [tuple(f"layer{i + 1}.{j}" for j in range(end)) for i, end in enumerate(ends)]


ROWS = [
    Family(
        "gan3d-g",
        net_G,
        noise(z_dim),
        layers(3, 3, 3, 2),
        real=Real(
            lambda: net_G(z_dim=200, f_dim=128),
            noise(200),
            4,
            "3D-GAN (Wu et al. 2016): 200 latents, 512 to 128 channels; 16^3 voxels instead of 64^3, batch 100 there",
        ),
    ).with_small(4),
    Family("gan3d-d", net_D, images(cube_len, cube_len, cube_len), layers(3, 3, 3, 2)),
    Family(
        "gan3d-upsample-g", UpsampleGenerator, noise(z_dim), [tuple(f"decode.{i}" for i in range(4)), ("decode.4", "decode.5", "decode.6")]
    ),
]
