"""The loop: what a step does, what an interval leaves, and that a resumed run is the same run."""

import math
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ganfast.train import Trainer, loop
from ganfast.train.command_line import recipes
from ganfast.train.saving import checkpoint
from tests.step.recorded import RecordedGraphs
from tests.train.common import CLOCK, differences, leaves, log_rows, small, trained


def parts(trainer: Trainer) -> list[torch.Tensor]:
    """Copies of all that a step moves, without learning rates, which a recorded step keeps in tensors."""
    held = [trainer.generator, trainer.discriminator, trainer.ema, *trainer.optimizers.values()]
    found = (item for part in held for item in leaves(part.state_dict()))
    return [t.clone() for name, t in found if isinstance(t, torch.Tensor) and not name.endswith("/lr")]


def stop_at(trainer: Trainer, step: int, monkeypatch) -> None:
    """The run dies inside that step."""
    whole = trainer.step

    def step_or_stop():
        if trainer.steps == step:
            raise ZeroDivisionError
        whole()

    monkeypatch.setattr(trainer, "step", step_or_stop)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(progress_bar=False)


SETTINGS = {
    "eager": {},
    "fused": {"fused": True},
    "lazy": {"loss": "relativistic", "r1": 1.0, "r2": 0.5, "penalty_every": 2, "mode_seeking": 0.1, "flip": True, "augment": "color"},
    "critic": {"loss": "wasserstein", "gradient_penalty": 10.0, "n_critic": 2, "spectral_norm": True, "penalty_end": 0.1},
    "labels": {"condition": "label", "precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "points": {"data": "ring8", "r1": 0.1, "decay": "cosine", "decay_from": 0.0},
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path, monkeypatch, settings):
    whole, cut, how = tmp_path / "whole", tmp_path / "cut", SETTINGS[settings]
    trained(whole, log_every=4, **how)
    stop_at(recipes.trainer(small(cut, log_every=4, **how)), 5, monkeypatch)  # checkpoint at 3, log line at 4, dead in the sixth step
    assert [row["step"] for row in log_rows(cut)] == [4]
    resumed = recipes.trainer(small(cut, log_every=4, **how), resume=True)
    assert resumed.steps == 3
    resumed.fit(progress_bar=False)
    assert differences(whole, cut) == []
    rows = [[{k: v for k, v in row.items() if k not in CLOCK} for row in log_rows(run)] for run in (whole, cut)]
    assert rows[0] == rows[1] and [row["step"] for row in rows[0]] == [4, 6]


def test_a_resumed_run_takes_new_settings(tmp_path):
    trained(tmp_path, steps=1)
    resumed = recipes.trainer(small(tmp_path, steps=9, learning_rate=1e-5, betas=(0.1, 0.2), fused=True), resume=True)
    resumed.step()
    (group,) = resumed.optimizers["generator"].param_groups
    assert resumed.steps == 2 and [group[key] for key in ("lr", "betas")] == [1e-5, (0.1, 0.2)]


@pytest.mark.parametrize(("change", "words"), [({"width": 8}, "width got 8"), ({"condition": "none"}, "condition got 'none'")])
def test_a_resumed_run_keeps_its_networks(tmp_path, change, words):
    trained(tmp_path, steps=1)
    with pytest.raises(ValueError, match=words + ".*a resumed run keeps its networks"):
        recipes.trainer(small(tmp_path, steps=9, **change), resume=True)


def test_another_seed_is_another_run(tmp_path):
    first, second = (recipes.trainer(small(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    assert not torch.equal(first.generator.to_image.conv.weight, second.generator.to_image.conv.weight)


def test_building_a_run_leaves_the_random_state_alone(tmp_path):
    before = torch.get_rng_state()
    recipes.trainer(small(tmp_path, spectral_norm=True)).step()
    assert torch.equal(before, torch.get_rng_state())


def test_the_loop_is_under_250_lines():
    assert len(Path(loop.__file__).read_text().splitlines()) < 250


class Reads(TorchDispatchMode):
    """Counts what makes a GPU's host wait: a tensor's value read into Python."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


def test_a_step_reads_nothing_back(tmp_path):
    trainer = recipes.trainer(small(tmp_path, log_every=3))
    trainer.step()
    with Reads() as reads:
        trainer.step()
    assert reads.count == 0
    with Reads() as reads:  # and the counter does count
        trainer.meters.read(trainer.world)
        torch.ones(()).item()
    assert reads.count == 1


def test_the_average_follows_the_generator_buffers_included(tmp_path):
    trainer = recipes.trainer(small(tmp_path, ema=0.25))
    before = {name: t.clone() for name, t in trainer.ema.state_dict().items()}
    trainer.steps = 1000  # past the short memory of the start
    trainer.config.steps = 2000
    trainer.step()
    for name, new in trainer.generator.state_dict().items():
        if new.is_floating_point():
            torch.testing.assert_close(trainer.ema.state_dict()[name], 0.25 * before[name] + 0.75 * new)
            assert not torch.equal(before[name], new), name
    assert not trainer.ema.training and not any(p.requires_grad for p in trainer.ema.parameters())


def test_both_networks_learn_and_the_discriminator_stays_trainable(tmp_path):
    trainer = recipes.trainer(small(tmp_path))
    before = [[p.clone() for p in network.parameters()] for network in (trainer.generator, trainer.discriminator)]
    trainer.step()
    for network, old in zip((trainer.generator, trainer.discriminator), before, strict=True):
        assert all(not torch.equal(p, q) for p, q in zip(network.parameters(), old, strict=True))
        assert all(p.requires_grad for p in network.parameters())


def test_the_generator_step_leaves_no_gradient_in_the_discriminator(tmp_path):
    trainer = recipes.trainer(small(tmp_path))
    opt_g, opt_d = trainer.optimizers["generator"], trainer.optimizers["discriminator"]
    seen = []
    opt_g.register_step_pre_hook(lambda *_: seen.append([p.grad.clone() for p in trainer.discriminator.parameters()]))
    opt_d.register_step_post_hook(lambda *_: seen.append([p.grad.clone() for p in trainer.discriminator.parameters()]))
    trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_the_discriminator_sees_reals_and_fakes_through_noise(tmp_path):
    trainer, seen = recipes.trainer(small(tmp_path, noise=5.0)), []
    trainer.discriminator.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    trainer.step()
    assert len(seen) == 3
    for images in seen:  # images alone stay within 1
        assert images.std() == pytest.approx(5, rel=0.15) and images.mean().abs() < 1


def test_the_learning_rate_is_flat_then_falls_to_nothing(tmp_path):
    trainer, rates = recipes.trainer(small(tmp_path, steps=8, decay_from=0.5, learning_rate=1e-3)), []
    trainer.optimizers["generator"].register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    trainer.fit(progress_bar=False)
    assert rates == pytest.approx([1e-3] * 5 + [0.75e-3, 0.5e-3, 0.25e-3])


def test_time_ends_a_run_with_its_files_written(tmp_path):
    trainer = recipes.trainer(small(tmp_path, steps=10**6, max_seconds=0.3, sample_every=10**6, checkpoint_every=10**6, log_every=10**6))
    trainer.fit(progress_bar=False)
    assert 0 < trainer.steps < 10**5 and 0.3 <= trainer.seconds < 20
    assert [row["step"] for row in log_rows(tmp_path)] == [trainer.steps]
    assert checkpoint.load(tmp_path)["numbers"]["steps"] == trainer.steps
    assert trainer.steps == 1 or trainer.optimizers["generator"].param_groups[0]["lr"] < trainer.config.learning_rate


def test_the_log_has_a_line_per_interval(tmp_path):
    trained(tmp_path, steps=5, sample_every=3)
    rows = log_rows(tmp_path)
    assert [row["step"] for row in rows] == [2, 4, 5]
    names = {"step", "images", "seconds", "images_per_second", "loss_d", "loss_g", "real_accuracy", "fake_accuracy"}
    names |= {"real_mean", "fake_mean", "real_sign", "grad_d", "grad_g", "grad_from_d", "skipped", "skipped_in_a_row"}
    names |= {"spread", "alarms"}
    for row in rows:
        assert row.keys() == names and row.pop("alarms") == [] and all(math.isfinite(value) for value in row.values())
        assert 0 <= row["real_accuracy"] <= 1 and 0 <= row["fake_accuracy"] <= 1 and row["images"] == 8 * row["step"]
    assert [path.name for path in sorted((tmp_path / checkpoint.GRIDS).iterdir())] == ["step-0000003.png", "step-0000005.png"]


def test_the_logged_numbers_are_means_over_the_interval(tmp_path):
    trainer = recipes.trainer(small(tmp_path, steps=2))
    with torch.no_grad():  # the discriminator says 5 to everything: right on all reals, on no fake
        trainer.discriminator.head.weight.zero_()
        trainer.discriminator.head.bias.zero_()
        trainer.discriminator.head.bias[0] = 5
    trainer.rates = dict.fromkeys(trainer.rates, 0.0)
    trainer.fit(progress_bar=False)
    (row,) = log_rows(tmp_path)
    assert (row["real_accuracy"], row["fake_accuracy"], row["real_sign"], row["real_mean"]) == (1, 0, 1, 5)
    assert row["loss_d"] == pytest.approx(5 + 2 * math.log1p(math.exp(-5)), rel=1e-5) and row["grad_from_d"] == 0


def test_updates_that_stay_not_finite_end_the_run_with_the_last_checkpoint_and_the_reason(tmp_path):
    trained(tmp_path)
    kept = (tmp_path / "checkpoint-0000006.pt").read_bytes()
    resumed = recipes.trainer(small(tmp_path, steps=50, log_every=10, skip_limit=14, checkpoint_every=100), resume=True)
    real = resumed.discriminator.forward
    resumed.discriminator.forward = lambda *args: real(*args) * math.nan
    with pytest.raises(RuntimeError, match=r"14 updates in a row up to step 20 .*inf or NaN.*good checkpoint is .*-0000006.pt.*rate"):
        resumed.fit(progress_bar=False)
    assert (tmp_path / "checkpoint-0000006.pt").read_bytes() == kept


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    trained(tmp_path)
    kept = (tmp_path / "checkpoint-0000006.pt").read_bytes()
    resumed = recipes.trainer(small(tmp_path, steps=50), resume=True)
    with torch.no_grad():
        resumed.discriminator.head.bias.fill_(math.nan)
    with pytest.raises(RuntimeError, match=r"discriminator's weights are no longer finite at step 9.*good checkpoint is .*-0000006.pt"):
        resumed.fit(progress_bar=False)
    assert not (tmp_path / "checkpoint-0000009.pt").exists()
    assert (tmp_path / "checkpoint-0000006.pt").read_bytes() == kept


def test_a_step_with_bad_gradients_is_skipped_whole_and_counted(tmp_path):
    trainer = recipes.trainer(small(tmp_path, steps=4, log_every=4, checkpoint_every=4))
    trainer.step()
    before, real = parts(trainer), trainer.discriminator.forward
    trainer.discriminator.forward = lambda *args: real(*args) * math.nan
    trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(parts(trainer), before, strict=True))
    del trainer.discriminator.forward
    trainer.fit(progress_bar=False)
    (row,) = log_rows(tmp_path)
    assert (row["skipped"], row["skipped_in_a_row"]) == (1, 1) and math.isfinite(row["loss_d"])
    assert not all(torch.equal(a, b) for a, b in zip(parts(trainer), before, strict=True))


@pytest.mark.parametrize("how", ["lazy", "critic"])
def test_recorded_it_is_the_same_run(tmp_path, monkeypatch, how):
    """With a stand-in for graphs; tests/gpu does it with CUDA's."""
    runs = []
    for name in ("plain", "recorded"):
        if name == "recorded":
            monkeypatch.setattr("ganfast.step.capture.graphs_for", lambda reached, leaves: RecordedGraphs())
        exact = {"ema": 0.75, "ema_ramp": 0.0, "decay_from": 1.0, "learning_rate": 2.0**-12, "penalty_end": 1.0}
        trainer = trained(tmp_path / name, **SETTINGS[how] | exact)
        runs.append(parts(trainer))
    assert all(turn.run.graphs == 1 for turn in trainer.turns)
    assert [i for i, pair in enumerate(zip(*runs, strict=True)) if not torch.equal(*pair)] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"condition": "none"},
        {"condition": "label", "fused": True},
        {"precision": "bf16"},
        {"precision": "bf16", "fused": True},
        {"precision": "auto"},
        {"precision": "tf32"},
        {"channels_last": True},
        {"channels_last": True, "fused": True},
        {"loss": "relativistic_average"},
        {"loss": "lsgan", "smoothing": 0.1, "noise": 0.0},
        {"data": "rgb"},
    ],
    ids=str,
)
@pytest.mark.thinned(2)
def test_other_settings_train(tmp_path, changes, rgb_folder):
    changes = changes | ({"data": str(rgb_folder)} if "data" in changes else {})
    trainer = trained(tmp_path / "run", steps=2, **changes)
    assert trainer.steps == 2 and math.isfinite(log_rows(tmp_path / "run")[0]["loss_d"])
    samples = recipes.load_sampler(tmp_path / "run").sample(3)
    assert samples.shape == (3, trainer.config.channels, 16, 16) and torch.equal(samples, trainer.sample(3))
