"""Context encoder (Pathak et al. 2016): down to a wide bottleneck and up again, in one flat Sequential."""

from torch import nn

from tests.families.family import Family, Real, images, numbered


class Generator(nn.Module):
    def __init__(self, channels=3, width=8, bottleneck=100):
        super().__init__()

        def downsample(in_feat, out_feat, normalize=True):
            layers = [nn.Conv2d(in_feat, out_feat, 4, stride=2, padding=1)]
            if normalize:
                layers.append(nn.BatchNorm2d(out_feat, 0.8))
            layers.append(nn.LeakyReLU(0.2))
            return layers

        def upsample(in_feat, out_feat, normalize=True):
            layers = [nn.ConvTranspose2d(in_feat, out_feat, 4, stride=2, padding=1)]
            if normalize:
                layers.append(nn.BatchNorm2d(out_feat, 0.8))
            layers.append(nn.ReLU())
            return layers

        self.model = nn.Sequential(
            *downsample(channels, width, normalize=False),
            *downsample(width, width * 2),
            *downsample(width * 2, width * 4),
            nn.Conv2d(width * 4, bottleneck, 1),
            *upsample(bottleneck, width * 4),
            *upsample(width * 4, width * 2),
            nn.Conv2d(width * 2, channels, 3, 1, 1),
            nn.Tanh(),
        )

    def forward(self, x):
        return self.model(x)


class Discriminator(nn.Module):
    def __init__(self, channels=3):
        super().__init__()

        def discriminator_block(in_filters, out_filters, stride, normalize):
            layers = [nn.Conv2d(in_filters, out_filters, 3, stride, 1)]
            if normalize:
                layers.append(nn.InstanceNorm2d(out_filters))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            return layers

        layers = []
        in_filters = channels
        for out_filters, stride, normalize in [(8, 2, False), (16, 2, True), (32, 1, True)]:
            layers.extend(discriminator_block(in_filters, out_filters, stride, normalize))
            in_filters = out_filters
        layers.append(nn.Conv2d(out_filters, 1, 3, 1, 1))
        self.model = nn.Sequential(*layers)

    def forward(self, img):
        return self.model(img)


ROWS = [
    Family(
        "context-encoder-g",
        Generator,
        images(3, 32, 32),
        numbered("model", "0 1", "2 3 4", "5 6 7", "8", "9 10 11", "12 13 14", "15 16"),
        real=Real(
            lambda: Generator(width=64, bottleneck=4000),
            images(3, 32, 32),
            4,
            "Context encoder (Pathak et al. 2016) as in PyTorch-GAN: 64 to 256 channels and 4000 between; 32x32, there 128x128, batch 8",
        ),
    ).with_small(1),
    Family("context-encoder-d", Discriminator, images(3, 16, 16), numbered("model", "0 1", "2 3 4", "5 6 7", "8")),
]
