"""One DCGAN-64 training step (a D and a G update, Adam): plain torch against the fused layers."""

import copy

import pytest
import torch
import torch.nn.functional as F

import ganfast.functional as GF
from benchmarks.harness import DEVICE, DTYPES, LAYOUTS, run
from ganfast.models.dcgan import DCGANDiscriminator, DCGANGenerator

_BATCH, _LATENT = 64, 100


class _Step:
    """Owns its networks and optimizers; calling it does one D and one G update."""

    def __init__(self, generator, discriminator, fused: bool, dtype: torch.dtype, fmt: torch.memory_format):
        self.generator = generator.to(DEVICE, memory_format=fmt)
        self.discriminator = discriminator.to(DEVICE, memory_format=fmt)
        self.fused, self.dtype = fused, dtype
        self.optimizers = [torch.optim.Adam(m.parameters(), 2e-4, (0.5, 0.999)) for m in (self.discriminator, self.generator)]
        self.real = torch.randn(_BATCH, 3, 64, 64, device=DEVICE).contiguous(memory_format=fmt)
        self.z = torch.randn(_BATCH, _LATENT, device=DEVICE)

    def _loss(self, real, fake):
        if self.fused:
            return GF.discriminator_loss(real, fake) if real is not None else GF.generator_loss(fake)
        real, fake = (t if t is None else t.float() for t in (real, fake))
        return F.softplus(-real).mean() + F.softplus(fake).mean() if real is not None else F.softplus(-fake).mean()

    def __call__(self):
        d_optimizer, g_optimizer = self.optimizers
        with torch.autocast(DEVICE, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            fake = self.generator(self.z)
            d_loss = self._loss(self.discriminator(self.real), self.discriminator(fake.detach()))
        d_optimizer.zero_grad(set_to_none=True)
        d_loss.backward()
        d_optimizer.step()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            g_loss = self._loss(None, self.discriminator(fake))
        g_optimizer.zero_grad(set_to_none=True)
        g_loss.backward()
        g_optimizer.step()
        return d_loss.detach(), g_loss.detach()


def _steps(dtype: torch.dtype) -> dict[str, _Step]:
    torch.manual_seed(0)
    plain = DCGANGenerator(image_size=64, latent_dim=_LATENT, width=64), DCGANDiscriminator(image_size=64, width=64)
    fused = DCGANGenerator(image_size=64, latent_dim=_LATENT, width=64, fused=True), DCGANDiscriminator(image_size=64, width=64, fused=True)
    for source, target in zip(plain, fused, strict=True):
        target.load_state_dict(source.state_dict())
    steps = {}
    for layout, fmt in LAYOUTS.items():
        for name, nets in (("eager", plain), ("ganfast", fused)):
            torch.manual_seed(1)
            steps[f"{name}-{layout}"] = _Step(*(copy.deepcopy(n) for n in nets), name == "ganfast", dtype, fmt)
    return steps


@pytest.mark.parametrize("dtype", DTYPES)
def test_dcgan64(benchmark, dtype):
    rivals = _steps(DTYPES[dtype])
    losses = {name: torch.stack(step()) for name, step in rivals.items()}
    tolerance = 1e-3 if dtype == "fp32" else 0.05
    for layout in LAYOUTS:
        torch.testing.assert_close(losses[f"ganfast-{layout}"], losses[f"eager-{layout}"], rtol=tolerance, atol=tolerance)
    source = "Radford et al. 2016, width 64, batch 64, Adam; bf16 is autocast"
    run(benchmark, rivals, {"op": "step", "case": "dcgan64", "dtype": dtype, "mode": "D + G update", "source": source}, repeats=5)
