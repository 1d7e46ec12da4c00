"""Phases as data, and the objective as a pure function of them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganfast import penalties
from ganfast.train import Batch, Phase, TrainConfig, Trainer, adversarial
from ganfast.train.objectives.terms import mode_seeking
from ganfast.train.phases import Draws, phases_of, turns_of


def names(config: TrainConfig) -> list[list[str]]:
    return [[phase.name for phase in turn] for turn in turns_of(phases_of(config))]


@pytest.mark.parametrize(
    ("settings", "turns"),
    [
        ({}, [["d", "g"]]),
        ({"n_critic": 3}, [["d"], ["d"], ["d", "g"]]),
        ({"r1": 1.0}, [["d", "g"]]),
        ({"r1": 1.0, "penalty_every": 4}, [["d", "g"], ["d_reg"]]),
        ({"r2": 1.0, "penalty_every": 4, "mode_seeking": 1.0, "mode_seeking_every": 4}, [["d", "g"], ["d_reg"], ["g_reg"]]),
    ],
    ids=str,
)
def test_phases_that_share_a_batch_are_a_turn(settings, turns):
    assert names(TrainConfig(**settings)) == turns


def test_terms_due_at_every_step_join_their_network():
    d, g = phases_of(TrainConfig(r1=1.0, gradient_penalty=1.0, mode_seeking=1.0))
    assert (d.terms, g.terms, g.average) == (("adversarial", "r1", "gradient_penalty"), ("adversarial", "mode_seeking"), True)
    _, _, lazy = phases_of(TrainConfig(r1=1.0, r2=2.0, penalty_every=16))
    assert (lazy.terms, lazy.interval, lazy.network, lazy.average) == (("r1", "r2"), 16, "discriminator", False)


class Linear(nn.Module):
    """Latents of 2 to points of 2, or points of 2 to a logit."""

    def __init__(self, out: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.one, self.two = nn.Linear(2, 8), nn.Linear(8, out)

    def forward(self, x):
        y = self.two(torch.tanh(self.one(x)))
        return y[:, 0] if y.shape[1] == 1 else y


def pair() -> tuple[nn.Module, nn.Module]:
    return Linear(2, 0), Linear(1, 1)


def batch(n: int = 6, **weights: float) -> Batch:
    torch.manual_seed(2)
    return Batch(torch.randn(n, 2), torch.randn(n, 2), None, {k: torch.tensor(w) for k, w in weights.items()}, Draws(torch.Generator()))


def test_the_discriminators_loss_is_the_formula_with_its_penalties():
    g, d = pair()
    b = batch(r1=3.0, r2=0.5)
    loss, numbers = adversarial(TrainConfig())(Phase("d", "discriminator", ("adversarial", "r1", "r2")), g, d, b)
    real, fake = d(b.real), d(g(b.latent).detach())
    plain = F.softplus(-real).mean() + F.softplus(fake).mean()
    r1, r2 = penalties.r1_penalty(d, b.real), penalties.r2_penalty(d, g(b.latent).detach())
    torch.testing.assert_close(loss, plain + 3 * r1 + 0.5 * r2)
    torch.testing.assert_close(numbers["loss_d"], plain)
    torch.testing.assert_close((numbers["r1"], numbers["r2"]), (r1, r2))
    assert numbers["real_accuracy"] == (real > 0).float().mean()
    loss.backward()
    assert all(p.grad is None for p in g.parameters()) and all(p.grad is not None for p in d.parameters())


def test_a_lazy_penalty_asks_for_nothing_else():
    g, d = pair()
    calls = []
    g.register_forward_hook(lambda *_: calls.append("g"))
    d.register_forward_hook(lambda *_: calls.append("d"))
    b = batch(r1=2.0)
    loss, numbers = adversarial(TrainConfig())(Phase("d_reg", "discriminator", ("r1",), interval=8), g, d, b)
    assert calls == ["d"] and numbers.keys() == {"r1"}
    torch.testing.assert_close(loss, 8 * 2 * numbers["r1"])  # as heavy as if it were due at every step


def test_wgan_gp_interpolates_by_the_batchs_own_draws():
    g, d = pair()
    b = batch(gradient_penalty=10.0)
    b.draws.generator.manual_seed(5)
    loss, numbers = adversarial(TrainConfig(loss="wasserstein"))(Phase("d", "discriminator", ("adversarial", "gradient_penalty")), g, d, b)
    epsilon = torch.rand(6, generator=torch.Generator().manual_seed(5))
    fake = g(b.latent).detach()
    expected = penalties.gradient_penalty(d, b.real, fake, epsilon=epsilon)
    torch.testing.assert_close(numbers["gradient_penalty"], expected)
    torch.testing.assert_close(loss, d(fake).mean() - d(b.real).mean() + 10 * expected)


@pytest.mark.parametrize("kind", ["nonsaturating", "relativistic"])
def test_the_generators_loss_is_the_formula(kind):
    g, d = pair()
    b = batch()
    loss, _ = adversarial(TrainConfig(loss=kind))(Phase("g", "generator", ("adversarial",)), g, d, b)
    fake, real = d(g(b.latent)), d(b.real)
    torch.testing.assert_close(loss, F.softplus((real if kind == "relativistic" else 0) - fake).mean())


def test_mode_seeking_punishes_one_answer_for_all_latents():
    b = batch()
    varied, same = mode_seeking(Linear(2, 0), b), mode_seeking(lambda z: z * 0 + 1, b)
    assert same > 1000 * varied > 0
    identity = mode_seeking(lambda z: z, b)
    torch.testing.assert_close(identity, torch.ones(()))


def test_the_view_is_drawn_anew_for_every_image_and_the_fakes_are_made_once():
    g, _ = pair()
    b = batch()
    b.noise = 0.5
    assert b.fake(g) is b.fake(g) and b.fake(g).requires_grad
    assert not torch.equal(b.view(b.real), b.view(b.real)) and b.view(b.real).shape == b.real.shape
    quiet = batch()
    quiet.learning = {}
    assert not quiet.fake(g).requires_grad


def test_processes_draw_the_whole_and_keep_their_part():
    whole = Draws(torch.Generator().manual_seed(3)).normal(6, 2)
    parts = [Draws(torch.Generator().manual_seed(3), rank, 3).normal(2, 2) for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)


def test_an_objective_and_phases_of_ones_own():
    """Least squares on a known answer: the generator of a shift learns it, with two networks' phases as the user wants them."""
    g, d = Linear(2, 0), Linear(1, 1)
    seen = []

    def objective(phase, generator, discriminator, b):
        seen.append(phase.name)
        if phase.name == "critic":
            return discriminator(b.real).square().mean(), {"size": discriminator(b.real).abs().mean()}
        return (b.fake(generator) - b.latent - 1).square().mean(), {}

    phases = [Phase("critic", "discriminator", ()), Phase("shift", "generator", (), average=True)]
    config = TrainConfig(steps=300, latent_dim=2, batch_size=32, learning_rate=0.02, ema=0.9, precision="fp32", log_every=100)
    trainer = Trainer(g, d, torch.randn(64, 2), config, objective=objective, phases=phases)
    trainer.fit(progress_bar=False)
    assert seen[:4] == ["critic", "shift"] * 2
    latents = trainer.sampler().latents(50, seed=1)
    assert (trainer.sample(50, seed=1) - latents - 1).abs().mean() < 0.2
    assert math.isfinite(trainer.seconds) and trainer.images_seen == 300 * 32
