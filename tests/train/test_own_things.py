"""Users' own networks, data and phases in the trainer: what they do by themselves is respected, what cannot work is said."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

from ganfast.train import Phase, TrainConfig, Trainer
from tests.train.common import leaves, same_bits


class Net(nn.Module):
    """Vectors to vectors, or to a logit, with what other people's networks have."""

    def __init__(self, width_in: int, out: int, dropout: float = 0.0, noise: float = 0.0, backbone: bool = False) -> None:
        super().__init__()
        frozen = nn.Sequential(nn.Linear(width_in, width_in), nn.BatchNorm1d(width_in)).eval().requires_grad_(False)
        self.backbone = frozen if backbone else None
        self.layers = nn.Sequential(nn.Linear(width_in, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, out))
        self.noise = noise

    def forward(self, x, condition=None):
        if condition is not None:
            x = torch.cat([x, condition], 1)
        x = x if self.backbone is None else self.backbone(x)
        x = x + self.noise * torch.randn_like(x) if self.noise else x
        return self.layers(x)


def nets(**how) -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net(3, 2, **how), Net(2, 1, **how)


def config(**changes) -> TrainConfig:
    settings = {"steps": 6, "latent_dim": 3, "batch_size": 8, "precision": "fp32", "log_every": 2, "checkpoint_every": 3, "sample_every": 0}
    return TrainConfig(**settings | changes)


def points(n: int = 40) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1))


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [t.clone() for network in (trainer.generator, trainer.discriminator) for t in network.state_dict().values()]


def equal(a: list, b: list) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def fitted(*args, **kwargs) -> Trainer:
    trainer = Trainer(*args, **kwargs)
    trainer.fit(progress_bar=False)
    return trainer


def test_dropout_and_noise_follow_from_the_seed_and_come_back_on_resume(tmp_path):
    how = {"dropout": 0.3, "noise": 0.1}
    whole = fitted(*nets(**how), points(), config(run_dir=str(tmp_path / "whole")))
    torch.manual_seed(123)  # whatever else a program draws
    fitted(*nets(**how), points(), config(run_dir=str(tmp_path / "cut"), steps=3, decay_from=1.0))
    torch.manual_seed(77)
    resumed = Trainer.load(tmp_path / "cut", *nets(**how), points(), config(run_dir=str(tmp_path / "cut")))
    before = torch.get_rng_state()
    resumed.fit(progress_bar=False)
    assert torch.equal(torch.get_rng_state(), before)  # the program's own numbers are left alone
    assert equal(weights(whole), weights(resumed))
    assert not equal(weights(whole), weights(fitted(*nets(**how), points(), config(seed=1))))


def test_samples_of_a_noisy_generator_repeat_and_change_nothing():
    often, seldom = (fitted(*nets(noise=0.5), points(), config(log_every=n)) for n in (1, 6))
    assert equal(weights(often), weights(seldom))
    assert torch.equal(often.sample(4, seed=1), often.sample(4, seed=1))


def test_a_part_that_is_frozen_in_eval_mode_stays_so():
    g, d = nets(backbone=True)
    before = {name: t.clone() for name, t in d.backbone.state_dict().items()}
    trainer = fitted(g, d, points(), config())
    assert not d.backbone.training and d.layers.training and trainer.steps == 6
    assert all(torch.equal(t, before[name]) for name, t in d.backbone.state_dict().items())


def test_a_network_in_eval_mode_is_trained_in_train_mode():
    g, d = nets()
    fitted(g.eval(), d.eval(), points(), config(steps=1))
    assert g.training and d.layers.training


def test_what_a_callback_freezes_stays_frozen():
    def freeze(trainer, row):
        trainer.discriminator.layers[0].requires_grad_(False)
        kept.append(trainer.discriminator.layers[0].weight.clone())

    kept = []
    trainer = fitted(*nets(), points(), config(), callbacks=[freeze])
    assert torch.equal(kept[0], trainer.discriminator.layers[0].weight) and not trainer.discriminator.layers[0].weight.requires_grad


def test_the_discriminator_learns_on_after_an_exception_in_the_generators_turn():
    g, d = nets()

    def objective(phase, generator, discriminator, batch):
        if phase.network == "generator":
            raise KeyboardInterrupt
        return discriminator(batch.real).mean(), {}

    with pytest.raises(KeyboardInterrupt):
        fitted(g, d, points(), config(), objective=objective)
    assert all(p.requires_grad for p in d.parameters())
    fitted(g, d, points(), config())


def test_phases_in_any_order_and_a_lazy_one():
    def objective(phase, generator, discriminator, batch):
        seen.append(phase.name)
        sign = 1 if phase.network == "discriminator" else -1
        return sign * discriminator(batch.fake(generator)).mean(), {}

    seen = []
    networks = {"d": "discriminator", "g": "generator", "d2": "discriminator", "g2": "generator"}
    order = [Phase(name, network) for name, network in networks.items()]
    fitted(*nets(), points(), config(steps=2), objective=objective, phases=[*order, Phase("lazy", "discriminator", interval=2)])
    assert seen == ["d", "g", "d2", "g2"] * 2 + ["lazy"]


def test_a_lazy_term_of_ones_own_phase_weighs_as_much_as_its_interval():
    lazy = [Phase("d", "discriminator", ("adversarial",)), Phase("g", "generator", ("adversarial",), average=True)]
    lazy.append(Phase("d_reg", "discriminator", ("r1",), interval=3))
    ours = fitted(*nets(), points(), config(r1=2.0), phases=lazy)
    theirs = fitted(*nets(), points(), config(r1=2.0, penalty_every=3))
    assert equal(weights(ours), weights(theirs))


def test_the_average_has_a_short_memory_at_first():
    trainer = Trainer(*nets(), points(), config(ema=0.9, ema_ramp=3.0))
    before = [p.clone() for p in trainer.ema.parameters()]
    trainer.step()
    for average, old, new in zip(trainer.ema.parameters(), before, trainer.generator.parameters(), strict=True):
        torch.testing.assert_close(average, old / 4 + new * 3 / 4)


def test_the_gradient_an_image_receives_does_not_depend_on_the_loss_scale():
    rows = {name: Trainer(*nets(), points(), config(precision=name)) for name in ("fp32", "fp16")}
    for trainer in rows.values():
        trainer.step()
    one, other = (trainer.meters.read(trainer.world)["grad_from_d"] for trainer in rows.values())
    assert one == pytest.approx(other, rel=0.05) and one > 0


class Restarting(IterableDataset):
    """Everyone who asks for an iterator sends all others back to the start."""

    def __init__(self) -> None:
        self.i = 0

    def __iter__(self):
        self.i = 0
        return self

    def __next__(self):
        self.i += 1
        if self.i > 1000:
            raise StopIteration
        return torch.full((2,), float(self.i))


def test_log_lines_leave_the_data_alone():
    def objective(phase, generator, discriminator, batch):
        firsts.append(batch.real[0, 0].item())
        return discriminator(batch.real).mean() if phase.name == "d" else batch.fake(generator).mean(), {}

    firsts = []
    fitted(*nets(), Restarting(), config(log_every=1, latent_dim=3), objective=objective)
    assert firsts[::2] == [1 + 8 * i for i in range(6)]


def test_fewer_conditions_than_samples_serve_in_turn():
    vectors = torch.randn(10, 1, generator=torch.Generator().manual_seed(2))
    trainer = fitted(Net(4, 2), Net(3, 1), (points(10), vectors), config(), condition=True)
    assert trainer.sample(100).shape == (100, 2)


def test_a_run_that_was_moved_goes_on_where_it_lies(tmp_path):
    fitted(*nets(), points(), config(run_dir=str(tmp_path / "old"), steps=3))
    (tmp_path / "old").rename(tmp_path / "new")
    resumed = Trainer.load(tmp_path / "new", *nets(), points())
    assert resumed.run_dir == tmp_path / "new" and not (tmp_path / "old").exists()


def test_a_resumed_run_keeps_its_table_of_vectors(tmp_path):
    labels, table = torch.arange(40) % 3, torch.eye(3)
    make = lambda: (Net(6, 2), Net(5, 1))
    fitted(*make(), (points(), labels), config(run_dir=str(tmp_path)), condition=table)
    with pytest.raises(ValueError, match="condition got another table"):
        Trainer.load(tmp_path, *make(), (points(), labels), condition=table * 2)


def test_a_checkpoint_of_other_optimizer_settings_takes_this_runs(tmp_path):
    """As one of a CPU does on a GPU, where the optimizer must be capturable."""
    trainer = fitted(*nets(), points(), config(run_dir=str(tmp_path)))
    state = trainer.optimizers["generator"].state_dict()
    resumed = Trainer.load(tmp_path, *nets(), points())
    group = resumed.optimizers["generator"].param_groups[0]
    assert {k: v for k, v in group.items() if k != "params"}.keys() <= state["param_groups"][0].keys()
    for other in trainer.optimizers.values():
        other.param_groups[0].update(capturable=True, eps=1e-3)
    trainer.save(tmp_path / "other.pt")
    again = Trainer.load(tmp_path / "other.pt", *nets(), points(), config())
    assert not again.optimizers["generator"].param_groups[0]["capturable"]
    moments = (dict(leaves(t.optimizers["generator"].state_dict()["state"])) for t in (trainer, again))
    assert all(same_bits(a, b) for a, b in zip(*(m.values() for m in moments), strict=True))


def test_a_mistake_leaves_the_folder_free(tmp_path):
    try:
        Trainer(*nets(), torch.zeros(5, 2, dtype=torch.int64), config(run_dir=str(tmp_path)))
    except ValueError as error:
        kept = error  # as a notebook keeps it, with all that its frames hold
    assert "data" in str(kept)
    fitted(*nets(), points(), config(run_dir=str(tmp_path), steps=1))


def test_a_callbacks_numbers_of_any_kind_are_written(tmp_path):
    def add(trainer, row):
        row["mine"], row["nan"] = torch.tensor(0.5), math.nan

    trainer = fitted(*nets(), points(), config(run_dir=str(tmp_path), steps=2), callbacks=[add])
    assert '"mine": 0.5, "nan": null' in (trainer.run_dir / "log.jsonl").read_text()


class Several(nn.ModuleDict):
    """Networks that an objective calls one by one."""


def test_a_container_of_networks_trains_without_samples(tmp_path):
    def objective(phase, generator, discriminator, batch):
        fake = generator["b"](generator["a"](batch.latent))
        sign = 1 if phase.network == "discriminator" else -1
        return sign * discriminator["x"](fake.detach() if sign == 1 else fake).mean(), {}

    g, d = Several({"a": nn.Linear(3, 4), "b": nn.Linear(4, 2)}), Several({"x": nn.Linear(2, 1)})
    trainer = fitted(g, d, points(), config(run_dir=str(tmp_path), sample_every=2), objective=objective)
    assert trainer.steps == 6 and "spread" not in (tmp_path / "log.jsonl").read_text() and (tmp_path / "curves.png").exists()


def test_spectral_norm_bounds_every_layer_of_the_discriminator():
    g, d = nets()
    with torch.no_grad():
        d.layers[0].weight.mul_(50)
    plain = {name: p.clone() for name, p in g.named_parameters()}
    trainer = Trainer(g, d, points(), config(spectral_norm=True))
    assert all(torch.equal(p, plain[name]) for name, p in g.named_parameters())
    trainer.fit(progress_bar=False)
    for layer in (d.layers[0], d.layers[3]):
        assert torch.linalg.matrix_norm(layer.weight, 2) < 1.2 and "weight" not in layer._parameters
