"""Class-conditional GANs: norms whose scale and shift come from the class (de Vries et al. 2017), a projection critic (Miyato 2018)."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from tests.families.family import Family, Groups, Real

n_class = 5


class ConditionalBatchNorm2d(nn.Module):
    def __init__(self, num_features, num_classes):
        super().__init__()
        self.num_features = num_features
        self.bn = nn.BatchNorm2d(num_features, affine=False)
        self.embed = nn.Embedding(num_classes, num_features * 2)
        self.embed.weight.data[:, :num_features].normal_(1, 0.02)
        self.embed.weight.data[:, num_features:].zero_()

    def forward(self, x, y):
        out = self.bn(x)
        gamma, beta = self.embed(y).chunk(2, 1)
        out = gamma.view(-1, self.num_features, 1, 1) * out + beta.view(-1, self.num_features, 1, 1)
        return out


def _upsample(x):
    h, w = x.size()[2:]
    return F.interpolate(x, size=(h * 2, w * 2), mode="bilinear", align_corners=False)


class Block(nn.Module):
    def __init__(self, in_ch, out_ch, ksize=3, pad=1, activation=F.relu, upsample=True, num_classes=n_class):
        super().__init__()
        self.activation = activation
        self.upsample = upsample
        self.c1 = nn.Conv2d(in_ch, out_ch, ksize, 1, pad)
        self.c2 = nn.Conv2d(out_ch, out_ch, ksize, 1, pad)
        self.b1 = ConditionalBatchNorm2d(in_ch, num_classes)
        self.b2 = ConditionalBatchNorm2d(out_ch, num_classes)
        self.c_sc = nn.Conv2d(in_ch, out_ch, 1)

    def forward(self, x, y=None):
        return self.shortcut(x) + self.residual(x, y)

    def shortcut(self, x):
        return self.c_sc(F.interpolate(x, scale_factor=2, mode="nearest"))

    def residual(self, x, y=None):
        h = self.b1(x, y)
        h = self.activation(h)
        h = self.c1(F.interpolate(h, None, 2, "nearest")) if self.upsample == "nearest" else self.c1(_upsample(h))
        h = self.b2(h, y)
        return self.c2(self.activation(h))


class ResNetGenerator(nn.Module):
    def __init__(self, num_features=8, dim_z=12, bottom_width=4, upsample="nearest", num_classes=n_class):
        super().__init__()
        self.num_features, self.dim_z, self.bottom_width = num_features, dim_z, bottom_width
        self.l1 = nn.Linear(dim_z, 2 * num_features * bottom_width**2)
        self.block2 = Block(num_features * 2, num_features, upsample=upsample, num_classes=num_classes)
        self.block3 = Block(num_features, num_features, upsample=upsample, num_classes=num_classes)
        self.b4 = nn.BatchNorm2d(num_features)
        self.conv4 = nn.Conv2d(num_features, 3, 3, 1, 1)

    def forward(self, z, y=None):
        h = self.l1(z).view(z.size(0), -1, self.bottom_width, self.bottom_width)
        for i in range(2, 4):
            h = getattr(self, f"block{i}")(h, y)
        h = torch.relu(self.b4(h))
        return torch.tanh(self.conv4(h))


class ProjectionDiscriminator(nn.Module):
    def __init__(self, num_features=8, num_classes=n_class, activation=F.relu):
        super().__init__()
        self.activation = activation
        self.first = spectral_norm(nn.Conv2d(3, num_features, 3, 1, 1))
        self.blocks = nn.ModuleList(
            [spectral_norm(nn.Conv2d(num_features << i, num_features << (i + 1), 4, stride=2, padding=1)) for i in range(2)]
        )
        self.l5 = spectral_norm(nn.Linear(num_features * 4, 1))
        self.l_y = spectral_norm(nn.Embedding(num_classes, num_features * 4))

    def forward(self, x, y=None):
        h = self.first(x)
        for block in self.blocks:
            h = block(self.activation(h))
        h = self.activation(h)
        h = torch.sum(h, dim=(2, 3))
        output = self.l5(h)
        if y is not None:
            output = output + torch.sum(self.l_y(y) * h, dim=1, keepdim=True)
        return output


def generator_groups(upsample: bool) -> Groups:
    """The scale and shift behind a norm are each sample's own. The sum is the shortcut's, which comes first."""
    groups: Groups = []
    for block in ("block2", "block3"):
        up = ("interpolate()",) if upsample else ()
        first = (*up, f"{block}.c1", f"{block}.b2.bn", "mul()", "relu()")
        groups += [("interpolate()", f"{block}.c_sc", "add()"), (f"{block}.b1.bn", "mul()", "relu()"), first, (f"{block}.c2",)]
    return [*groups, ("b4", "relu()"), ("conv4", "tanh()")]


def labelled(*size: int):
    return lambda batch: (torch.rand(batch, *size) * 2 - 1, torch.randint(0, n_class, (batch,)))


ROWS = [
    Family(
        "conditional-bn-g",
        ResNetGenerator,
        labelled(12),
        generator_groups(True),
        real=Real(
            lambda: ResNetGenerator(128, 128, num_classes=1000),
            lambda n: (torch.randn(n, 128), torch.randint(0, 1000, (n,))),
            8,
            "cGANs with projection (Miyato & Koyama 2018), blocks of 256 and 128 channels, 1000 classes, 16x16; batch 64 there",
        ),
    ).with_small(4),
    Family("conditional-bn-bilinear-g", lambda: ResNetGenerator(upsample=True), labelled(12), generator_groups(False)),
    Family(
        "projection-d",
        ProjectionDiscriminator,
        labelled(3, 16, 16),
        [("first", "relu()"), ("blocks.0", "relu()"), ("blocks.1", "relu()")],
        half="autocast",
    ),
]
