"""What a step computes besides its networks: the losses, penalties and the draw of a batch, in plain torch and by ganfast."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ganfast.functional as GF
from ganfast.penalties import gradient_penalty, r1_penalty


def _wide(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()


class Plain:
    """Plain torch, as its best user writes it: logits in float32, statistics on the device, nothing waits."""

    def gather(self, images: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
        """uint8 images of the data [N, C, H, W] -> those of `index` in [-1, 1], in the data's memory format."""
        channels_last = images.is_contiguous(memory_format=torch.channels_last)
        found = images[index].to(dtype).div_(127.5).sub_(1)
        return found.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def discriminator(self, kind: str, real: Tensor, fake: Tensor) -> Tensor:
        real, fake = _wide(real), _wide(fake)
        if kind == "nonsaturating":
            return F.softplus(-real).mean() + F.softplus(fake).mean()
        if kind == "relativistic":
            return F.softplus(fake - real).mean()
        if kind == "wasserstein":
            return fake.mean() - real.mean()
        return ((real - 1).square().mean() + fake.square().mean()) / 2  # lsgan

    def watched(self, kind: str, real: Tensor, fake: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(loss, (share of the real logits above 0, of the fake ones below))"""
        with torch.no_grad():
            accuracies = (real > 0).float().mean(), (fake < 0).float().mean()
        return self.discriminator(kind, real, fake), accuracies

    def generator(self, kind: str, fake: Tensor, real: Tensor | None = None) -> Tensor:
        fake = _wide(fake)
        if kind == "nonsaturating":
            return F.softplus(-fake).mean()
        if kind == "relativistic":
            return F.softplus(_wide(real) - fake).mean()
        if kind == "wasserstein":
            return -fake.mean()
        return (fake - 1).square().mean() / 2  # lsgan

    def r1(self, discriminator: nn.Module, real: Tensor) -> tuple[Tensor, Tensor]:
        """(E |d D(x) / dx|^2, D(x))"""
        gradient, logits = self._image_gradient(discriminator, real)
        return gradient.square().sum(1).mean(), logits

    def gradient_penalty(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        epsilon = torch.rand(len(fake), device=fake.device).view(-1, 1, 1, 1).to(real.dtype)
        gradient, _ = self._image_gradient(discriminator, epsilon * real + (1 - epsilon) * fake)
        return (gradient.norm(2, 1) - 1).square().mean()

    @staticmethod
    def _image_gradient(discriminator: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        images = images.detach().requires_grad_()
        logits = discriminator(images)
        with torch.autocast("cuda" if images.is_cuda else "cpu", enabled=False):
            (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return _wide(gradient.flatten(1)), logits


class Fused(Plain):
    """ganfast's."""

    def gather(self, images: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
        return GF.gather_images(images, index, dtype=dtype)

    def discriminator(self, kind: str, real: Tensor, fake: Tensor) -> Tensor:
        return GF.discriminator_loss(real, fake, kind=kind)

    def watched(self, kind: str, real: Tensor, fake: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        loss, stats = GF.discriminator_loss(real, fake, kind=kind, return_stats=True)
        return loss, (stats.real_accuracy, stats.fake_accuracy)

    def generator(self, kind: str, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return GF.generator_loss(fake, real, kind=kind)

    def r1(self, discriminator: nn.Module, real: Tensor) -> tuple[Tensor, Tensor]:
        return r1_penalty(discriminator, real, return_logits=True)

    def gradient_penalty(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return gradient_penalty(discriminator, real, fake)
