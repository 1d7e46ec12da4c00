"""Any number of networks by name: their phases, optimizers, averages, samples, files, and runs that go on."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from ganfast.train import Evaluate, ImagePool, Network, Phase, TrainConfig, Trainer, adversarial
from ganfast.train.data import unpaired
from tests.step.recorded import RecordedGraphs


def net(out: int, inner: int = 2, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inner, 8), nn.Tanh(), nn.Linear(8, out))


def config(**settings) -> TrainConfig:
    return TrainConfig(**{"steps": 4, "batch_size": 8, "latent_dim": 0, "precision": "fp32", "log_every": 2, "fused": False} | settings)


def domains():
    torch.manual_seed(5)
    return unpaired(a=torch.randn(40, 2), b=torch.randn(30, 2) * 0.1 + 3)


def cycle(networks, batch):
    back = networks.ba(batch.fake(networks.ab))
    return F.l1_loss(back, batch.data["a"])


def translation(c: TrainConfig, **options) -> Trainer:
    """Two generators and two discriminators of a CycleGAN on points."""
    a = adversarial(c, generator="ba", discriminator="d_a", fake=ImagePool(16))
    b = adversarial(c, generator="ab", discriminator="d_b", fake=ImagePool(16))
    networks = {
        "ab": Network(net(2, seed=1), condition="a", real="b"),
        "ba": Network(net(2, seed=2), condition="b", real="a", learning_rate=1e-3),
        "d_a": Network(net(1, seed=3), condition=None, betas=(0.5, 0.99)),
        "d_b": Network(net(1, seed=4), condition=None, weight_decay=0.01),
    }
    phases = [
        Phase("d", ("d_a", "d_b"), {"a": (a, 1), "b": (b, 1)}),
        Phase("g", ("ab", "ba"), {"a": (a, 1), "b": (b, 1), "cycle": (cycle, 5)}, average=True),
    ]
    return Trainer(networks=networks, data=domains(), config=c, phases=phases, **options)


def states(trainer: Trainer) -> dict:
    return {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in trainer.parts.items()}


def test_two_generators_and_two_discriminators_learn_a_translation(tmp_path):
    trainer = translation(config(steps=150, learning_rate=5e-3, run_dir=str(tmp_path), log_every=50, sample_every=100))
    trainer.fit(progress_bar=False)
    fakes = trainer.sample(20, trainer.told(20, "ab")[1], network="ab")
    assert (fakes.mean(0) - 3).abs().max() < 1.7 < 2.5 < (trainer.told(20, "ab")[1]["a"].mean(0) - 3).abs().min()
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    named = {"a/loss_d", "b/loss_d", "a/loss_g", "cycle", "spread", "ba/spread", "a/grad_from_d", "b/grad_from_d", "grad_d", "grad_g"}
    assert named <= row.keys()
    files = {path.name for path in tmp_path.glob("*.safetensors")}
    assert files == {f"{name}.safetensors" for name in ("ab", "ba", "d_a", "d_b", "ab-ema", "ba-ema")}
    assert len(list((tmp_path / "grids").glob("*-ba.png"))) == len(list((tmp_path / "grids").glob("*.png"))) / 2 > 0


def test_a_run_of_many_networks_goes_on_bit_for_bit_pools_and_all(tmp_path):
    whole = translation(config(steps=8))
    whole.fit(progress_bar=False)
    first = translation(config(steps=8, run_dir=str(tmp_path), checkpoint_every=5))
    for _ in range(5):
        first.step()
    first.save(tmp_path / "at5.pt")
    c = config(steps=8)
    again = translation(c, _resumed=(tmp_path / "at5.pt", ganfast.train.checkpoint.load(tmp_path / "at5.pt")))
    assert again.steps == 5
    again.fit(progress_bar=False)
    for name, state in states(whole).items():
        for key, value in state.items():
            assert torch.equal(value, states(again)[name][key]), (name, key)
    assert whole.parts["d/a-pool"].count == 16 and whole.parts["d/a-pool"].images.abs().sum() > 0


def test_recorded_it_is_the_same_run(monkeypatch):
    """With a stand-in for graphs; tests/gpu does it with CUDA's."""
    runs = []
    for name in ("plain", "recorded"):
        if name == "recorded":
            monkeypatch.setattr("ganfast.step.capture.graphs_for", lambda reached, leaves: RecordedGraphs())
        trainer = translation(config(steps=6, ema=0.75, ema_ramp=0.0, decay_from=1.0, learning_rate=2.0**-12))
        trainer.rates["ba"] = 2.0**-11
        trainer.fit(progress_bar=False)
        runs.append(states(trainer))
    assert [turn.run.graphs for turn in trainer.turns] == [1]
    different = [(name, key) for name in runs[0] for key in runs[0][name] if not torch.equal(runs[0][name][key], runs[1][name][key])]
    assert different == []


def test_each_network_has_its_optimizers_settings_and_only_its_phases_move_it():
    trainer = translation(config())
    group = {name: optimizer.param_groups[0] for name, optimizer in trainer.optimizers.items()}
    assert trainer.rates == {"ab": 5e-4, "ba": 1e-3, "d_a": 5e-4, "d_b": 5e-4}
    assert group["d_a"]["betas"] == (0.5, 0.99) and group["ab"]["betas"] == (0.5, 0.9)
    assert group["d_b"]["weight_decay"] == 0.01 and group["d_b"]["decoupled_weight_decay"] and not group["ab"]["weight_decay"]
    trainer.phases = trainer.phases[:1]
    trainer.turns[0].phases = trainer.phases
    before = states(trainer)
    trainer.step()
    moved = {name for name, state in states(trainer).items() if any(not torch.equal(v, before[name][k]) for k, v in state.items())}
    assert moved == {"d_a", "d_b", "d/a-pool", "d/b-pool"}
    assert all(p.grad is None for name in ("ab", "ba") for p in trainer.networks[name].parameters())
    assert all(p.requires_grad for name in trainer.networks for p in trainer.networks[name].parameters())


def test_one_network_alone_reconstructs():
    x = torch.randn(200, 2) * 0.3
    reconstruction = lambda networks, batch: F.mse_loss(batch.fake(networks.generator), batch.real)
    phases = [Phase("g", "generator", {"l2": (reconstruction, 2.0)}, average=True)]
    c = config(steps=300, learning_rate=5e-3)
    trainer = Trainer(net(2), None, x, c, phases=phases, condition=lambda points: points)
    trainer.fit(progress_bar=False)
    assert F.mse_loss(trainer.sample(200, x), x) < 0.02
    assert trainer.discriminator is None and trainer.latent_shape is None
    with pytest.raises(ValueError, match=r"latents got .* the generator takes no latent"):
        trainer.sample(4, x[:4], latents=torch.zeros(4, 2))


def test_a_frozen_teacher_is_used_and_stays():
    teacher = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    term = lambda networks, batch: F.mse_loss(batch.fake(networks.student), networks.teacher(batch.real))
    networks = {"student": net(2), "teacher": Network(teacher, frozen=True)}
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    phases = [Phase("s", "student", {"distill": (term, 1)})]
    trainer = Trainer(networks=networks, data=torch.randn(40, 2), config=config(), phases=phases, condition=lambda x: x)
    trainer.fit(progress_bar=False)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items()) and not teacher.training
    assert set(trainer.optimizers) == {"student"} and not trainer.averages and trainer.ema is trainer.networks.student


def test_one_name_in_two_phases_gets_its_phases_name_and_floats_are_logged(tmp_path):
    def objective(phase, networks, batch):
        real = networks.d(batch.real).mean()
        if phase.name == "d":
            return F.softplus(networks.d(batch.fake(networks.g))).mean() + F.softplus(-real), {"loss": real, "two": 2.0}
        return F.softplus(-networks.d(batch.fake(networks.g))).mean(), {"loss": real * 0 + 7}

    phases = [Phase("d", "d"), Phase("g", "g", average=True)]
    networks = {"g": net(2), "d": net(1)}
    c = config(latent_dim=2, run_dir=str(tmp_path))
    Trainer(networks=networks, data=torch.randn(40, 2), config=c, phases=phases, objective=objective).fit(progress_bar=False)
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert row["g/loss"] == 7 and "d/loss" in row and "loss" not in row and row["two"] == 2


def test_a_bare_loss_is_enough_for_an_objective():
    objective = lambda phase, g, d, batch: F.softplus(d(batch.fake(g)) * (1 if phase.name == "d" else -1)).mean()
    Trainer(net(2), net(1), torch.randn(40, 2), config(latent_dim=2), objective=objective).step()


def test_a_discriminators_phase_leaves_the_generator_no_gradients_whatever_the_order():
    """The graph of shared fakes is kept, the weights' gradients in between are not computed."""
    for names in (("d", "g"), ("g", "d")):
        seen = {}

        def objective(phase, g, d, batch, seen=seen):
            loss = F.softplus(d(batch.fake(g)) * (1 if phase.name == "d" else -1)).mean()
            seen[phase.name] = [p.requires_grad for n in (g, d) for p in n.parameters()]
            return loss

        phases = [Phase(name, {"d": "discriminator", "g": "generator"}[name]) for name in names]
        trainer = Trainer(net(2), net(1), torch.randn(40, 2), config(latent_dim=2), objective=objective, phases=phases)
        before = states(trainer)
        trainer.step()
        assert seen == {"d": [False] * 4 + [True] * 4, "g": [True] * 4 + [False] * 4}
        for name in ("generator", "discriminator"):
            assert any(not torch.equal(v, before[name][k]) for k, v in trainer.networks[name].state_dict().items()), (names, name)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"networks": {}}, "networks is {}, wants"),
        ({"networks": {"ema": net(2)}}, "networks has the name 'ema'"),
        ({"networks": {"g": net(2), "t": net(2)}}, r"no phase updates the network 't'.*frozen=True"),
        ({"networks": {"gen": net(2)}}, "a network of phase 'g'='g' is unknown"),
        ({"networks": {"g": Network(net(2), frozen=True)}}, "updates 'g', which is frozen"),
        ({"networks": {"g": Network(net(2), average=True)}}, "average=True, and no phase moves it"),
        ({"networks": {"g": net(2)}, "phases": None}, r"there is no network .generator.\. phases="),
        ({"networks": {"g": net(2)}, "generator": net(2)}, "networks was given beside generator"),
        ({"networks": {"g": net(2)}, "phases": [Phase("g", "g", ("adversarial",))]}, "a term of phase 'g'"),
        ({"networks": {"g": net(2)}, "condition": "x"}, "condition got 'x', and the data are one tensor"),
        ({"networks": {"g": net(2)}, "real": "x"}, "real got 'x', and the data are one tensor"),
        ({"networks": {"g": Network(net(2), condition="y")}, "data": {"x": torch.randn(9, 2)}}, "network 'g'='y'.*valid: x"),
        ({"networks": {"g": Network(net(2), condition="y")}, "data": (torch.randn(9, 2),) * 2}, "'g' got 'y', and an item is a pair"),
        ({"networks": {"g": Network(net(2), real=2)}, "data": (torch.randn(9, 2),) * 2}, "real of the network 'g'=2 .* valid: 0, 1"),
    ],
    ids=str,
)
def test_networks_that_cannot_serve(how, words):
    phases = [Phase("g", "g", {"l2": (lambda networks, batch: batch.fake(networks.g).mean(), 1)})]
    with pytest.raises((TypeError, ValueError), match=words):
        Trainer(**{"data": torch.randn(40, 2), "config": config(latent_dim=2), "phases": phases} | how)


def test_a_module_that_two_networks_of_a_phase_hold_is_refused_and_in_two_phases_learns_in_both():
    shared = nn.Linear(2, 2)
    one, two = nn.Sequential(shared, nn.Linear(2, 2)), nn.Sequential(shared, nn.Linear(2, 1))
    term = lambda networks, batch: networks.one(batch.real).mean() + networks.two(batch.real).mean()
    how = {"networks": {"one": one, "two": two}, "data": torch.randn(40, 2), "config": config(latent_dim=2)}
    with pytest.raises(ValueError, match=r"updates 'one' and 'two', which both hold the parameter '0\.weight'"):
        Trainer(**how, phases=[Phase("p", ("one", "two"), {"t": (term, 1)})])
    weights = []
    for names in (["one"], ["two"], ["one", "two"]):
        trainer = Trainer(**how, phases=[Phase(n, n, {"t": (term, 1)}) for n in ["one", "two"]])
        trainer.turns[0].phases = tuple(p for p in trainer.phases if p.name in names)
        before = shared.weight.clone()
        trainer.step()
        weights.append(shared.weight - before)
    assert all(change.abs().max() > 0 for change in weights) and weights[2].abs().max() > 1.5 * weights[0].abs().max()


def test_errors_against_the_truth_are_measured_on_held_out_pairs(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(300, 2)
    data = {"x": x[:200], "y": x[:200] * 2}
    held = {"x": x[200:], "y": x[200:] * 2}
    seen = {}

    def measure(fakes, reals, conditions):
        seen.update(fakes=fakes, reals=reals, conditions=conditions)
        return {"error": (fakes - reals).abs().mean().item()}

    l1 = lambda networks, batch: F.l1_loss(batch.fake(networks.generator), batch.real)
    c = config(steps=400, learning_rate=1e-2, log_every=200, run_dir=str(tmp_path))
    watch = Evaluate(200, measure=measure, best="error", samples=100, data=held)
    phases = [Phase("g", "generator", {"l1": (l1, 1)}, average=True)]
    trainer = Trainer(net(2), None, data, c, phases=phases, condition="x", real="y", callbacks=[watch])
    trainer.fit(progress_bar=False)
    assert torch.equal(seen["reals"], seen["conditions"] * 2) and len(seen["reals"]) == 100
    assert set(map(tuple, seen["conditions"].tolist())) == set(map(tuple, held["x"].tolist()))
    assert trainer.best["name"] == "error" and trainer.best["value"] < 0.3


def test_a_callback_stops_a_run_which_says_so(tmp_path, capsys):
    stop = lambda trainer, row: trainer.stop("the error is small enough")
    trainer = Trainer(net(2), net(1), torch.randn(40, 2), config(latent_dim=2, run_dir=str(tmp_path), sample_every=0), callbacks=[stop])
    trainer.fit(progress_bar=False)
    assert trainer.steps == 2 and trainer.stopped == "the error is small enough"
    assert "stopped at step 2 of 4 by the error is small enough; saved in" in "".join(capsys.readouterr())
    assert (tmp_path / "checkpoint-0000002.pt").exists()
