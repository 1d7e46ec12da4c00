"""StyleGAN2's step, in the form of `games.Game`."""

import torch
from torch import Tensor, nn

from benchmarks.steps.games import Game, Nets
from ganfast.models.stylegan2 import StyleGAN2Generator
from ganfast.models.stylegan2_discriminator import StyleGAN2Discriminator


class StyleGAN2(Game):
    """The updates of every step: one style an image and constant noise, so that all rivals compute the same."""

    rate, betas = 2.5e-3, (0.0, 0.99)
    average = 0.998
    layout = "nchw"  # in channels_last the batch as groups is copied
    latent = 512

    def networks(self) -> Nets:
        generator = StyleGAN2Generator(self.size, self.latent, self.width, mapping_layers=2, style_mixing=0.0)
        for block in (generator.synthesis.first, *generator.synthesis.ups, *generator.synthesis.convs):
            nn.init.constant_(block.strength, 0.1)  # at 0 the noise would not matter
        return {"d": StyleGAN2Discriminator(self.size, self.width), "g": generator}

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        return self._pictures(batch), torch.randn(batch, self.latent)

    def forward(self, nets, by, data, inputs):
        return {"real": inputs[0], "fake": nets["g"](inputs[1], noise="const")}

    def d_loss(self, nets, by, made):
        return by.watched("nonsaturating", nets["d"](made["real"]), nets["d"](made["fake"].detach()))

    def g_loss(self, nets, by, made):
        return by.generator("nonsaturating", nets["d"](made["fake"]))


class StyleGAN2Penalised(StyleGAN2):
    """The same with R1 and path lengths, which the recipe has every 16th and every fourth step; `penalised` False: the step beside it."""

    double_backward = True

    def __init__(self, size: int, width: int, penalised: bool = True) -> None:
        super().__init__(size, width)
        self.penalised = penalised

    def forward(self, nets, by, data, inputs):
        styles = nets["g"].mapping(inputs[1])
        return {"real": inputs[0], "styles": styles, "fake": nets["g"].synthesis(styles, "const")}

    def d_loss(self, nets, by, made):
        if not self.penalised:
            return super().d_loss(nets, by, made)
        penalty, real = by.r1(nets["d"], made["real"])
        loss, watched = by.watched("nonsaturating", real, nets["d"](made["fake"].detach()))
        return loss + penalty, watched

    def g_loss(self, nets, by, made):
        loss = super().g_loss(nets, by, made)
        if not self.penalised:
            return loss
        noise = made["real"].roll(1, 0) / self.size
        (gradient,) = torch.autograd.grad((made["fake"] * noise).sum(), made["styles"], create_graph=True)
        lengths = gradient.float().square().sum(1).sqrt()
        return loss + 2 * (lengths - lengths.mean().detach()).square().mean()
