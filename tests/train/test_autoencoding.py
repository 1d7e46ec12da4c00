"""An autoencoder against a discriminator: both learn, from the step they are told to; the adaptive weight; what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganfast.train import Batch, Network, Phase, TrainConfig, Trainer, autoencoding
from ganfast.train.distributed.world import World
from ganfast.train.networks import Networks
from ganfast.train.phases import Call, Draws
from ganfast.train.reconstruction.perceptual import laplacian
from tests.step.recorded import RecordedGraphs
from tests.train.common import differences, log_rows


class Autoencoder(nn.Module):
    def __init__(self, noise: float = 1.0) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 8, 4, 2, 1), nn.SiLU(), nn.Conv2d(8, 4, 3, 1, 1))
        self.decoder = nn.Sequential(nn.Conv2d(2, 8, 3, 1, 1), nn.SiLU(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 1, 3, 1, 1))
        self.noise = noise

    def forward(self, x):
        mean, logvar = self.encoder(x).chunk(2, 1)
        return self.decoder(mean + self.noise * torch.randn_like(mean) * (logvar / 2).exp()), mean, logvar


class Judge(nn.Module):
    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 3, 1, 1))

    def forward(self, x):
        return self.layers(x)


def config(**changes) -> TrainConfig:
    usual = {"steps": 6, "batch_size": 8, "loss": "hinge", "precision": "fp32", "fused": False, "log_every": 1, "sample_every": 0}
    return TrainConfig(**usual | changes)


def images(n: int = 32) -> torch.Tensor:
    """Bright rectangles."""
    drawn = torch.Generator().manual_seed(0)
    x = torch.full((n, 1, 8, 8), -0.8)
    for image in x:
        a, b = torch.randint(0, 5, (2,), generator=drawn).tolist()
        image[:, a : a + 4, b : b + 3] = 0.8
    return x


def nets(**how) -> tuple[Autoencoder, Judge]:
    torch.manual_seed(0)
    return Autoencoder(**how), Judge()


def made(c: TrainConfig, *networks, data=None, callbacks=(), **how) -> Trainer:
    pair = networks or nets()
    return Trainer(*pair, images() if data is None else data, c, objective=autoencoding(c, **how), callbacks=callbacks)


def weights(network: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def moved(network: nn.Module, before: list[torch.Tensor]) -> list[bool]:
    return [not torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True)]


def both_learn(trainer: Trainer, rows: list[dict], start: int) -> None:
    before = [weights(network) for network in (trainer.generator, trainer.discriminator)]
    while trainer.steps < start - 1:
        trainer.step()
    assert all(moved(trainer.generator, before[0])) and not any(moved(trainer.discriminator, before[1]))
    assert not trainer.optimizers["discriminator"].state
    trainer.fit(progress_bar=False)
    assert all(moved(trainer.discriminator, before[1]))
    judged = [row for row in rows if "loss_d" in row]
    mean = lambda name, some: sum(row[name] for row in some) / len(some)
    assert judged[0]["step"] == start and all("adaptive_weight" in row and "loss_g" in row for row in judged)
    assert mean("loss_d", judged[-8:]) < 0.7 * mean("loss_d", judged[:2])
    right = lambda some: (mean("real_accuracy", some) + mean("fake_accuracy", some)) / 2
    assert right(judged[-8:]) > 0.8 > right(judged[:2])


def slow(rows: list) -> Trainer:
    """An autoencoder that hardly learns, so that its discriminator can be seen to."""
    c, (autoencoder, judge) = config(steps=70, decay_from=1.0), nets()
    pair = Network(autoencoder, learning_rate=1e-5), Network(judge, learning_rate=5e-3)
    return made(c, *pair, start=4, callbacks=[lambda trainer, row: rows.append(row)])


def test_both_learn_and_neither_judges_nor_learns_before_its_step():
    both_learn(slow(rows := []), rows, 4)


def test_a_discriminator_that_is_never_updated_is_noticed():
    trainer = slow(rows := [])
    trainer.optimizers["discriminator"].step = lambda *args, **kwargs: None
    with pytest.raises(AssertionError):
        both_learn(trainer, rows, 4)


@pytest.mark.parametrize("perceptual", ["laplacian", "random"])
def test_reconstructions_become_better(perceptual):
    trainer = made(config(steps=100, learning_rate=8e-3, log_every=100), start=50, perceptual=perceptual)
    error = lambda: F.l1_loss(trainer.sample(32, images()), images()).item()
    before = error()
    trainer.fit(progress_bar=False)
    assert error() < 0.4 * before


def judged(term, phase: Phase, g: nn.Module, d: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict]:
    networks, calls = Networks(generator=g, discriminator=d), {g: Call(False, None, None, None, term.reconstruct, True)}
    term.prepare(networks, x, World())
    batch = Batch(x, None, None, {}, Draws(torch.Generator()), calls=calls, phase=phase, updated=(g,))
    d.requires_grad_(False)
    return term.part(phase, networks, batch, {"adversarial": 1.0})


@pytest.mark.parametrize(("kind", "perceptual", "distance"), [("hinge", "laplacian", "l1"), ("relativistic", None, "l2")])
def test_the_adaptive_weight_and_the_gradients_are_the_formula(kind, perceptual, distance):
    (g, d), x = nets(noise=0.0), images(8)
    named = {"last_layer": "decoder.3"} if kind == "relativistic" else {}
    how = {"perceptual": perceptual, "perceptual_weight": 0.3, "distance": distance, "kl": 0.01, "weight": 0.7}
    term = autoencoding(config(loss=kind), **how, **named)
    loss, found = judged(term, Phase("g", "generator"), g, d, x)
    given = torch.autograd.grad(loss, list(g.parameters()))

    y, mean, logvar = g(x)
    nll = F.l1_loss(y, x) if distance == "l1" else F.mse_loss(y, x)
    nll = nll + (0.3 * laplacian(y, x) if perceptual else 0)
    against = -d(y).mean() if kind == "hinge" else F.softplus(d(x) - d(y)).mean()
    last = g.decoder[3].weight
    norms = [torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (nll, against)]
    adaptive = norms[0] / (norms[1] + 1e-4)
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(mean, (logvar / 2).exp()), torch.distributions.Normal(0.0, 1.0))
    whole = nll + 0.7 * adaptive.detach() * against + 0.01 * kl.sum((1, 2, 3)).mean()
    torch.testing.assert_close(found["adaptive_weight"], adaptive)
    torch.testing.assert_close(loss.detach(), whole.detach())
    torch.testing.assert_close(given, torch.autograd.grad(whole, list(g.parameters())), rtol=1e-4, atol=1e-6)


def test_a_discriminator_without_an_opinion_weighs_at_most_ten_thousand():
    (g, d), x = nets(noise=0.0), images(8)
    nn.init.zeros_(d.layers[3].weight)
    loss, found = judged(autoencoding(config()), Phase("g", "generator"), g, d, x)
    far, _ = judged(autoencoding(config(), perceptual_weight=1e9), Phase("g", "generator"), g, d, x)
    assert 0 < found["adaptive_weight"] <= 1e4 and loss.isfinite() and far.isfinite()
    _, found = judged(autoencoding(config(), perceptual_weight=1e9), Phase("g", "generator"), g, d, x)
    assert found["adaptive_weight"] == 1e4


def test_without_adaptive_the_weight_is_the_given_one():
    (g, d), x = nets(noise=0.0), images(8)
    how = {"perceptual": None, "kl": 0.0}
    loss, found = judged(autoencoding(config(), adaptive=False, weight=0.25, **how), Phase("g", "generator"), g, d, x)
    y = g(x)[0]
    torch.testing.assert_close(loss, F.l1_loss(y, x) - 0.25 * d(y).mean())
    assert "adaptive_weight" not in found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_weight_and_gradients_are_those_of_float32(dtype):
    found = {}
    for of in (None, dtype):
        (g, d), x = nets(noise=0.0), images(8)
        scaler = torch.amp.GradScaler("cpu", 2.0**8, enabled=of is torch.float16)
        with torch.autocast("cpu", of, enabled=of is not None):
            loss, numbers = judged(autoencoding(config(), perceptual="random"), Phase("g", "generator"), g, d, x)
        optimizer = torch.optim.SGD(g.parameters(), 0.1)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        found[of] = numbers["adaptive_weight"], torch.cat([p.grad.flatten() for p in g.parameters()])
    torch.testing.assert_close(found[dtype][0], found[None][0], rtol=0.05, atol=0)
    assert F.cosine_similarity(found[dtype][1], found[None][1], 0) > 0.995


@pytest.mark.parametrize("cut", [3, 6])
def test_a_run_that_is_cut_goes_on_to_the_same_weights(tmp_path, cut):
    runs = {}
    for name, steps in (("whole", 8), ("cut", cut)):
        c = config(run_dir=str(tmp_path / name), steps=steps, decay_from=1.0, checkpoint_every=100, r1=0.1)
        runs[name] = made(c, start=5)
        runs[name].fit(progress_bar=False)
    c = config(run_dir=str(tmp_path / "cut"), steps=8, decay_from=1.0, checkpoint_every=100, r1=0.1)
    torch.manual_seed(5)
    Trainer.load(tmp_path / "cut", *nets(), images(), c, objective=autoencoding(c, start=5)).fit(progress_bar=False)
    assert differences(tmp_path / "whole", tmp_path / "cut") == []
    assert [("loss_d" in row, "adaptive_weight" in row) for row in log_rows(tmp_path / "cut")] == [(False,) * 2] * 4 + [(True,) * 2] * 4


def test_recorded_it_is_the_same_run_and_forgets_what_it_does_not_need_again(monkeypatch):
    runs, exact = [], {"ema": 0.75, "ema_ramp": 0.0, "decay_from": 1.0, "learning_rate": 2.0**-12}
    for name in ("plain", "recorded"):
        if name == "recorded":
            monkeypatch.setattr("ganfast.step.capture.graphs_for", lambda reached, leaves: RecordedGraphs())
        trainer = made(config(n_critic=2, **exact), start=4)
        trainer.fit(progress_bar=False)
        runs.append([t for network in (trainer.generator, trainer.discriminator, trainer.ema) for t in network.state_dict().values()])
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))
    assert len(set(trainer.turns)) == 2 and all(turn.run.graphs == 1 for turn in trainer.turns)


def test_before_the_start_it_is_not_called_but_once_to_see_whether_it_can_be():
    trainer, calls = made(config(), start=4), []
    trainer.discriminator.register_forward_hook(lambda *_: calls.append(trainer.steps))
    state = copy.deepcopy(trainer.discriminator.state_dict())
    for step in range(1, 7):
        trainer.step()
        assert calls == [0, *(at for at in range(4, step + 1) for _ in range(3))]
        if step < 4:
            assert all(torch.equal(a, b) for a, b in zip(trainer.discriminator.state_dict().values(), state.values(), strict=True))
    with pytest.raises(RuntimeError, match=r"the first update failed: .* \(the generator is called with the images, the discri"):
        made(config(), Autoencoder(), Judge(3), start=1000).step()
    flat = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(0), nn.Identity())
    with pytest.raises(ValueError, match="wants logits for each"):
        made(config(), Autoencoder(), flat, start=1000).step()


def test_images_with_labels_and_parts_of_items():
    seen = []

    class Told(Judge):
        def forward(self, x, label):
            seen.append(label)
            return super().forward(x)

    labels, c = torch.arange(32), config(steps=1)
    pairs = Trainer(Autoencoder(), Told(), (images(), labels), c, objective=autoencoding(c), condition=True)
    pairs.fit(progress_bar=False)
    assert seen and all(label.shape == (8,) for label in seen)
    assert pairs.sample(4).shape == (4, 1, 8, 8) and pairs.told(4)[1].shape == (4, 1, 8, 8)
    items = {"clean": images(), "noisy": images() + 0.1 * torch.randn(32, 1, 8, 8)}
    for own in ({}, {"condition": "noisy"}):
        trainer = Trainer(Network(Autoencoder(), **own), Judge(), items, c, objective=autoencoding(c), real="clean")
        trainer.fit(progress_bar=False)
        assert trainer.sample(4).shape == (4, 1, 8, 8)


def test_as_a_term_beside_one_of_the_users_own():
    c, rows = config(steps=2), []
    term = autoencoding(c, generator="vae", discriminator="judge", start=2)
    bright = lambda networks, batch: batch.fake(networks.vae)[0].mean().square()
    phases = [Phase("d", "judge", {"gan": (term, 1)}), Phase("g", "vae", {"gan": (term, 1), "bright": (bright, 0.1)}, average=True)]
    networks = {"vae": Autoencoder(), "judge": Judge()}
    Trainer(networks=networks, data=images(), config=c, phases=phases, callbacks=[lambda _, row: rows.append(row)]).fit(progress_bar=False)
    assert "gan/loss_d" not in rows[0] and {"gan/loss_d", "gan/loss_g", "gan/adaptive_weight", "gan/kl", "bright"} <= rows[1].keys()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"kl": -1.0}, "autoencoding: kl is -1.0, wants no negative number"),
        ({"weight": "much"}, "weight is 'much', wants no negative number"),
        ({"start": 1.5}, "start is 1.5, wants the number of a step"),
        ({"distance": "L1"}, "distance='L1' is unknown; valid: l1, l2. Did you mean 'l1'"),
        ({"perceptual": "laplace"}, "perceptual='laplace' is unknown; valid: laplacian, random. Did you mean 'laplacian'"),
        ({"perceptual": nn.Identity}, "perceptual is the class Identity"),
        ({"perceptual": 3}, "perceptual is a int"),
        ({"perceptual": lambda *images: 0}, "perceptual takes 0 arguments by position, wants 1 or 2"),
        ({"reconstruct": "encode"}, "reconstruct is a str, wants a function"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_serve(how, words):
    with pytest.raises((TypeError, ValueError), match=words):
        autoencoding(config(), **how)


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="mode_seeking compares samples of two latents"):
        autoencoding(config(mode_seeking=1.0))
    with pytest.raises(ValueError, match="the autoencoder 'generator' has an output or call of its own"):
        made(config(), Network(Autoencoder(), output=0), Judge())
    judge = Judge()
    with pytest.raises(ValueError, match="perceptual would be frozen, and shares parameters with the network 'discriminator'"):
        made(config(), Autoencoder(), judge, perceptual=judge.layers)
    half = nn.Sequential(nn.Conv2d(1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"the autoencoder gives shape \[8, 1, 4, 4\], the images have \[8, 1, 8, 8\]"):
        made(config(), half, Judge(), start=9).step()
    autoencoder = Autoencoder()
    autoencoder.spare = nn.Conv2d(1, 1, 1)
    with pytest.raises(ValueError, match="last_layer 'spare' is not in the reconstruction's graph"):
        made(config(), autoencoder, Judge(), start=9, last_layer="spare").step()
    own = lambda autoencoder, image: (autoencoder(image)[0], {"loss_g": image.mean()})
    with pytest.raises(ValueError, match="gives a loss 'loss_g', and there is one of that name"):
        made(config(), Autoencoder(), Judge(), start=9, reconstruct=own).step()
    with pytest.raises(ValueError, match="ends in a Sigmoid"):
        made(config(), Autoencoder(), nn.Sequential(nn.Conv2d(1, 1, 3), nn.Sigmoid()), start=9)
    with pytest.raises(TypeError, match="Network: call is 3, wants a function, or None"):
        Network(judge, call=3)
