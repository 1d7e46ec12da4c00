"""Path lengths: the penalty against explicit Jacobians, its mean, a run with it; lazy penalties' correction; courses of settings."""

import math

import pytest
import torch
from torch import nn

import ganfast
from ganfast.models import StyleGAN2Discriminator, StyleGAN2Generator
from ganfast.penalties import path_length_penalty
from ganfast.train import Network, Phase, TrainConfig, Trainer
from ganfast.train.objectives.paths import PathLengths
from ganfast.train.phases import corrections, phases_of
from tests.step.recorded import RecordedGraphs

FP64 = torch.float64


class Linear(nn.Module):
    """Styles [N, D] or [N, L, D] to 4x2 images, linearly."""

    def __init__(self, layers, size=5):
        super().__init__()
        self.map = nn.Parameter(torch.randn(layers * size, 8, dtype=FP64))

    def forward(self, styles):
        return (styles.flatten(1) @ self.map).view(-1, 1, 4, 2)


@pytest.mark.parametrize("layers", [1, 3])
def test_lengths_are_those_of_the_jacobian(layers):
    torch.manual_seed(0)
    synthesis, noise, mean = Linear(layers), torch.randn(6, 1, 4, 2, dtype=FP64), torch.tensor(2.0, dtype=FP64)
    styles = torch.randn(6, 5, dtype=FP64) if layers == 1 else torch.randn(6, layers, 5, dtype=FP64)
    penalty, lengths = path_length_penalty(synthesis, styles, mean, draw=lambda images: noise, memory=0.9)
    back = (noise.flatten(1) / math.sqrt(8) @ synthesis.map.T).view(6, layers, 5)  # J^T y
    expected = back.square().sum(2).mean(1).sqrt()
    torch.testing.assert_close(lengths, expected)
    torch.testing.assert_close(mean, 0.9 * 2 + 0.1 * expected.mean().detach())
    torch.testing.assert_close(penalty, (expected - mean).square().mean())
    path_length_penalty(synthesis, styles, mean, over=lambda now: now * 0 + 5, memory=torch.tensor(0.0))
    assert mean == 5  # of several processes


def test_its_gradient_is_finite_differences():
    torch.manual_seed(0)
    synthesis = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 12), nn.Unflatten(1, (3, 2, 2))).double()
    styles, noise = torch.randn(3, 4, dtype=FP64), torch.randn(3, 3, 2, 2, dtype=FP64)
    parameters = [p for p in synthesis.parameters()][:3]  # the last bias does not matter

    def penalty(*values):
        call = lambda w: torch.func.functional_call(synthesis, dict(zip(("0.weight", "0.bias", "2.weight"), values)), (w,))
        return path_length_penalty(call, styles, torch.zeros((), dtype=FP64), draw=lambda images: noise, memory=1.0)[0]

    assert torch.autograd.gradcheck(penalty, [p.detach().requires_grad_() for p in parameters])
    with torch.no_grad():
        assert not penalty(*parameters).requires_grad


class Uneven(nn.Module):
    """Styles [N, 32] to images that change thrice as fast on one side of a plane as on the other."""

    def __init__(self):
        super().__init__()
        self.side, self.image, self.rise = nn.Linear(32, 1), nn.Linear(32, 64), nn.Parameter(torch.tensor(2.0))

    def forward(self, w):
        return (self.image(w) * (1 + self.rise * torch.sigmoid(self.side(w) * 6))).view(-1, 1, 8, 8)


def test_deviation_falls_where_it_is_minimised():
    torch.manual_seed(0)
    synthesis, mean, seen = Uneven(), torch.zeros(()), []
    optimizer = torch.optim.Adam(synthesis.parameters(), 2e-2)
    for _ in range(120):
        penalty, lengths = path_length_penalty(synthesis, torch.randn(64, 32), mean)
        seen.append((lengths.std() / lengths.mean()).item())
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
    assert sum(seen[-20:]) < 0.6 * sum(seen[:20])


def test_what_the_penalty_refuses():
    mean = torch.zeros(())
    with pytest.raises(TypeError, match=r"mean is 0\.0, wants a 0-d floating tensor"):
        path_length_penalty(Linear(1), torch.randn(2, 5, dtype=FP64), 0.0)
    with pytest.raises(ValueError, match=r"styles has shape \(2, 1, 1, 5\)"):
        path_length_penalty(Linear(1), torch.randn(2, 1, 1, 5, dtype=FP64), mean)
    with pytest.raises(ValueError, match=r"synthesis gives shape \(2, 8\), wants \[N, C, H, W\]"):
        path_length_penalty(lambda w: w @ torch.ones(5, 8, dtype=FP64), torch.randn(2, 5, dtype=FP64), mean)
    with pytest.raises(RuntimeError, match="do not depend on the styles"):
        path_length_penalty(lambda w: torch.zeros(2, 1, 4, 4), torch.randn(2, 5), mean)
    with pytest.raises(RuntimeError, match="the synthesis is compiled"):
        path_length_penalty(torch.compile(Linear(1)), torch.randn(2, 5, dtype=FP64), mean)


def styled(steps=5, **changes):
    torch.manual_seed(0)
    networks = StyleGAN2Generator(8, 6, 4, 1, mapping_layers=1, widest=4), StyleGAN2Discriminator(8, 4, 1, widest=4)
    given = {"steps": steps, "batch_size": 6, "latent_dim": 6, "log_every": 1, "precision": "fp32", "fused": False, "betas": (0.0, 0.99)}
    config = TrainConfig(**given | {"path_length": 2.0, "path_length_every": 2, "r1": 1.0, "penalty_every": 4} | changes)
    return networks, torch.randn(40, 1, 8, 8).clamp(-1, 1), config


def test_a_run_with_path_lengths_goes_on_where_it_was_saved(tmp_path):
    rows = []
    (g, d), data, config = styled()
    trainer = Trainer(g, d, data, config, callbacks=[lambda _, row: rows.append(row)])
    trainer.fit(progress_bar=False)
    assert [("path_length" in row, "r1" in row) for row in rows] == [(k % 2 == 0, k % 4 == 0) for k in range(1, 6)]
    assert rows[1]["path_penalty"] > 0 and 0 < rows[1]["path_deviation"] < 1 and rows[1]["grad_g_path"] > 0
    (mean,) = (module.mean for name, module in trainer.parts.items() if name.endswith("paths"))
    lengths = [row["path_length"] for row in rows if "path_length" in row]
    assert mean.item() == pytest.approx((lengths[0] + lengths[1]) / 2, rel=1e-4)
    (g, d), data, config = styled()
    first = Trainer(g, d, data, config)
    for _ in range(3):
        first.step()
    first.save(tmp_path / "a.pt")
    (g, d), data, config = styled()
    second = Trainer.load(tmp_path / "a.pt", g, d, data, config)
    second.fit(progress_bar=False)
    for name, part in trainer.parts.items():
        for key, value in part.state_dict().items():
            assert torch.equal(second.parts[name].state_dict()[key], value), f"{name} {key}"


def test_recorded_it_is_the_same_run(monkeypatch):
    """The mean of path lengths and of styles too, which are written in place. Random numbers of the networks' own are left out: what is
    recorded draws the same on a CPU each time."""
    runs = []
    for name in ("plain", "recorded"):
        if name == "recorded":
            monkeypatch.setattr("ganfast.step.capture.graphs_for", lambda reached, leaves: RecordedGraphs())
        (g, d), data, config = styled(steps=6, ema=0.75, ema_ramp=0.0, decay_from=1.0, learning_rate=2.0**-12)
        g.style_mixing = 0.0
        monkeypatch.setattr(type(g.synthesis), "forward", _without_noise(type(g.synthesis).forward))
        trainer = Trainer(g, d, data, config)
        trainer.fit(progress_bar=False)
        runs.append({f"{name}.{key}": v.clone() for name, part in trainer.parts.items() for key, v in part.state_dict().items()})
    assert runs[0]["usual-paths.mean"] > 0 and runs[0]["generator.mapping.mean"].abs().max() > 0
    assert [key for key in runs[0] if not torch.equal(runs[0][key], runs[1][key])] == []


def _without_noise(forward):
    return lambda self, w, noise=None: forward(self, w, "none")


def test_path_lengths_want_styles():
    (_, d), data, config = styled()
    g = nn.Sequential(nn.Linear(6, 64), nn.Unflatten(1, (1, 8, 8)))
    trainer = Trainer(g, d, data, config)
    trainer.step()
    with pytest.raises(ValueError, match="path_length wants a generator with parts mapping and synthesis, got Sequential"):
        trainer.step()


def test_the_lazy_correction():
    (g, d), data, config = styled(lazy_correction=True, learning_rate=1e-2)
    assert corrections(config, phases_of(config)) == {"generator": pytest.approx(2 / 3), "discriminator": pytest.approx(4 / 5)}
    trainer = Trainer(g, d, data, config)
    trainer.step()
    groups = {name: optimizer.param_groups[0] for name, optimizer in trainer.optimizers.items()}
    assert groups["generator"]["lr"] == pytest.approx(1e-2 * 2 / 3) and groups["discriminator"]["lr"] == pytest.approx(1e-2 * 4 / 5)
    assert groups["generator"]["betas"] == pytest.approx((0.0, 0.99 ** (2 / 3)))
    assert groups["discriminator"]["betas"] == pytest.approx((0.0, 0.99**0.8))
    (g, d), data, config = styled(learning_rate=1e-2)
    assert Trainer(g, d, data, config).optimizers["generator"].param_groups[0]["lr"] == pytest.approx(1e-2)
    own = (Phase("a", "g", interval=1), Phase("b", "g", interval=4), Phase("c", ("g", "h"), interval=2))
    assert corrections(TrainConfig(lazy_correction=True), own) == {"g": pytest.approx(1 / 1.75)}  # h has no phase of each step
    five = (Phase("a", "d", repeats=5), Phase("b", "d", interval=16))
    assert corrections(TrainConfig(lazy_correction=True), five) == {"d": pytest.approx(80 / 81)}
    assert TrainConfig(beta2_end=0.99).beta2(1.0, 0.9**0.8, 0.8) == pytest.approx(0.99**0.8)


def test_courses():
    config = TrainConfig(decay="cosine", decay_from=0.0, decay_to=0.25, beta2_end=0.99, betas=(0.0, 0.9), r1=2.0, penalty_end=0.1)
    assert [config.fall(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.625, 0.25])
    assert [config.beta2(p, 0.9) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.9, 0.945, 0.99])
    assert len({config.beta2(k / 1000, 0.9) for k in range(1000)}) == 16
    assert TrainConfig().beta2(0.7, 0.9) == 0.9
    assert config.weights(0.5)["r1"] == pytest.approx(2 * 0.1**0.5)
    config.penalty_decay = "cosine"
    assert [config.weights(p)["r1"] for p in (0.0, 0.5, 1.0)] == pytest.approx([2.0, 1.1, 0.2])
    assert TrainConfig(decay_from=0.5).fall(0.75) == pytest.approx(0.5) and TrainConfig(decay_from=0.5).fall(1.0) == 0
    for bad in ({"decay_to": 1.5}, {"beta2_end": 1.0}, {"path_length": -1.0}, {"path_length_every": 0}, {"penalty_decay": "linear"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            TrainConfig(**bad)


def test_a_recorded_run_survives_all_its_betas(monkeypatch):
    """Each is recorded anew, and what was recorded before is freed: more values than a function may have recordings."""
    monkeypatch.setattr("ganfast.step.capture.graphs_for", lambda reached, leaves: RecordedGraphs())
    (g, d), data, config = styled(steps=20, path_length=0.0, r1=0.0, decay_from=0.0, beta2_end=0.5, betas=(0.1, 0.9))
    seen, before = set(), []
    trainer = Trainer(g, d, data, config, callbacks=[lambda t, _: seen.add(t.optimizers["generator"].param_groups[0]["betas"])])
    trainer.fit(progress_bar=False)
    assert len(seen) > 8 and trainer.steps == 20
    (g, d), data, config = styled(steps=3)
    trainer = Trainer(g, d, data, config, callbacks=[lambda t, _: before.append(t.optimizers["generator"].param_groups[0]["betas"])])
    trainer.fit(progress_bar=False)
    assert before[0] is before[1] is before[2]  # a recording is asked for what changed, by identity


def test_a_lazy_penalty_weighs_as_many_times(monkeypatch):
    """As the interval says, on half of the batch, by a mean that is clamped."""
    (g, d), data, config = styled(path_length_every=3)
    trainer, given = Trainer(g, d, data, config), []
    kept = PathLengths.forward
    monkeypatch.setattr(PathLengths, "forward", lambda self, *a: given.append((kept(self, *a), len(a[1].latent))) or given[-1][0])
    losses, objective = [], trainer.updates.objective
    trainer.updates.objective = lambda phase, *a: losses.append((phase.name, (found := objective(phase, *a))[0].detach())) or found
    for _ in range(3):
        trainer.step()
    (name, loss), ((found, rows),) = losses[-1], given
    assert name == "g_path" and rows == 6 and loss.item() == pytest.approx(3 * 2.0 * found["path_penalty"].item(), rel=1e-5)
    (paths,) = (module for key, module in trainer.parts.items() if key.endswith("paths"))
    seen = []
    nothing = torch.zeros((), requires_grad=True), torch.ones(3)
    note = lambda *a, **how: seen.append((len(a[1]), how["memory"].item())) or nothing
    monkeypatch.setattr("ganfast.penalties.path_length_penalty", note)
    paths.seen.fill_(500)
    for _ in range(3):
        trainer.step()
    assert seen == [(3, pytest.approx(0.99))]


def test_betas_follow_their_course_in_a_run():
    (g, d), data, config = styled(steps=4, path_length=0.0, r1=0.0, decay_from=0.0, beta2_end=0.5, betas=(0.1, 0.9))
    seen = []
    callback = lambda trainer, row: seen.append(trainer.optimizers["generator"].param_groups[0]["betas"])
    Trainer(Network(g, betas=(0.2, 0.8)), d, data, config, callbacks=[callback]).fit(progress_bar=False)
    assert [first for first, _ in seen] == [0.2] * 4 and [second for _, second in seen] == pytest.approx([0.8, 0.725, 0.65, 0.575])


def test_a_course_of_augmentation(tmp_path):
    """For losses whose signs say nothing; the state in a checkpoint is the course's, too."""
    with pytest.raises(ValueError, match="no ADA with relativistic"):
        TrainConfig(loss="relativistic", augment="ada")
    (g, d), data, config = styled(
        steps=4, path_length=0.0, r1=0.0, loss="relativistic", augment="ada", ada_course=0.4, decay_from=0.0, run_dir=str(tmp_path / "run")
    )  # fmt: skip
    rows = []
    Trainer(g, d, data, config, callbacks=[lambda _, row: rows.append(row)]).fit(progress_bar=False)
    assert [row["ada_p"] for row in rows] == pytest.approx([0.0, 0.1, 0.2, 0.3]) and "ada_sign" not in rows[-1]
    with pytest.raises(ValueError, match="ada_course"):
        TrainConfig(ada_course=1.5)


def test_it_is_public():
    assert "path_length_penalty" in ganfast.penalties.__all__
