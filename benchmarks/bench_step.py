"""One DCGAN-64 training step (a D and a G update, Adam) as a user writes it: plain torch against the same after accelerate.

Both run the same losses and fused Adam; `default` is eager as it comes: float32, contiguous, Adam's own choice.
"""

import copy

import pytest
import torch
import torch.nn.functional as F

import ganfast
from benchmarks.case_types import NetworkCase
from benchmarks.cases import STEP
from benchmarks.harness import check_oracle, first_results, plain_result
from benchmarks.machine import DEVICE
from benchmarks.rivals import DEFAULT, DTYPES, layouts, who_and_layout
from ganfast.models.dcgan import DCGANDiscriminator, DCGANGenerator


class Step:
    """Owns its networks and optimizers; calling it does one D and one G update."""

    def __init__(
        self, networks, inputs, dtype: torch.dtype, fmt: torch.memory_format, *, fast=False, compiled: dict | None = None, fused_adam=True
    ) -> None:  # fmt: skip
        self.networks = [network.to(DEVICE, memory_format=fmt) for network in copy.deepcopy(networks)]
        if fast:
            self.networks = [ganfast.accelerate(network) for network in self.networks]
        self.generator, self.discriminator = self.networks
        if compiled is not None:
            self.generator, self.discriminator = (torch.compile(network, dynamic=False, **compiled) for network in self.networks)
        self.real, self.z = inputs[0].to(DEVICE).contiguous(memory_format=fmt), inputs[1].to(DEVICE)
        self.dtype = dtype
        capturable = {"capturable": True} if DEVICE == "cuda" else {}  # or a CUDA graph of the step cannot be taken
        options = capturable | ({"fused": True} if fused_adam else {})
        self.optimizers = [torch.optim.Adam(m.parameters(), 2e-4, (0.5, 0.999), **options) for m in reversed(self.networks)]

    def _loss(self, real, fake):
        real, fake = (t if t is None or t.dtype == torch.float64 else t.float() for t in (real, fake))
        return F.softplus(-real).mean() + F.softplus(fake).mean() if real is not None else F.softplus(-fake).mean()

    def _autocast(self):
        return torch.autocast(DEVICE, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def _d_loss(self):
        with self._autocast():
            fake = self.generator(self.z)
            return fake, self._loss(self.discriminator(self.real), self.discriminator(fake.detach()))

    def _g_loss(self, fake):
        with self._autocast():
            return self._loss(None, self.discriminator(fake))

    def gradients(self) -> dict[str, torch.Tensor]:
        """Both losses and all gradients of the first step's networks, before an update: Adam's first one is a sign, which
        nothing small survives. Autocast's results are given as what they are, bfloat16. So are all gradients: among millions of
        activations rounding puts some on the other side of their kink, in either rival, and each moves gradients by a jump; the
        layers' own rows hold the kernels to their dtype."""
        fake, d_loss = self._d_loss()
        g_loss = self._g_loss(fake)
        generator, discriminator = ([*network.parameters()] for network in self.networks)
        found = [d_loss.detach(), g_loss.detach(), fake.detach()]
        gradients = [*torch.autograd.grad(d_loss, discriminator), *torch.autograd.grad(g_loss, generator)]
        coarse = self.dtype if self.dtype == torch.float64 else torch.bfloat16
        return {f"s{i}": t.to(self.dtype) for i, t in enumerate(found)} | {f"g{i}": t.to(coarse) for i, t in enumerate(gradients)}

    def __call__(self):
        d_optimizer, g_optimizer = self.optimizers
        fake, d_loss = self._d_loss()
        d_optimizer.zero_grad(set_to_none=True)
        d_loss.backward()
        d_optimizer.step()
        g_loss = self._g_loss(fake)
        g_optimizer.zero_grad(set_to_none=True)
        g_loss.backward()
        g_optimizer.step()
        return d_loss.detach(), g_loss.detach()


def networks_and_inputs(case: NetworkCase, norm: bool = True):
    """([generator, discriminator], (real images, latents))"""
    torch.manual_seed(0)
    size = case.image_size
    inputs = torch.randn(case.batch, 3, size, size), torch.randn(case.batch, case.latent)
    return [DCGANGenerator(size, case.latent, case.width), DCGANDiscriminator(size, case.width, norm=norm)], inputs


def _steps(dtype: torch.dtype, rivals: tuple[str, ...]) -> tuple[dict[str, Step], Step]:
    """(the rivals, the same in float64)"""
    networks, inputs = networks_and_inputs(STEP)
    formats = layouts(2)
    steps = {
        f"{who}-{layout}": Step(networks, inputs, dtype, fmt, fast=who == "ganfast")
        for layout, fmt in formats.items()
        for who in ("eager", "ganfast")
        if who in ("ganfast", *rivals)
    }
    if "eager" in rivals:
        steps[f"{DEFAULT}-nchw"] = Step(networks, inputs, torch.float32, formats["nchw"], fused_adam=False)
    for who, options in (("compile", {}), ("max-autotune", {"mode": "max-autotune-no-cudagraphs"})):
        if who in rivals:
            steps[f"{who}-nhwc"] = Step(networks, inputs, dtype, formats["nhwc"], compiled=options)
    double = [network.double() for network in copy.deepcopy(networks)]
    return steps, Step(double, [t.double() for t in inputs], torch.float64, torch.contiguous_format, fused_adam=False)


def check_gradients(name: str, steps: dict[str, Step], exact: Step) -> None:
    """No step of ganfast's is timed before its losses and gradients passed the oracle."""
    reference = exact.gradients()
    results, _ = first_results({n: s.gradients for n, s in steps.items() if who_and_layout(n)[0] in ("eager", "ganfast")})
    for rival, got in results.items():
        who, layout = who_and_layout(rival)
        if who == "ganfast":
            check_oracle(f"{name} {layout}", got, plain_result(results, layout, reference, got), reference)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dcgan64(bench, dtype):
    steps, exact = _steps(DTYPES[dtype], bench.settings.who(max_autotune=True))
    check_gradients("step", steps, exact)
    _, failed = first_results(steps)
    row = {"op": "step", "case": STEP.name, "batch": STEP.batch, "dtype": dtype, "mode": "D + G update", "source": STEP.source}
    bench.record({n: s for n, s in steps.items() if n not in failed}, row | {"bytes": None, "flops": None}, failed)
