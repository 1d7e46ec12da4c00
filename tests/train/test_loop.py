"""The loop: what a step does, what an interval leaves, and that a resumed run is the same run."""

import inspect
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ganfast.train import Trainer, checkpoint, loop
from tests.step.recorded import RecordedGraphs
from tests.train.common import small


def leaves(value, prefix=""):
    """(path, leaf) of nested dicts and lists."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            yield from leaves(part, f"{prefix}/{key}")
    else:
        yield prefix, value


def same_bits(a, b) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def log_rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / checkpoint.LOG).read_text().splitlines()]


def stop_at(trainer: Trainer, step: int, monkeypatch) -> None:
    """The run is killed inside that step."""
    whole = trainer.step

    def step_or_stop():
        if trainer.steps == step:
            raise KeyboardInterrupt
        whole()

    monkeypatch.setattr(trainer, "step", step_or_stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(progress_bar=False)


@pytest.mark.parametrize("fused", [False, True])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path, monkeypatch, fused):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    uninterrupted = Trainer(small(whole, fused=fused))
    uninterrupted.fit(progress_bar=False)
    stop_at(Trainer(small(parts, fused=fused)), 5, monkeypatch)  # checkpoint at 3, log line at 4, killed in the sixth step
    assert [row["step"] for row in log_rows(parts)] == [2, 3, 4]
    resumed = Trainer(small(parts, fused=fused), resume=True)
    assert resumed.steps == 3 and [row["step"] for row in log_rows(parts)] == [2, 3]
    resumed.fit(progress_bar=False)

    changing = {"/seconds", "/config/run_dir"}
    expected, got = (dict(leaves(torch.load(run / checkpoint.CHECKPOINT, weights_only=True))) for run in (whole, parts))
    assert expected.keys() == got.keys()
    assert [name for name in expected if name not in changing and not same_bits(expected[name], got[name])] == []
    clock = ("seconds", "images_per_second")
    assert [{k: v for k, v in row.items() if k not in clock} for row in log_rows(parts)] == [
        {k: v for k, v in row.items() if k not in clock} for row in log_rows(whole)
    ]


def test_a_resumed_run_takes_new_settings(tmp_path):
    Trainer(small(tmp_path, steps=1)).fit(progress_bar=False)
    resumed = Trainer(small(tmp_path, steps=9, learning_rate=1e-5, betas=(0.1, 0.2), fused=True), resume=True)
    resumed.step()
    assert resumed.steps == 2 and [resumed.opt_g.param_groups[0][key] for key in ("lr", "betas")] == [1e-5, (0.1, 0.2)]


def test_another_seed_is_another_run(tmp_path):
    first, second = (Trainer(small(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    assert not torch.equal(first.generator.to_image.conv.weight, second.generator.to_image.conv.weight)


def test_building_a_run_leaves_the_random_state_alone(tmp_path):
    before = torch.get_rng_state()
    Trainer(small(tmp_path)).step()
    assert torch.equal(before, torch.get_rng_state())


def test_the_loop_is_under_200_lines(tmp_path):
    trainer = Trainer(small(tmp_path, steps=1, conditional=True))
    folder, reached = Path(loop.__file__).parent, set()

    def note(frame, event, _):
        if event == "call" and Path(frame.f_code.co_filename).parent == folder:
            reached.add(frame.f_code)

    sys.setprofile(note)
    try:
        trainer.step()
    finally:
        sys.setprofile(None)
    names = {code.co_name for code in reached}
    assert {"step", "noisy", "autocast"} <= names  # the count below is of what runs
    elsewhere = sum(len(inspect.getsourcelines(code)[0]) for code in reached if code.co_filename != loop.__file__)
    assert len(Path(loop.__file__).read_text().splitlines()) + elsewhere < 200


class Reads(TorchDispatchMode):
    """Counts what makes a GPU's host wait: a tensor's value read into Python."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


def test_a_step_reads_nothing_back(tmp_path):
    trainer = Trainer(small(tmp_path, log_every=3))
    trainer.step()
    with Reads() as reads:
        trainer.step()
    assert reads.count == 0
    with Reads() as reads:  # and the counter does count
        trainer.sums.sum().item()
    assert reads.count == 1


def test_the_average_follows_the_generator_buffers_included(tmp_path):
    trainer = Trainer(small(tmp_path, ema=0.25))
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
    trainer = Trainer(small(tmp_path))
    before = [[p.clone() for p in network.parameters()] for network in (trainer.generator, trainer.discriminator)]
    trainer.step()
    for network, old in zip((trainer.generator, trainer.discriminator), before, strict=True):
        assert all(not torch.equal(p, q) for p, q in zip(network.parameters(), old, strict=True))
        assert all(p.requires_grad for p in network.parameters())


def test_the_generator_step_leaves_no_gradient_in_the_discriminator(tmp_path):
    trainer = Trainer(small(tmp_path))
    seen = []
    trainer.opt_g.register_step_pre_hook(lambda *_: seen.append([p.grad.clone() for p in trainer.discriminator.parameters()]))
    trainer.opt_d.register_step_post_hook(lambda *_: seen.append([p.grad.clone() for p in trainer.discriminator.parameters()]))
    trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_the_discriminator_sees_reals_and_fakes_through_noise(tmp_path):
    trainer, seen = Trainer(small(tmp_path, noise=5.0)), []
    trainer.discriminator.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    trainer.step()
    assert len(seen) == 3
    for images in seen:  # images alone stay within 1
        assert images.std() == pytest.approx(5, rel=0.15) and images.mean().abs() < 1


def test_the_learning_rate_is_flat_then_falls_to_nothing(tmp_path):
    trainer, rates = Trainer(small(tmp_path, steps=8, decay_from=0.5, learning_rate=1e-3)), []
    trainer.opt_g.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    trainer.fit(progress_bar=False)
    assert rates == pytest.approx([1e-3] * 5 + [0.75e-3, 0.5e-3, 0.25e-3])


def test_time_ends_a_run_with_its_files_written(tmp_path):
    trainer = Trainer(small(tmp_path, steps=10**6, max_seconds=0.3, sample_every=10**6, checkpoint_every=10**6, log_every=10**6))
    trainer.fit(progress_bar=False)
    assert 0 < trainer.steps < 10**5 and 0.3 <= trainer.seconds < 20
    assert [row["step"] for row in log_rows(tmp_path)] == [trainer.steps]
    assert checkpoint.load(tmp_path / checkpoint.CHECKPOINT)["steps"] == trainer.steps
    assert trainer.opt_g.param_groups[0]["lr"] < trainer.config.learning_rate


def test_the_log_has_a_line_per_interval_and_checkpoint(tmp_path):
    trainer = Trainer(small(tmp_path, steps=5))
    trainer.fit(progress_bar=False)
    rows = log_rows(tmp_path)
    assert [row["step"] for row in rows] == [2, 3, 4, 5]
    names = {"step", "seconds", "images_per_second", "loss_d", "loss_g", "real_accuracy", "fake_accuracy", "skipped"}
    for row in rows:
        assert row.keys() == names and all(math.isfinite(value) for value in row.values())
        assert 0 <= row["real_accuracy"] <= 1 and 0 <= row["fake_accuracy"] <= 1
    assert [path.name for path in sorted((tmp_path / checkpoint.GRIDS).iterdir())] == ["step-0000003.png", "step-0000005.png"]


def test_the_logged_accuracy_is_the_mean_over_the_interval(tmp_path):
    trainer = Trainer(small(tmp_path, steps=2))
    with torch.no_grad():  # the discriminator says 5 to everything: right on all reals, on no fake
        trainer.discriminator.head.weight.zero_()
        trainer.discriminator.head.bias.zero_()
        trainer.discriminator.head.bias[0] = 5
    trainer.opt_d.param_groups[0]["lr"] = 0
    trainer.config.learning_rate = 0
    trainer.fit(progress_bar=False)
    (row,) = log_rows(tmp_path)
    assert (row["real_accuracy"], row["fake_accuracy"]) == (1, 0)
    assert row["loss_d"] == pytest.approx(5 + 2 * math.log1p(math.exp(-5)), rel=1e-5)


def test_losses_that_run_away_end_the_run_before_the_checkpoint_is_written(tmp_path):
    trainer = Trainer(small(tmp_path))
    trainer.fit(progress_bar=False)
    kept = (tmp_path / checkpoint.CHECKPOINT).read_bytes()
    resumed = Trainer(small(tmp_path, steps=20, log_every=100), resume=True)
    with torch.no_grad():
        resumed.discriminator.head.bias.fill_(math.nan)
    with pytest.raises(RuntimeError, match="no longer finite at step 9"):
        resumed.fit(progress_bar=False)
    assert (tmp_path / checkpoint.CHECKPOINT).read_bytes() == kept


def test_a_step_with_bad_gradients_is_skipped_whole_and_counted(tmp_path):
    trainer = Trainer(small(tmp_path, steps=4, log_every=4, checkpoint_every=4))
    parts = lambda: [
        t.clone() for name in loop.PARTS for _, t in leaves(getattr(trainer, name).state_dict()) if isinstance(t, torch.Tensor)
    ]
    trainer.step()
    before, real = parts(), trainer.discriminator.forward
    trainer.discriminator.forward = lambda *args: real(*args) * math.nan
    trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(parts(), before, strict=True))
    del trainer.discriminator.forward
    trainer.fit(progress_bar=False)
    (row,) = log_rows(tmp_path)
    assert row["skipped"] == 1 and math.isfinite(row["loss_d"]) and not all(torch.equal(a, b) for a, b in zip(parts(), before))


def test_recorded_it_is_the_same_run(tmp_path, monkeypatch):
    """With a stand-in for graphs; tests/gpu does it with CUDA's."""
    runs = []
    for name in ("plain", "recorded"):
        if name == "recorded":
            monkeypatch.setattr("ganfast.step.capture.graphs_for", lambda reached, leaves: RecordedGraphs())
        trainer = Trainer(small(tmp_path / name, fused=False, ema=0.75, decay_from=1.0, learning_rate=2.0**-12))
        trainer.fit(progress_bar=False)
        runs.append(dict(leaves({part: getattr(trainer, part).state_dict() for part in loop.PARTS})))
    assert trainer.captured.graphs == 1
    different = [key for key in runs[0] if not same_bits(*(run[key] for run in runs)) and not key.endswith("/lr")]
    assert different == []


@pytest.mark.parametrize(
    "changes",
    [
        {"conditional": False},
        {"precision": "bfloat16"},
        {"precision": "bfloat16", "fused": True},
        {"channels_last": True},
        {"channels_last": True, "fused": True},
        {"loss": "relativistic_average"},
        {"loss": "lsgan", "smoothing": 0.1, "noise": 0.0},
        {"data": "rgb"},
    ],
    ids=str,
)
def test_other_settings_train(tmp_path, changes, rgb_folder):
    changes = changes | ({"data": str(rgb_folder)} if "data" in changes else {})
    trainer = Trainer(small(tmp_path / "run", steps=2, **changes))
    trainer.fit(progress_bar=False)
    assert trainer.steps == 2 and math.isfinite(log_rows(tmp_path / "run")[0]["loss_d"])
    sampler = checkpoint.load_sampler(tmp_path / "run" / checkpoint.CHECKPOINT)
    assert sampler(torch.zeros(3, dtype=torch.long), 0).shape == (3, trainer.config.channels, 16, 16)
