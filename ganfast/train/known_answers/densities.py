"""The theory of GANs on a line, where every density is known: the optimal discriminator, the value of the game, the divergences.

Of data of density p and a generator of density q, Goodfellow et al. 2014: the discriminator that maximizes
V(D) = E_p log D + E_q log(1 - D) is p / (p + q) (proposition 1), and V is then -log 4 + 2 JS(p, q), at p = q -log 4 (theorem 1).
Integrals are midpoint sums over cells that are far narrower than any bump; densities [N] are float64 values at the cells' middles.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ganfast.functional as GF
from ganfast.models import MLPDiscriminator, MLPGenerator
from ganfast.train.config import TrainConfig
from ganfast.train.loop import Trainer

EQUILIBRIUM = -math.log(4)
CELL = 0.01
X = torch.arange(-6, 6, CELL, dtype=torch.float64) + CELL / 2


@dataclass(frozen=True)
class Bumps:
    """Gaussians on the line, with weights that sum to 1."""

    means: tuple[float, ...]
    sigmas: tuple[float, ...]
    weights: tuple[float, ...]

    def density(self, x: Tensor = X) -> Tensor:
        """[N] float64."""
        means, sigmas, weights = (torch.tensor(v, dtype=torch.float64) for v in (self.means, self.sigmas, self.weights))
        bumps = torch.exp(-(((x.double()[:, None] - means) / sigmas).square()) / 2) / (sigmas * math.sqrt(2 * math.pi))
        return bumps @ weights

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """[n, 1] float32."""
        which = torch.multinomial(torch.tensor(self.weights), n, replacement=True, generator=generator)
        noise = torch.randn(n, generator=generator)
        return (torch.tensor(self.means)[which] + torch.tensor(self.sigmas)[which] * noise)[:, None]


DATA = Bumps((-1.5, 1.0), (0.4, 0.6), (0.4, 0.6))
FIXED = Bumps((0.0,), (1.2,), (1.0,))  # a generator that does not learn, for a discriminator that does


@torch.no_grad()
def pushed(generator: nn.Module, cells: int = 4000, reach: float = 8.0) -> Tensor:
    """The density [N] at X that a generator [n, 1] -> [n, 1] makes of normal latents.

    Each of many small cells of latents keeps its probability and is spread evenly between its ends' images: exact where the
    generator is linear between them, and without the noise of samples.
    """
    z = torch.linspace(-reach, reach, cells + 1, dtype=torch.float64)
    device = next(generator.parameters()).device
    image = generator(z.float()[:, None].to(device))[:, 0].double().cpu()
    # The smaller tail's difference: ndtr of large arguments is 1 to within rounding.
    mass = torch.special.ndtr(-z.abs()).diff().abs()
    low, high = torch.minimum(image[:-1], image[1:]), torch.maximum(image[:-1], image[1:])
    edges = torch.cat([X - CELL / 2, X[-1:] + CELL / 2])
    below = ((edges[:, None] - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return (below @ mass).diff().clamp(min=0) / CELL  # rounding of sums near 1


def optimal_discriminator(p: Tensor, q: Tensor) -> Tensor:
    """p / (p + q) [N]; 1/2 where both are 0."""
    return torch.where(p + q > 0, p / (p + q), 0.5)


def value(p: Tensor, q: Tensor, logits: Tensor) -> float:
    """V(D) of D = sigmoid(logits [N]). A logit may be infinite where the density that it would make infinite is 0."""
    right = torch.where(p > 0, p * F.softplus(-logits.double()), 0.0)
    wrong = torch.where(q > 0, q * F.softplus(logits.double()), 0.0)
    return -(right + wrong).sum().item() * CELL


def kullback_leibler(p: Tensor, q: Tensor) -> float:
    """KL(p || q) in nats; infinite if q is 0 where p is not."""
    return torch.where(p > 0, torch.special.xlogy(p, p / q), 0.0).sum().item() * CELL


def jensen_shannon(p: Tensor, q: Tensor) -> float:
    """From 0 (equal) to log 2 (apart)."""
    middle = (p + q) / 2
    return (kullback_leibler(p, middle) + kullback_leibler(q, middle)) / 2


def bound(p: Tensor, q: Tensor) -> float:
    """The largest V that a discriminator can have: that of p / (p + q)."""
    return EQUILIBRIUM + 2 * jensen_shannon(p, q)


def divergences(p: Tensor, q: Tensor) -> dict[str, float]:
    return {"kl_data_model": kullback_leibler(p, q), "kl_model_data": kullback_leibler(q, p), "js": jensen_shannon(p, q)}


@torch.no_grad()
def logits_of(discriminator: nn.Module) -> Tensor:
    """[N] float64 at X."""
    device = next(discriminator.parameters()).device
    return discriminator(X.float()[:, None].to(device)).double().cpu()


def fit_discriminator(
    p: Bumps = DATA, q: Bumps = FIXED, *, kind: str = "nonsaturating", smoothing: float = 0.0, steps: int = 1500, seed: int = 0
) -> nn.Module:
    """A discriminator trained on fresh samples of both, by `ganfast.functional.discriminator_loss`, until the rate has fallen to 0.

    What it should find, D(x) being its output: nonsaturating log p/q; relativistic log p/q and a constant; lsgan p / (p + q).
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        discriminator = MLPDiscriminator(1, 64, 2)
    adam = torch.optim.Adam(discriminator.parameters(), lr=5e-3, fused=True)
    for step in range(steps):
        adam.param_groups[0]["lr"] = 5e-3 * (1 + math.cos(math.pi * step / steps)) / 2
        real, fake = discriminator(torch.cat([p.sample(1024, rng), q.sample(1024, rng)])).split(1024)
        loss = GF.discriminator_loss(real, fake, kind=kind, smoothing=smoothing)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return discriminator


def mean_error(p: Tensor, q: Tensor, d: Tensor) -> float:
    """Of D [N] against p / (p + q), the mean absolute difference where the data and the generator's are: under (p + q) / 2."""
    return ((d - optimal_discriminator(p, q)).abs() * (p + q) / 2).sum().item() * CELL


def play(*, steps: int = 1500, every: int = 50, seed: int = 0, p: Bumps = DATA) -> tuple[Trainer, list[dict[str, float]]]:
    """The whole game: a generator of one number learns p, three updates of the discriminator for each of its own, and every so many
    steps `standing` is asked. (the trainer, these rows)."""
    rows: list[dict[str, float]] = []
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        networks = MLPGenerator(1, 1, 64, 2), MLPDiscriminator(1, 64, 2)
    how = {
        "precision": "fp32",
        "device": "cpu",
        "latent_dim": 1,
        "batch_size": 256,
        "n_critic": 3,
        "r1": 0.05,
        "r2": 0.05,
        "penalty_end": 0.01,
    }
    rates = {"learning_rate": 2e-3, "betas": (0.0, 0.99), "decay": "cosine", "decay_from": 0.0, "ema": 0.99}
    config = TrainConfig(steps=steps, log_every=every, seed=seed, **how, **rates)
    data = p.sample(100_000, torch.Generator().manual_seed(seed))
    trainer = Trainer(*networks, data, config, callbacks=[lambda trainer, _: rows.append({"step": trainer.steps} | standing(trainer, p))])
    trainer.fit(progress_bar=False)
    return trainer, rows


def standing(trainer: Trainer, p: Bumps = DATA) -> dict[str, float]:
    """V of the discriminator as it is, its bound, JS and KL(model || data), of the generator's average. KL(data || model) is left out:
    it is infinite, as a small network keeps to an interval and a Gaussian does not."""
    data, model = p.density(), pushed(trainer.ema)
    numbers = {"value": value(data, model, logits_of(trainer.discriminator)), "bound": bound(data, model)}
    return numbers | {"js": jensen_shannon(data, model), "kl_model_data": kullback_leibler(model, data)}


def draw_discriminator(axes, p: Tensor, q: Tensor, d: Tensor) -> None:
    """Both densities, and D [N] over p / (p + q), on matplotlib's axes."""
    seen = (X.abs() < 4).nonzero()[:, 0]
    x = X[seen]
    for density, colour, label in ((p, "0.45", "data, p"), (q, "tab:red", "generator, q")):
        axes.fill_between(x, density[seen], color=colour, alpha=0.25, linewidth=0, label=label)
    axes.plot(x, optimal_discriminator(p, q)[seen], color="black", linewidth=3, alpha=0.3, label="p / (p + q)")
    axes.plot(x, d[seen], color="tab:blue", linewidth=1, label="D, trained")
    axes.set(ylim=(0, 1), title="Discriminator against a fixed generator")
    axes.legend(fontsize="small")


def draw_game(axes, rows: list[dict[str, float]]) -> None:
    """The value over the steps, towards -log 4, and the divergences beside it."""
    steps = [row["step"] for row in rows]
    axes.plot(steps, [row["value"] for row in rows], color="tab:blue", label="V(D)")
    axes.axhline(EQUILIBRIUM, color="black", linestyle=":", label="-log 4")
    other = axes.twinx()
    for key, colour, label in (
        ("js", "tab:red", "JS(data, generator), right"),
        ("kl_model_data", "tab:orange", "KL(generator || data), right"),
    ):
        other.plot(steps, [row[key] for row in rows], color=colour, linewidth=1, label=label)
    other.set_ylim(bottom=0)
    axes.set(xlabel="step", title="Generator and discriminator learn")
    lines = [*axes.get_lines(), *other.get_lines()]
    axes.legend(lines, [line.get_label() for line in lines], fontsize="small")


def picture(path: Path, p: Tensor, q: Tensor, d: Tensor, rows: list[dict[str, float]], fields: dict[str, str]) -> None:
    """A PNG of both; `fields` are its text fields (grids.about)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_discriminator(left, p, q, d)
    draw_game(right, rows)
    figure.savefig(path, format="png", dpi=110, metadata=fields)
