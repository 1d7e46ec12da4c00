"""pix2pix (Isola et al. 2017): the U-Net of nested blocks, whose activations work in place on their neighbour's output, and PatchGAN."""

import functools

import torch
from torch import nn

from tests.families.family import Family, Real, images, numbered


class UnetSkipConnectionBlock(nn.Module):
    """x goes down, through the submodule, up, and is joined to x: which the first activation has changed in place by then."""

    def __init__(
        self,
        outer_nc,
        inner_nc,
        input_nc=None,
        submodule=None,
        outermost=False,
        innermost=False,
        norm_layer=nn.BatchNorm2d,
        use_dropout=False,
    ):
        super().__init__()
        self.outermost = outermost
        if isinstance(norm_layer, functools.partial):
            use_bias = norm_layer.func == nn.InstanceNorm2d
        else:
            use_bias = norm_layer == nn.InstanceNorm2d
        if input_nc is None:
            input_nc = outer_nc
        downconv = nn.Conv2d(input_nc, inner_nc, kernel_size=4, stride=2, padding=1, bias=use_bias)
        downrelu = nn.LeakyReLU(0.2, True)
        downnorm = norm_layer(inner_nc)
        uprelu = nn.ReLU(True)
        upnorm = norm_layer(outer_nc)

        if outermost:
            upconv = nn.ConvTranspose2d(inner_nc * 2, outer_nc, kernel_size=4, stride=2, padding=1)
            down = [downconv]
            up = [uprelu, upconv, nn.Tanh()]
            model = down + [submodule] + up
        elif innermost:
            upconv = nn.ConvTranspose2d(inner_nc, outer_nc, kernel_size=4, stride=2, padding=1, bias=use_bias)
            down = [downrelu, downconv]
            up = [uprelu, upconv, upnorm]
            model = down + up
        else:
            upconv = nn.ConvTranspose2d(inner_nc * 2, outer_nc, kernel_size=4, stride=2, padding=1, bias=use_bias)
            down = [downrelu, downconv, downnorm]
            up = [uprelu, upconv, upnorm]
            model = down + [submodule] + up
            if use_dropout:
                model = model + [nn.Dropout(0.5)]
        self.model = nn.Sequential(*model)

    def forward(self, x):
        if self.outermost:
            return self.model(x)
        return torch.cat([x, self.model(x)], 1)


class UnetGenerator(nn.Module):
    def __init__(self, input_nc, output_nc, num_downs, ngf=8, norm_layer=nn.BatchNorm2d, use_dropout=False):
        super().__init__()
        unet_block = UnetSkipConnectionBlock(ngf * 4, ngf * 4, norm_layer=norm_layer, innermost=True)
        for _ in range(num_downs - 4):
            unet_block = UnetSkipConnectionBlock(ngf * 4, ngf * 4, submodule=unet_block, norm_layer=norm_layer, use_dropout=use_dropout)
        unet_block = UnetSkipConnectionBlock(ngf * 2, ngf * 4, submodule=unet_block, norm_layer=norm_layer)
        unet_block = UnetSkipConnectionBlock(ngf, ngf * 2, submodule=unet_block, norm_layer=norm_layer)
        self.model = UnetSkipConnectionBlock(output_nc, ngf, input_nc=input_nc, submodule=unet_block, outermost=True, norm_layer=norm_layer)

    def forward(self, input):
        return self.model(input)


class NLayerDiscriminator(nn.Module):
    def __init__(self, input_nc, ndf=8, n_layers=3, norm_layer=nn.BatchNorm2d):
        super().__init__()
        use_bias = norm_layer == nn.InstanceNorm2d
        kw = 4
        padw = 1
        sequence = [nn.Conv2d(input_nc, ndf, kernel_size=kw, stride=2, padding=padw), nn.LeakyReLU(0.2, True)]
        nf_mult = 1
        for n in range(1, n_layers):
            nf_mult_prev = nf_mult
            nf_mult = min(2**n, 8)
            sequence += [
                nn.Conv2d(ndf * nf_mult_prev, ndf * nf_mult, kernel_size=kw, stride=2, padding=padw, bias=use_bias),
                norm_layer(ndf * nf_mult),
                nn.LeakyReLU(0.2, True),
            ]
        nf_mult_prev = nf_mult
        nf_mult = min(2**n_layers, 4)
        sequence += [
            nn.Conv2d(ndf * nf_mult_prev, ndf * nf_mult, kernel_size=kw, stride=1, padding=padw, bias=use_bias),
            norm_layer(ndf * nf_mult),
            nn.LeakyReLU(0.2, True),
        ]
        sequence += [nn.Conv2d(ndf * nf_mult, 1, kernel_size=kw, stride=1, padding=padw)]
        self.model = nn.Sequential(*sequence)

    def forward(self, input, target):
        return self.model(torch.cat((input, target), 1))


def unet_groups() -> list[tuple[str, ...]]:
    """Four blocks, outermost first. What comes before a nested block ends there: its first activation works in place on a tensor
    that the skip connection reads too."""
    a = "model.model"
    b = f"{a}.1.model"
    c = f"{b}.3.model"
    d = f"{c}.3.model"
    return [
        (f"{a}.0",),
        *numbered(b, "1 2"),
        *numbered(c, "1 2"),
        *numbered(d, "1 2", "3 4"),
        *numbered(c, "5 6"),
        *numbered(b, "5 6"),
        *numbered(a, "3 4"),
    ]


def deep_unet_groups() -> list[tuple[str, ...]]:
    """Five blocks, the fourth with dropout after its last norm."""
    b, c, d, e = ("model.model.1.model" + ".3.model" * i for i in range(4))
    down = [("model.model.0",), *numbered(b, "1 2"), *numbered(c, "1 2"), *numbered(d, "1 2"), *numbered(e, "1 2", "3 4")]
    return [*down, *numbered(d, "5 6"), *numbered(c, "5 6"), *numbered(b, "5 6"), ("model.model.3", "model.model.4")]


instance_norm = functools.partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)

ROWS = [
    Family(
        "pix2pix-unet",
        lambda: UnetGenerator(3, 3, 5, use_dropout=True),
        images(3, 64, 64),
        deep_unet_groups(),
        batch=2,
        real=Real(
            lambda: UnetGenerator(3, 3, 6, ngf=64, use_dropout=True),
            images(3, 128, 128),
            1,
            "pix2pix (Isola et al. 2017), U-Net of 64 channels and more, batch 1; 256 at most, there 512; 128x128, there 256x256",
        ),
    ),
    Family(
        "pix2pix-unet-instance", lambda: UnetGenerator(3, 1, 4, norm_layer=instance_norm), images(3, 32, 32), unet_groups(), batch=2
    ).with_small(1),
    Family(
        "pix2pix-patchgan",
        lambda: NLayerDiscriminator(6),
        lambda n: (torch.rand(n, 3, 32, 32) * 2 - 1, torch.rand(n, 3, 32, 32) * 2 - 1),
        numbered("model", "0 1", "2 3 4", "5 6 7", "8 9 10", "11"),
        real=Real(
            lambda: NLayerDiscriminator(6, ndf=64),
            lambda n: (torch.rand(n, 3, 128, 128) * 2 - 1, torch.rand(n, 3, 128, 128) * 2 - 1),
            1,
            "pix2pix (Isola et al. 2017), PatchGAN of 64 channels and more, batch 1; 256 at most, there 512; 128x128, there 256x256",
        ),
    ),
]
