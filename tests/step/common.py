"""A small GAN and its step, as a user writes them; rates that float32 holds exactly, as a graph keeps them in float32."""

import torch
import torch.nn.functional as F
from torch import nn

import ganfast


def adam(network: nn.Module, lr=2**-10, **options) -> torch.optim.Adam:
    capturable = {"capturable": True} if next(network.parameters()).is_cuda else {}
    return torch.optim.Adam(network.parameters(), lr, (0.5, 0.99), eps=2**-10, **{"fused": True, **capturable, **options})


class Gan:
    """Generator with batch norm, discriminator with dropout, Adam twice, EMA; `step` is one update of both."""

    def __init__(self, device: str, accelerated: bool = False) -> None:
        torch.manual_seed(0)
        self.generator = nn.Sequential(
            nn.ConvTranspose2d(8, 16, 4, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1), nn.Tanh()
        ).to(device)
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 1)
        ).to(device)
        if accelerated:
            ganfast.accelerate(self.generator)
            ganfast.accelerate(self.discriminator)
        self.opt_g, self.opt_d = adam(self.generator), adam(self.discriminator)
        self.ema = ganfast.EMA(self.generator)
        self.device = device

    def step(self, real, decay=0.75):
        fake = self.generator(torch.randn(len(real), 8, 1, 1, device=real.device))
        loss_d = F.softplus(-self.discriminator(real)).mean() + F.softplus(self.discriminator(fake.detach())).mean()
        self.opt_d.zero_grad()
        loss_d.backward()
        self.opt_d.step()
        loss_g = F.softplus(-self.discriminator(fake)).mean()
        self.opt_g.zero_grad()
        loss_g.backward()
        self.opt_g.step()
        self.ema.update(decay)
        return loss_d, loss_g

    def networks(self) -> list[nn.Module]:
        return [self.generator, self.discriminator, self.ema.module]

    def tensors(self) -> list[torch.Tensor]:
        """All that the step changes but random generators."""
        optimizers = [t for o in (self.opt_g, self.opt_d) for s in o.state.values() for t in s.values()]
        return [t.detach() for t in (*[t for n in self.networks() for t in n.state_dict().values()], *optimizers)]

    def copies(self) -> list[torch.Tensor]:
        return [t.clone() for t in self.tensors()]


def images(device: str, batch: int = 4, seed: int = 7) -> torch.Tensor:
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).to(device)


def equal(got: list, wanted: list, exact: bool = True) -> None:
    """Bit for bit in bookkeeping; on a GPU, whose libraries may choose other algorithms, within rounding."""
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted):
        close = {"rtol": 0, "atol": 0} if exact and not a.is_cuda else {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(a, b, **close, equal_nan=True)
