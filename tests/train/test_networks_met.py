"""What users of named networks met: fakes, conditions, what is sampled, settings that would be dropped, measures."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganfast.train import Evaluate, ImagePool, Network, Phase, Trainer, adversarial
from tests.train.test_networks import config, net, states, translation


def test_fakes_made_where_gradients_are_off_have_them_in_the_generators_phase():
    def objective(phase, g, d, batch):
        if phase.name == "d":
            with torch.no_grad():
                fake = batch.fake(g)
            assert not fake.requires_grad
            return F.softplus(d(fake)).mean() + F.softplus(-d(batch.real)).mean()
        return F.softplus(-d(batch.fake(g))).mean()

    trainer = Trainer(net(2), net(1), torch.randn(40, 2), config(latent_dim=2), objective=objective)
    before = states(trainer)["generator"]
    trainer.step()
    assert any(not torch.equal(v, before[k]) for k, v in trainer.generator.state_dict().items())


def test_a_condition_of_a_networks_own_is_made_once_a_batch():
    asked, seen = [], []

    def drawn(x):
        asked.append(len(x))
        return torch.rand(len(x), 1)

    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, x, condition):
            seen.append(condition)
            return self.layer(torch.cat([x, condition], 1))

    Trainer(net(2), Network(Critic(), condition=drawn), torch.randn(40, 2), config(latent_dim=2)).step()
    assert asked == [8] and len(seen) == 3 and all(torch.equal(condition, seen[0]) for condition in seen)


def test_a_condition_may_be_named_in_the_second_of_a_pair():
    told = []

    class Hears(nn.Linear):
        def forward(self, z, y):
            told.append(y)
            return super().forward(z)

    x, y = torch.randn(40, 2), torch.randn(40, 3)
    Trainer(Network(Hears(2, 2), condition="y"), nn.Linear(2, 1), (x, {"y": y, "z": x}), config(latent_dim=2)).step()
    assert told and all(given.shape[1] == 3 for given in told)


def test_what_is_sampled_is_said_and_can_be_chosen(tmp_path):
    """The generator first, whatever stands before it; an encoder is no generator."""
    term = lambda networks, batch: F.mse_loss(networks.generator(networks.encoder(batch.real)), batch.real)
    phases = [Phase("p", ("encoder", "generator"), {"l2": (term, 1)}, average=True)]
    how = {"data": torch.randn(40, 2), "phases": phases}
    make = lambda encoder, **settings: Trainer(
        networks={"encoder": encoder, "generator": net(2, 3)}, config=config(latent_dim=3, steps=2, **settings), **how
    )
    with pytest.raises(RuntimeError, match=r"the network 'encoder' cannot be sampled: .*sampled=False"):
        make(net(3)).fit(progress_bar=False)
    trainer = make(Network(net(3), sampled=False), run_dir=str(tmp_path), tensorboard=True)
    trainer.fit(progress_bar=False)
    assert trainer.sampled == ["generator"] and trainer.generator is trainer.networks.generator
    assert trainer.ema is trainer.averages["generator"]
    assert trainer.sample(3).shape == (3, 2)
    two = translation(config(steps=2, sample_every=1, run_dir=str(tmp_path / "two"), tensorboard=True))
    two.fit(progress_bar=False)  # TensorBoard shows the pictures of both
    assert two.sampled == ["ab", "ba"]


def test_reals_and_what_is_told_of_them_come_from_one_read():
    class Fresh(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                x = torch.randn(2)
                yield {"x": x, "y": 2 * x}

    phases = [Phase("g", "generator", {"l1": (lambda networks, batch: batch.fake(networks.generator).abs().mean(), 1)})]
    trainer = Trainer(net(2), None, Fresh(), config(), phases=phases, condition="x", real="y")
    real, told = trainer.told(200)
    assert len(real) == 200 and torch.equal(real, told["x"] * 2)


def test_the_usual_objective_serves_networks_by_name():
    c = config(latent_dim=2)
    trainer = Trainer(networks={"generator": net(2), "discriminator": net(1)}, data=torch.randn(40, 2), config=c, objective=adversarial(c))
    trainer.step()
    assert {"loss_d", "loss_g"} <= {name.partition("|")[2] for names, _ in trainer.meters.sums for name in names}


@pytest.mark.parametrize(
    ("settings", "terms", "words"),
    [
        ({"r1": 5.0, "penalty_every": 16}, {}, "has r1, which is due every 16 steps"),
        ({"r1": 5.0}, {"terms": ("adversarial", "r2")}, "has r2, whose weight in the config is 0"),
        ({}, {"fake": ImagePool(16)}, "two adversarial terms have one ImagePool"),
        ({"spectral_norm": True}, None, "spectral_norm finds no network 'discriminator'"),
    ],
    ids=str,
)
def test_settings_that_named_networks_would_drop_are_refused(settings, terms, words):
    c = config(latent_dim=2, **settings)
    once = None if terms is None else adversarial(c, generator="g", discriminator="d", **terms)
    again = None if terms is None else adversarial(c, generator="g", discriminator="d", **terms)
    plain = lambda networks, batch: networks.d(batch.fake(networks.g)).mean()
    phases = [Phase("d", "d", {"a": (once or plain, 1)}), Phase("g", "g", {"a": (again or plain, 1)})]
    with pytest.raises(ValueError, match=words):
        Trainer(networks={"g": net(2), "d": net(1)}, data=torch.randn(40, 2), config=c, phases=phases)


def test_fields_of_the_log_and_frozen_parts_are_left_alone():
    g = net(2)
    l2 = lambda networks, batch: batch.fake(networks.g).square().mean()
    make = lambda networks, name: Trainer(
        networks=networks, data=torch.randn(40, 2), config=config(latent_dim=2), phases=[Phase("g", "g", {name: (l2, 1)})]
    )
    with pytest.raises(ValueError, match="logs 'step', which is a field of the log's own"):
        make({"g": g}, "step").step()
    with pytest.raises(ValueError, match=r"'first' is frozen, and 'g' holds its parameter '0\.weight'"):
        make({"g": g, "first": Network(g[0], frozen=True)}, "l2")


def test_a_measure_takes_one_to_three_arguments():
    x, held = torch.randn(40, 2), torch.randn(10, 2)
    seen = []
    measures = [lambda f: seen.append([f]) or {}, lambda f, r: seen.append([f, r]) or {}, lambda f, r, c: seen.append([f, r, c]) or {}]
    phases = [Phase("g", "generator", {"l1": (lambda networks, batch: batch.fake(networks.generator).abs().mean(), 1)})]
    watch = [Evaluate(2, measure=measure, data=held, best=None) for measure in measures]
    Trainer(net(2), None, x, config(steps=2), phases=phases, condition=lambda x: x, callbacks=watch).fit(progress_bar=False)
    assert [len(given) for given in seen] == [1, 2, 3] and all(len(part) == 10 for given in seen for part in given)
    assert torch.equal(seen[2][1], seen[2][2]) and torch.equal(seen[1][1].sort(0).values, held.sort(0).values)
    with pytest.raises(ValueError, match="measure takes 4 arguments"):
        Evaluate(2, measure=lambda a, b, c, d: {})


def test_settings_that_no_phase_uses_are_said(capsys):
    phases = [Phase("d", "discriminator", {"adversarial": 1}), Phase("g", "generator", {"adversarial": 1}, average=True)]
    c = config(latent_dim=2, r1=5.0, gradient_penalty=1.0, n_critic=3)
    Trainer(net(2), net(1), torch.randn(40, 2), c, phases=phases)
    assert "r1, gradient_penalty, n_critic of the config change nothing: no phase has them" in capsys.readouterr().err
    Trainer(net(2), net(1), torch.randn(40, 2), config(latent_dim=2, r1=5.0))
    assert "change nothing" not in capsys.readouterr().err


def test_held_out_items_have_the_runs_form_and_measures_give_numbers():
    x, l1 = torch.randn(40, 2), lambda networks, batch: batch.fake(networks.generator).abs().mean()
    phases = [Phase("g", "generator", {"l1": (l1, 1)})]

    def run(watch):
        trainer = Trainer(net(2), None, (x, x), config(steps=2), phases=phases, condition=True, callbacks=[watch])
        trainer.fit(progress_bar=False)

    with pytest.raises(ValueError, match="data has the first item, the run's the first item, the second item"):
        run(Evaluate(2, measure=lambda f, r, c: {}, data=x))
    for given in (0.5, {"l1": torch.ones(2)}, {"l1": "a"}):
        with pytest.raises(TypeError, match="wants a dict of numbers"):
            run(Evaluate(2, measure=lambda f, given=given: given))
    run(Evaluate(2, measure=lambda f: {"a": torch.ones(()), "b": 1}))


def test_the_first_update_of_named_networks_says_what_the_run_has():
    phases = [Phase("p", "encoder", {"l": (lambda networks, batch: networks.encoder(batch.real).mean(), 1)})]
    with pytest.raises(RuntimeError, match=r"the first update failed: .*the run has no latents, .*and reals \[\d+, 2\]"):
        Trainer(networks={"encoder": nn.Linear(3, 1)}, data=torch.randn(40, 2), config=config(latent_dim=0), phases=phases).step()
