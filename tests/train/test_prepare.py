"""Norms that the config asks for: on whatever makes a layer's weight, or refused, never left out in silence. Which networks are
accelerated, when, and that they train alike."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

import ganfast
from ganfast.train import Trainer
from ganfast.train.command_line import recipes
from ganfast.train.prepare import normalise
from tests.train.common import log_rows, small, trained
from tests.train.test_own_things import config, nets, points


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def doubled(layer: nn.Module) -> nn.Module:
    register_parametrization(layer, "weight", Doubled())
    return layer


WEIGHTS = {
    "plain": lambda m: m,
    "older weight norm": weight_norm,
    "older weight norm, whole": lambda m: weight_norm(m, dim=None),
    "weight norm": parametrizations.weight_norm,
    "older spectral norm": spectral_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "own": doubled,
    "spectral norm, then more": lambda m: doubled(parametrizations.spectral_norm(m)),
    "weight norm of another tensor": lambda m: parametrizations.weight_norm(m, "bias", dim=None),
}  # fmt: skip
LAYERS = {
    "linear": lambda: (nn.Linear(6, 8), torch.randn(3, 6)),
    "conv": lambda: (nn.Conv2d(6, 8, 1), torch.randn(3, 6, 2, 2)),
    "transposed": lambda: (nn.ConvTranspose2d(6, 8, 1), torch.randn(3, 6, 2, 2)),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_every_layers_own_weight_has_spectral_norm_1(weight, layer):
    torch.manual_seed(0)
    made, x = LAYERS[layer]()
    with torch.no_grad():
        made.weight.mul_(5)
    network = nn.Sequential(WEIGHTS[weight](made))
    before = {p: p.clone() for p in network.parameters()}
    normalise(network, 0)
    for _ in range(30):
        network(x)
    y = network.eval()(x)
    rows = made.weight.transpose(0, 1) if layer == "transposed" else made.weight
    assert torch.linalg.matrix_norm(rows.detach().flatten(1), 2).item() == pytest.approx(1, abs=2e-3)
    by_weight = x.flatten(2).transpose(1, 2) @ rows.flatten(1).T + made.bias if x.dim() > 2 else x @ rows.T + made.bias
    torch.testing.assert_close(y.flatten(2).transpose(1, 2) if x.dim() > 2 else y, by_weight)
    y.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert all(p in before and torch.equal(p, before[p]) for p in network.parameters())  # an optimizer's, or shared: the same objects


def test_what_cannot_be_normalised_is_refused_by_name(capfd, monkeypatch):
    monkeypatch.setattr("ganfast._tell._told", set())
    pruned = nn.Sequential(nn.Linear(2, 4), nn.Sequential(prune.random_unstructured(nn.Linear(4, 1), "weight", 0.5)))
    with pytest.raises(ValueError, match=r"layer '1.0', a Linear whose weight is no parameter.*prune"):
        Trainer(nets()[0], pruned, points(), config(spectral_norm=True))
    with pytest.raises(ValueError, match="spectral_norm finds no convolution, linear or embedding layer"):
        Trainer(nets()[0], nn.Bilinear(2, 2, 1), points(), config(spectral_norm=True))
    assert "spectral_norm leaves" not in capfd.readouterr().err
    normalise(nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Bilinear(2, 2, 1), "c": nn.BatchNorm1d(3)}), 0)
    assert "spectral_norm leaves b.weight of the discriminator as they are" in capfd.readouterr().err


def test_switches_that_change_nothing_say_so(capfd, monkeypatch):
    monkeypatch.setattr("ganfast._tell._told", set())
    Trainer(*nets(), points(), config())
    Trainer(*nets(backbone=True), points(), config(sync_batch_norm=True))  # which has batch norms
    assert "changes nothing" not in capfd.readouterr().err
    Trainer(*nets(), points(), config(sync_batch_norm=True, metrics_every=5, tensorboard=True))
    said = capfd.readouterr().err
    assert all(f"{name} changes nothing" in said for name in ("sync_batch_norm", "metrics_every", "tensorboard"))


@pytest.fixture
def calls(monkeypatch):
    """The networks that `accelerate` was called with, and whether each had spectral norm by then."""
    found, accelerate = [], ganfast.accelerate

    def noted(network):
        found.append((network, any(map(is_parametrized, network.modules()))))
        return accelerate(network)

    monkeypatch.setattr(ganfast, "accelerate", noted)
    return found


def test_a_recipes_networks_are_accelerated_before_anything_copies_them(tmp_path, calls):
    trainer = recipes.trainer(small(tmp_path / "run", fused=True, spectral_norm=True, steps=1))
    assert calls == [(trainer.generator, False), (trainer.discriminator, True)]
    assert type(trainer.ema) is type(trainer.generator)
    for name, optimizer in trainer.optimizers.items():
        assert {*optimizer.param_groups[0]["params"]} == {*getattr(trainer, name).parameters()}
    trainer.fit(progress_bar=False)
    sampler = recipes.load_sampler(tmp_path / "run")
    assert calls[2:] == [(sampler.generator, False)]


def test_users_networks_are_accelerated_too_unless_torchs_own_are_asked_for(tmp_path, calls):
    trainer = Trainer(*nets(), points(), config(fused=True))
    assert calls == [(trainer.generator, False), (trainer.discriminator, False)]
    trainer.fit(progress_bar=False)
    Trainer(*nets(), points(), config(fused=False))
    recipes.trainer(small(tmp_path / "run", steps=1, fused=False)).fit(progress_bar=False)
    recipes.load_sampler(tmp_path / "run")
    assert len(calls) == 2


@pytest.mark.parametrize(
    "how",
    [
        {"spectral_norm": True, "loss": "hinge"},
        pytest.param({"condition": "label", "n_critic": 2}, marks=pytest.mark.prove),
        {"r1": 1.0, "penalty_every": 2, "channels_last": True},
    ],
    ids=str,
)
def test_accelerated_it_is_the_same_run_within_rounding(tmp_path, how):
    """And a checkpoint of either kind goes on as the other."""
    rows = []
    for name, first, then in (("plain", False, False), ("fast", True, True), ("slower", True, False), ("faster", False, True)):
        settings = {"log_every": 1, "learning_rate": 1e-5} | how
        trained(tmp_path / name, fused=first, steps=2, **settings)
        recipes.trainer(small(tmp_path / name, fused=then, steps=4, **settings), resume=True).fit(progress_bar=False)
        rows.append([{key: row[key] for key in ("loss_d", "loss_g", "grad_d", "grad_g")} for row in log_rows(tmp_path / name)])
    assert len(rows[0]) == 4
    for other in rows[1:]:
        assert other == [pytest.approx(row, rel=1e-3, abs=1e-5) for row in rows[0]]
