"""Small networks, and a comparison of what two of them give."""

import torch
import torch.nn.functional as F
from torch import nn

import ganfast


def flat(norm=nn.BatchNorm2d) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.ConvTranspose2d(4, 8, 4, 2, 1, bias=False), norm(8), nn.ReLU(True),
        nn.Conv2d(8, 6, 4, 2, 1), norm(6), nn.LeakyReLU(0.2, True),
        nn.Conv2d(6, 2, 3, padding=1), nn.Tanh(),
    )  # fmt: skip


FLAT = [("0", "1", "2"), ("3", "4", "5"), ("6", "7")]


class Unet(nn.Module):
    """The skip keeps what the in-place activation made of x."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.LeakyReLU(0.2, True), nn.Conv2d(4, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU(True), nn.ConvTranspose2d(8, 4, 4, 2, 1),
            nn.BatchNorm2d(4), nn.Dropout(0.5),
        )  # fmt: skip

    def forward(self, x):
        return torch.cat([x, self.model(x)], 1)


class Sized(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Conv2d(4, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        y = F.relu(self.down(x), inplace=True)
        return self.norm(self.up(y, output_size=x.size())).tanh()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return F.relu(self.conv(x))


def x_for(size=8) -> torch.Tensor:
    return torch.randn(3, 4, size, size, generator=torch.Generator().manual_seed(3))


def both(make, *inputs):
    """(the accelerated model's output, the untouched one's)"""
    fast, plain = ganfast.accelerate(make()), make()
    torch.manual_seed(5)
    got = fast(*(x.clone() for x in inputs))
    torch.manual_seed(5)
    return got, plain(*(x.clone() for x in inputs))
