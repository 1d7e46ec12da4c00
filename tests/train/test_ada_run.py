"""Adaptive augmentation in runs: its probability follows the discriminator, is saved, logged, shared; what it does not go with."""

import pytest
import torch
from torch import nn

import ganfast
import ganfast.functional as GF
from ganfast import FiniteGuard, models
from ganfast.ada import AdaptiveAugment, ada_augment
from ganfast.train import Network, Phase, TrainConfig, Trainer, adversarial
from ganfast.train.command_line import recipes
from ganfast.train.phases import Batch, Draws
from ganfast.train.saving import checkpoint
from tests.step.recorded import RecordedGraphs
from tests.train.common import differences, log_rows, small, trained

ADA = {"augment": "ada", "ada_speed": 64}


def test_p_rises_while_the_discriminator_is_surer_than_the_target_and_falls_else():
    state = AdaptiveAugment(target=0.5, speed=1000, interval=3)
    seen = []
    for sign in (1.0, 0.0, 0.6, 0.4, 0.4, 0.6, 0.5, 0.5, 0.5, 1.0, 1.0):
        state.observe(torch.tensor(sign), 10)
        seen.append(round(state.p.item(), 4))
    # Means 0.53, 0.47 and 0.5 of three each, 30 images; then two, which do not move it yet.
    assert seen == [0, 0, 0.03, 0.03, 0.03, 0, 0, 0, 0, 0, 0] and state.images == 20
    for _ in range(200):
        state.observe(torch.ones(()), 10)
    assert state.p == 1
    for _ in range(300):
        state.observe(-torch.ones(()), 10)
    assert state.p == 0


def test_observations_weigh_as_their_images_and_nan_says_nothing():
    state = AdaptiveAugment(target=0.5, speed=100, interval=2)
    state.observe(torch.tensor(1.0), 1)
    state.observe(torch.tensor(0.0), 9)
    assert state.p == 0
    state.observe(torch.tensor(0.0), 1)
    state.observe(torch.tensor(1.0), 9)
    assert state.p == pytest.approx(0.1)
    state.observe(torch.tensor(float("nan")), 5)
    state.observe(torch.tensor(1.0), 5)
    assert state.p == pytest.approx(0.1)
    state.observe(torch.tensor(1.0), 5)
    state.observe(torch.tensor(1.0), 5)
    assert state.p == pytest.approx(0.2), "and is forgotten"


def test_its_state_goes_with_a_state_dict_and_a_step_that_is_skipped_leaves_it():
    state, other = AdaptiveAugment(speed=10), AdaptiveAugment(speed=10)
    for _ in range(6):
        state.observe(torch.ones(()), 1)
    other.load_state_dict(state.state_dict())
    for each in (state, other):
        each.observe(torch.ones(()), 1)
        each.observe(torch.ones(()), 1)
    assert state.p == other.p == pytest.approx(0.8)
    x = torch.randn(2, 3, 8, 8)
    torch.manual_seed(0)
    seen = state(x)
    torch.manual_seed(0)
    assert torch.equal(seen, ada_augment(x, 0.8)) or torch.equal(seen, ada_augment(x, state.p))
    network = nn.Linear(2, 1)
    optimizer, guard = torch.optim.SGD(network.parameters(), fused=True), FiniteGuard(network, state)
    with guard:
        for _ in range(4):
            state.observe(-torch.ones(()), 1)
        (network(torch.ones(1, 2)) * float("nan")).sum().backward()
        guard.step(optimizer)
    assert state.p == other.p


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"policy": "blits"}, "Did you mean 'blit'"),
        ({"target": 2}, "target is 2, wants a mean sign"),
        ({"speed": 0}, "speed is 0, wants a positive number"),
        ({"interval": 0}, "interval is 0, wants a whole number"),
    ],
)
def test_settings_that_make_no_sense(how, words):
    with pytest.raises(ValueError, match=words):
        AdaptiveAugment(**how)


def batch(augment="ada", p=0.9, n=4, seed=4):
    state = AdaptiveAugment(ganfast.ada.policy_of(augment))
    state.p.fill_(p)
    return Batch(torch.randn(n, 3, 8, 8), None, None, {}, Draws(torch.Generator().manual_seed(seed)), adaptive=state)


def test_what_the_discriminator_sees():
    b, again = batch(), batch()
    again.real = x = b.real
    draw = torch.Generator().manual_seed(4)
    wanted = ada_augment(x, 0.9, uniform=lambda *s: torch.rand(s, generator=draw), normal=lambda *s: torch.randn(s, generator=draw))
    assert torch.equal(b.view(x), again.view(x)) and not torch.equal(b.view(x), again.view(x)[:, :, :1].expand_as(x))
    torch.testing.assert_close(batch().view(x), wanted)
    seen, label, sequence = batch().view(x, torch.arange(4), torch.zeros(4, 7, 5))
    torch.testing.assert_close(seen, wanted)
    assert label.equal(torch.arange(4)) and sequence.shape == (4, 7, 5)
    for image in (x, x[:, :, :4, :4], torch.zeros(4, 8, 8), (torch.zeros(4), {"mask": x})):
        with pytest.raises(ValueError, match=r"ADA turns and stretches the samples.*augment=\"ada:color\", or DiffAugment"):
            batch().view(x, image)
    assert batch("ada:color").view(x, x)[1].equal(x)


def test_two_processes_draw_for_the_whole_batch():
    x = torch.randn(6, 1, 8, 8)
    seen = []
    for rank, world, part in ((0, 1, x), (0, 2, x[:3]), (1, 2, x[3:])):
        state = AdaptiveAugment()
        state.p.fill_(0.8)
        b = Batch(part, None, None, {}, Draws(torch.Generator().manual_seed(1), rank, world), adaptive=state)
        seen.append(b.view(part))
    torch.testing.assert_close(torch.cat(seen[1:]), seen[0])


def test_a_run_logs_it_and_goes_on_bit_for_bit(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    how = {"log_every": 2, "r1": 0.1, "checkpoint_every": 5, "ada_target": -0.99} | ADA
    trained(whole, **how)
    first = recipes.trainer(small(cut, **how))
    for _ in range(5):
        first.step()
    first.save(cut / "checkpoint-0000005.pt")  # one observation after p last moved
    first.run.close()
    resumed = recipes.trainer(small(cut, **how), resume=True)
    assert resumed.steps == 5 and resumed.parts["ada"].p == first.parts["ada"].p > 0 and resumed.parts["ada"].observed == 1
    resumed.fit(progress_bar=False)
    assert [key for key in differences(whole, cut) if not key.startswith(("/meters", "/numbers/logged", "/monitors"))] == []
    row = log_rows(whole)[-1]
    held = checkpoint.load(whole)["networks"]["ada"]
    assert row["ada_p"] == pytest.approx(held["p"].item()) and row["ada_sign"] == pytest.approx(row["real_sign"])


def constant(sign):
    """A discriminator sure that all images are real, or that none is."""

    class Sure(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return x.mean((1, 2, 3)) * self.weight + sign * 2.0

    return Sure()


def images(n=16, channels=1):
    return torch.rand(n, channels, 16, 16) * 2 - 1


def config(**changes):
    base = {"device": "cpu", "latent_dim": 6, "batch_size": 8, "steps": 4, "log_every": 4, "precision": "fp32", "fused": False}
    return TrainConfig(**base | ADA | changes)


@pytest.mark.parametrize(
    ("loss", "sign", "p"), [("hinge", 1, 0.5), ("hinge", -1, 0.0), ("nonsaturating", 1, 0.5), ("lsgan", 0.1, 0.0), ("lsgan", 0.5, 0.5)]
)
def test_the_probability_in_a_run(loss, sign, p):
    """lsgan's border lies at 0.5, so that logits of 0.2 call all images fake."""
    trainer = Trainer(models.DCGANGenerator(16, 6, 4, 1), constant(sign), images(), config(loss=loss))
    trainer.fit(progress_bar=False)
    assert trainer.parts["ada"].p == pytest.approx(p)


def test_recorded_it_is_the_same_run(monkeypatch):
    runs = []
    for name in ("plain", "recorded"):
        if name == "recorded":
            monkeypatch.setattr("ganfast.step.capture.graphs_for", lambda reached, leaves: RecordedGraphs())
        torch.manual_seed(0)
        c = config(steps=8, r1=0.1, ada_target=-0.99, ema=0.75, ema_ramp=0.0, decay_from=1.0, learning_rate=2.0**-12)
        trainer = Trainer(models.DCGANGenerator(16, 6, 4, 1), models.DCGANDiscriminator(16, 4, 1, norm=False), images(), c)
        trainer.fit(progress_bar=False)
        runs.append({f"{name}.{key}": v.clone() for name, part in trainer.parts.items() for key, v in part.state_dict().items()})
    assert runs[0]["ada.p"] > 0 and [key for key in runs[0] if not torch.equal(runs[0][key], runs[1][key])] == []


def test_a_step_that_is_skipped_does_not_move_it():
    def spoil(trainer, phase, loss):
        return loss * float("nan") if trainer.steps == 4 and phase.name == "d" else loss

    plain = adversarial(c := config())
    trainer = Trainer(models.DCGANGenerator(16, 6, 4, 1), constant(1), images(), c)
    trainer.objective = trainer.updates.objective = lambda phase, networks, b: (
        spoil(trainer, phase, (given := plain(phase, networks.generator, networks.discriminator, b))[0]), given[1],
    )  # fmt: skip
    trainer.fit(progress_bar=False)
    assert trainer.parts["ada"].p == 0 and trainer.parts["ada"].observed == 3


def nets(judge="discriminator", **more):
    d = models.DCGANDiscriminator(16, 4, 1)
    return {"generator": models.DCGANGenerator(16, 6, 4, 1), judge: Network(d, condition=None)} | more


def pair(c, *judges):
    terms = {judge: (adversarial(c, discriminator=judge), 1) for judge in judges}
    return [Phase("d", judges, terms), Phase("g", "generator", terms, average=True)]


def test_two_judges_and_none_and_objectives_of_the_users_own_are_refused():
    c = config()
    two = {"other": Network(models.DCGANDiscriminator(16, 4, 1))}
    with pytest.raises(ValueError, match=r"follows from the logits of one discriminator, and the run has 2: other, third.*DiffAugment"):
        Trainer(networks=nets("third", **two), data=images(), config=c, phases=[*pair_each(c, "third", "other")])
    own = lambda phase, generator, discriminator, b: discriminator(b.view(b.real)).mean()
    with pytest.raises(ValueError, match="one discriminator, and no phase has an adversarial term of ganfast's"):
        Trainer(*nets().values(), images(), c, objective=own)
    Trainer(networks=nets("third"), data=images(), config=c, phases=pair(c, "third")).step()
    Trainer(*nets().values(), images(), c, objective=adversarial(c)).step()


def pair_each(c, *judges):
    terms = {judge: (adversarial(c, discriminator=judge), 1) for judge in judges}
    return [*(Phase(f"d{judge}", judge, {judge: terms[judge]}) for judge in judges), Phase("g", "generator", terms, average=True)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"augment": "ada", "loss": "wasserstein"}, "augment got 'ada', wants no ADA with wasserstein"),
        ({"augment": "ada", "loss": "relativistic"}, "no ADA with relativistic, the signs of whose logits"),
        ({"augment": "ada:colour"}, "Did you mean 'color'"),
        ({"augment": "color,ada"}, "'ada' is unknown; valid: color, translation, cutout, ada alone"),
        ({"augment": "ada,color"}, "'ada' is unknown"),
        ({"ada_target": 1.5}, "ada_target got 1.5"),
        ({"ada_speed": 0}, "ada_speed got 0, wants at least 1"),
    ],
    ids=str,
)
def test_settings_that_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        TrainConfig(**changes)


def test_data_that_are_refused():
    with pytest.raises(ValueError, match="augment is 'ada', and the data are no images"):
        Trainer(models.MLPGenerator(6, 2, 8), models.MLPDiscriminator(2, 8), torch.randn(20, 2), config())
    with pytest.raises(ValueError, match=r"augment is 'ada', whose colours want 1 channel or 3, and the data have 2.*ada:blit,geom"):
        Trainer(models.DCGANGenerator(16, 6, 4, 2), models.DCGANDiscriminator(16, 4, 2), images(channels=2), config())
    with pytest.raises(ValueError, match="a network is called 'ada'"):
        ada = {"ada": Network(nn.Linear(1, 1), frozen=True, sampled=False)}
        Trainer(networks=nets(**ada), data=images(), config=config(), phases=pair(config(), "discriminator"))


def test_in_a_loop_of_ones_own():
    """As the docstring says."""
    discriminator, ada, real = constant(1), AdaptiveAugment(speed=32), images(8)
    for _ in range(4):
        _, stats = GF.discriminator_loss(discriminator(ada(real)), discriminator(ada(real)), return_stats=True)
        ada.observe(stats.real_sign, len(real))
    assert ada.p == 1
