"""A training step of a critic without norm (a D and a G update, Adam), plain and with a gradient penalty, and beside each penalty the
plain step: what the penalty costs, in plain steps, for plain torch and for ganfast."""

import copy

import pytest
import torch

from benchmarks.bench_step import Step, check_gradients, networks_and_inputs
from benchmarks.cases import PENALTY
from benchmarks.harness import first_results
from benchmarks.machine import DEVICE
from benchmarks.rivals import DTYPES
from ganfast.penalties import gradient_penalty, r1_penalty

_R1_WEIGHT, _WGAN_WEIGHT = 5.0, 10.0


class _PenaltyStep(Step):
    """`penalty`: "plain", "R1" (its logits are the loss's) or "WGAN-GP" (a forward of its own)."""

    def __init__(self, networks, inputs, dtype: torch.dtype, penalty: str, fast: bool = False) -> None:
        super().__init__(networks, inputs, dtype, torch.channels_last, fast=fast, fused_adam=dtype != torch.float64)
        self.penalty, self.fast = penalty, fast

    def _eager_gradient(self, images):
        images = images.detach().requires_grad_()
        logits = self.discriminator(images)
        with torch.autocast(DEVICE, enabled=False):
            (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return gradient.flatten(1), logits

    def _r1(self):
        if self.fast:
            return r1_penalty(self.discriminator, self.real, return_logits=True)
        gradient, logits = self._eager_gradient(self.real)
        return gradient.square().sum(1).mean(), logits

    def _wgan(self, fake):
        if self.fast:
            return gradient_penalty(self.discriminator, self.real, fake)
        epsilon = torch.rand(len(fake), device=DEVICE).view(-1, 1, 1, 1).to(self.real.dtype)
        gradient, _ = self._eager_gradient(epsilon * self.real + (1 - epsilon) * fake)
        return (gradient.norm(2, 1) - 1).square().mean()

    def _d_loss(self):
        if self.penalty == "plain":
            return super()._d_loss()
        with self._autocast():
            fake = self.generator(self.z)
            if self.penalty == "R1":
                penalty, real_logits = self._r1()
                return fake, self._loss(real_logits, self.discriminator(fake.detach())) + _R1_WEIGHT * penalty
            loss = self._loss(self.discriminator(self.real), self.discriminator(fake.detach()))
            return fake, loss + _WGAN_WEIGHT * self._wgan(fake.detach())

    def gradients(self):
        torch.manual_seed(0)  # the same interpolates for every rival
        return super().gradients()


def _steps(dtype: torch.dtype, penalty: str) -> tuple[dict[str, _PenaltyStep], _PenaltyStep]:
    """(the rivals, the same in float64); in channels_last alone, as a penalty row takes half a minute."""
    networks, inputs = networks_and_inputs(PENALTY, norm=False)
    steps = {f"{who}-nhwc": _PenaltyStep(networks, inputs, dtype, penalty, who == "ganfast") for who in ("eager", "ganfast")}
    double = [network.double() for network in copy.deepcopy(networks)]
    return steps, _PenaltyStep(double, [t.double() for t in inputs], torch.float64, penalty)


@pytest.mark.parametrize("penalty", ["R1", "WGAN-GP"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dcgan64_critic(bench, dtype, penalty):
    steps, exact = _steps(DTYPES[dtype], penalty)
    check_gradients(f"step with {penalty}", steps, exact)
    steps |= {f"plain-{name}": step for name, step in _steps(DTYPES[dtype], "plain")[0].items()}
    _, failed = first_results(steps)
    row = {"op": "penalty step", "case": PENALTY.name, "batch": PENALTY.batch, "dtype": dtype, "mode": penalty, "source": PENALTY.source}
    bench.record({n: s for n, s in steps.items() if n not in failed}, row | {"bytes": None, "flops": None}, failed)
