"""The published recipes: networks, a batch's inputs, the two losses. Networks named d... are discriminators, g... generators.

A loss is written once for every rival; `by` is `losses.Plain` or `losses.Fused`. `made` is what the forward gave, with its graph.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.steps import networks
from ganfast.models.dcgan import DCGANDiscriminator, DCGANGenerator
from ganfast.models.vocoder_discriminators import MultiPeriodDiscriminator, MultiResolutionDiscriminator
from ganfast.systems import vocoder
from ganfast.systems.spectra import resolutions
from tests.families import cyclegan, r3gan

Nets = dict[str, nn.Module]
Made = dict[str, Tensor]


class Game:
    """`order`: who updates first; empty, where there is nothing to learn. `average`: the decay of the averaged generator, where the
    recipe has one. `layout`: of the best eager. `double_backward`: the discriminator's loss differentiates its gradient."""

    order = "DG"
    optimizer = torch.optim.Adam
    rate, betas = 2e-4, (0.5, 0.999)
    average: float | None = None
    layout = "nhwc"
    double_backward = False

    def __init__(self, size: int, width: int) -> None:
        self.size, self.width = size, width

    def networks(self) -> Nets:
        raise NotImplementedError

    def data(self) -> Tensor | None:
        """What lies on the device throughout."""
        return None

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def forward(self, nets: Nets, by, data: Tensor | None, inputs: tuple[Tensor, ...]) -> Made:
        raise NotImplementedError

    def d_loss(self, nets: Nets, by, made: Made) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(loss, statistics that people watch)"""
        raise NotImplementedError

    def g_loss(self, nets: Nets, by, made: Made) -> Tensor:
        raise NotImplementedError

    def _pictures(self, batch: int, size: int | None = None) -> Tensor:
        return torch.rand(batch, 3, size or self.size, size or self.size) * 2 - 1


class DCGAN(Game):
    """The whole step as `ganfast.Trainer` runs it: the batch drawn from uint8 images on the device, both updates, the
    discriminator's accuracies, the averaged generator."""

    latent, images = 100, 256
    average = 0.999

    def networks(self) -> Nets:
        return {"d": DCGANDiscriminator(self.size, self.width), "g": DCGANGenerator(self.size, self.latent, self.width)}

    def data(self) -> Tensor:
        return torch.randint(0, 256, (self.images, 3, self.size, self.size), dtype=torch.uint8)

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        return torch.randint(0, self.images, (batch,)), torch.randn(batch, self.latent)

    def forward(self, nets, by, data, inputs):
        index, z = inputs
        return {"real": by.gather(data, index, z.dtype), "fake": nets["g"](z)}

    def d_loss(self, nets, by, made):
        return by.watched("nonsaturating", nets["d"](made["real"]), nets["d"](made["fake"].detach()))

    def g_loss(self, nets, by, made):
        return by.generator("nonsaturating", nets["d"](made["fake"]))


class _Critic(Game):
    """A critic without norm, which mixes images and has no place under a penalty; `penalised` False: the plain step beside it."""

    latent = 100
    double_backward = True

    def __init__(self, size: int, width: int, penalised: bool = True) -> None:
        super().__init__(size, width)
        self.penalised = penalised

    def networks(self) -> Nets:
        discriminator = DCGANDiscriminator(self.size, self.width, norm=False)
        return {"d": discriminator, "g": DCGANGenerator(self.size, self.latent, self.width)}

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        return self._pictures(batch), torch.randn(batch, self.latent)

    def forward(self, nets, by, data, inputs):
        return {"real": inputs[0], "fake": nets["g"](inputs[1])}


class WGANGP(_Critic):
    rate, betas = 1e-4, (0.0, 0.9)

    def d_loss(self, nets, by, made):
        fake = made["fake"].detach()
        loss = by.discriminator("wasserstein", nets["d"](made["real"]), nets["d"](fake))
        return (loss + 10 * by.gradient_penalty(nets["d"], made["real"], fake) if self.penalised else loss), ()

    def g_loss(self, nets, by, made):
        return by.generator("wasserstein", nets["d"](made["fake"]))


class R1(_Critic):
    """gamma 10, at every step; the logits of the penalty's forward are the loss's. The generator's loss wants the updated
    discriminator's opinion of the reals, which carries no gradient."""

    betas = 0.0, 0.99

    def d_loss(self, nets, by, made):
        penalty, real = by.r1(nets["d"], made["real"]) if self.penalised else (0.0, nets["d"](made["real"]))
        return by.discriminator("relativistic", real, nets["d"](made["fake"].detach())) + 5 * penalty, ()

    def g_loss(self, nets, by, made):
        with torch.no_grad():
            real = nets["d"](made["real"])
        return by.generator("relativistic", nets["d"](made["fake"]), real)


class R3GAN(Game):
    """The discriminator's turn alone: the paired loss with R1 and R2, gamma 0.05, at every step. Real and fake images are one batch, whose
    forward gives logits and penalties."""

    order = "D"
    betas = 0.0, 0.99
    double_backward = True

    def __init__(self, size: int, width: int, penalised: bool = True) -> None:
        super().__init__(size, width)
        self.penalised = penalised

    def networks(self) -> Nets:
        return {"d": r3gan.Discriminator((self.width,) * 4, blocks=2, group_size=16)}

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        return self._pictures(batch), self._pictures(batch)

    def forward(self, nets, by, data, inputs):
        return dict(zip(("real", "fake"), inputs))

    def d_loss(self, nets, by, made):
        images = torch.cat([made["real"], made["fake"]])
        penalty, logits = by.r1(nets["d"], images) if self.penalised else (0.0, nets["d"](images))
        return by.discriminator("relativistic", *logits.chunk(2)) + 0.05 * penalty, ()


class Pix2Pix(Game):
    def networks(self) -> Nets:
        return {"d": networks.patchgan(6, self.width, nn.BatchNorm2d), "g": networks.unet(self.size, self.width)}

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        return self._pictures(batch), self._pictures(batch)

    def forward(self, nets, by, data, inputs):
        return {"source": inputs[0], "real": inputs[1], "fake": nets["g"](inputs[0])}

    def _logits(self, nets, made, images):
        return nets["d"](torch.cat([made["source"], images.to(made["source"].dtype)], 1))

    def d_loss(self, nets, by, made):
        logits = self._logits(nets, made, made["real"]), self._logits(nets, made, made["fake"].detach())
        return by.discriminator("nonsaturating", *logits) / 2, ()

    def g_loss(self, nets, by, made):
        loss = by.generator("nonsaturating", self._logits(nets, made, made["fake"]))
        return loss + 100 * F.l1_loss(made["fake"], made["real"])


class CycleGAN(Game):
    """Contiguous: torch 2.13's instance norm on a CPU gives a wrong gradient for one channels_last image, without a word."""

    order = "GD"
    layout = "nchw"

    def networks(self) -> Nets:
        patchgan = lambda: networks.patchgan(3, self.width, nn.InstanceNorm2d)
        resnet = lambda: cyclegan.Generator(n_residual_blocks=9, ngf=self.width)
        return {"d_a": patchgan(), "d_b": patchgan(), "g_ab": resnet(), "g_ba": resnet()}

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        return self._pictures(batch), self._pictures(batch)

    def forward(self, nets, by, data, inputs):
        a, b = inputs
        fake_b, fake_a = nets["g_ab"](a), nets["g_ba"](b)
        return {"a": a, "b": b, "fake_a": fake_a, "fake_b": fake_b, "back_a": nets["g_ba"](fake_b), "back_b": nets["g_ab"](fake_a)}

    def d_loss(self, nets, by, made):
        pairs = (nets["d_a"], made["a"], made["fake_a"]), (nets["d_b"], made["b"], made["fake_b"])
        return sum(by.discriminator("lsgan", d(real), d(fake.detach())) for d, real, fake in pairs), ()

    def g_loss(self, nets, by, made):
        adversarial = sum(2 * by.generator("lsgan", nets[f"d_{x}"](made[f"fake_{x}"])) for x in "ab")
        cycle = sum(F.l1_loss(made[f"back_{x}"], made[x]) for x in "ab")
        identity = F.l1_loss(nets["g_ba"](made["a"]), made["a"]) + F.l1_loss(nets["g_ab"](made["b"]), made["b"])
        return adversarial + 10 * cycle + 5 * identity


class HiFiGAN(Game):
    """`size`: samples of a segment, 256 a frame; `width` 512 is V1's, the discriminators' follow it."""

    layout = "nchw"
    optimizer = torch.optim.AdamW
    betas = 0.8, 0.99
    judges = "d_periods", "d_scales"
    spectrum = staticmethod(networks.spectrogram)

    def networks(self) -> Nets:
        d = {"d_periods": networks.Periods(self.width // 16), "d_scales": networks.Scales(self.width // 4)}
        return d | {"g": networks.vocoder(self.width)}

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        return torch.randn(batch, 80, self.size // 256), torch.rand(batch, 1, self.size) * 2 - 1

    def forward(self, nets, by, data, inputs):
        return {"real": inputs[1], "fake": nets["g"](inputs[0])}

    def d_loss(self, nets, by, made):
        fake = made["fake"].detach()
        pairs = [pair for d in self.judges for pair in zip(nets[d](made["real"]), nets[d](fake))]
        return sum(2 * by.discriminator("lsgan", real, fake) for (real, _), (fake, _) in pairs), ()

    def g_loss(self, nets, by, made):
        loss = 45 * F.l1_loss(self.spectrum(made["fake"]), self.spectrum(made["real"]))
        for d in self.judges:
            for (_, wanted), (logits, found) in zip(nets[d](made["real"]), nets[d](made["fake"])):
                loss = loss + 2 * by.generator("lsgan", logits) + 2 * sum(F.l1_loss(f, w) for f, w in zip(found, wanted))
        return loss


class SmallBigVGAN(HiFiGAN):
    """The networks of `ganfast run vocoder` at its defaults, all discriminators at every step; `width`: the generator's."""

    judges = "d_periods", "d_resolutions"
    options = vocoder.Options()
    spectrum = staticmethod(options.analysis.log_mel)

    def networks(self) -> Nets:
        o = dataclasses.replace(self.options, width=self.width)
        d = {"d_periods": MultiPeriodDiscriminator(o.periods, o.width_d)}
        d["d_resolutions"] = MultiResolutionDiscriminator(resolutions(o.sample_rate), o.width_d)
        return d | {"g": vocoder.generator(o)}

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        return torch.randn(batch, self.options.mels, self.size // self.options.hop), torch.rand(batch, 1, self.size) * 2 - 1


class Vocoder(Game):
    """The generator alone, in eval mode without gradients."""

    layout = "nchw"
    order = ""

    def networks(self) -> Nets:
        return {"g": networks.vocoder_for_inference(self.width)}

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        return (torch.randn(batch, 80, self.size // 256),)

    def forward(self, nets, by, data, inputs):
        return {"fake": nets["g"](inputs[0])}
