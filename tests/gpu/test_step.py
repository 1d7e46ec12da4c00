"""What only CUDA graphs can show: memory that comes back, streams, and the loop recorded against the loop run. The bookkeeping's own
tests, tests/step, run on CUDA graphs as well where there is a GPU."""

import gc

import pytest
import torch

import ganfast
from ganfast.train import turns
from ganfast.train.command_line import recipes
from tests.step.common import Gan, equal, images
from tests.train.common import small
from tests.train.test_networks import config, translation

pytestmark = [pytest.mark.gpu, pytest.mark.captures]


def allocated() -> int:
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


@pytest.mark.alone
def test_reset_frees_the_pools():
    gan = Gan("cuda")
    gan.step(images("cuda"))
    before = allocated()
    step = ganfast.capture(gan.step, images("cuda", 256))
    step(images("cuda", 256))
    held = allocated()
    step.reset()
    for p in (*gan.generator.parameters(), *gan.discriminator.parameters()):
        p.grad = None
    assert held > before and allocated() <= before


def test_a_replay_is_one_launch_beside_its_copies():
    from torch.profiler import ProfilerActivity, profile

    gan, batch = Gan("cuda"), images("cuda")
    step = ganfast.capture(gan.step, batch, static_outputs=True)
    step(batch)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step(batch)
        torch.cuda.synchronize()
    launches = [e.name for e in profiler.events() if e.name.startswith(("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch"))]
    assert launches.count("cudaGraphLaunch") == 1 and len(launches) <= 8  # the input's copy, the generator's seed and offset


def test_on_a_stream_of_ones_own():
    ends = []
    for captured in (False, True):
        gan, batch = Gan("cuda"), images("cuda")
        step = ganfast.capture(gan.step, batch) if captured else gan.step
        torch.manual_seed(3)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step(batch)
        torch.cuda.current_stream().wait_stream(stream)
        ends.append(gan.copies())
    equal(ends[1], ends[0])


def uncaptured(turn, *example):
    as_tensor = lambda number: torch.tensor(number, device="cuda")
    return lambda weights, keep, handle: turn({name: as_tensor(w) for name, w in weights.items()}, as_tensor(keep), handle)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"precision": "bf16", "channels_last": True},
        {"precision": "fp16", "condition": "label"},
        {"precision": "tf32", "loss": "relativistic", "r1": 1.0, "r2": 1.0, "penalty_every": 2, "mode_seeking": 0.1},
        {"loss": "wasserstein", "gradient_penalty": 10.0, "n_critic": 2, "flip": True, "augment": "color,translation,cutout"},
        {"augment": "ada", "ada_target": -0.99, "ada_speed": 64},
        {
            "model": "stylegan2", "path_length": 1.0, "path_length_every": 2, "r1": 1.0, "penalty_every": 2, "lazy_correction": True,
            "mapping_layers": 1, "widest": 8,
        },
        {"model": "r3gan", "loss": "relativistic", "r1": 1.0, "r2": 1.0, "beta2_end": 0.99, "decay_from": 0.0, "widest": 8},
    ],
    ids=str,
)
def test_the_trainer_recorded_is_the_trainer_run(tmp_path, monkeypatch, how):
    runs = []
    for name in ("plain", "recorded"):
        if name == "plain":
            monkeypatch.setattr(turns, "capture", uncaptured)
        else:
            monkeypatch.undo()
        trainer = recipes.trainer(small(tmp_path / name, device="cuda", fused=True, **how))
        trainer.fit(progress_bar=False)
        runs.append([t for part in (trainer.generator, trainer.discriminator, trainer.ema) for t in part.state_dict().values()])
    assert all(turn.run.graphs == 1 for turn in trainer.turns)  # of the recorded one, which came last
    equal(runs[1], runs[0])


def test_networks_by_name_recorded_are_those_run(monkeypatch):
    """Two generators, two discriminators, image pools, domains of their own lengths."""
    runs = []
    for name in ("plain", "recorded"):
        if name == "plain":
            monkeypatch.setattr(turns, "capture", uncaptured)
        else:
            monkeypatch.undo()
        trainer = translation(config(steps=6, device="cuda"))
        trainer.fit(progress_bar=False)
        runs.append([t for part in trainer.parts.values() for t in part.state_dict().values()])
    assert all(turn.run.graphs == 1 for turn in trainer.turns)
    equal(runs[1], runs[0])


def test_a_resumed_run_goes_on(tmp_path):
    trainer = recipes.trainer(small(tmp_path, device="cuda", fused=True))
    trainer.fit(progress_bar=False)
    resumed = recipes.trainer(small(tmp_path, device="cuda", fused=True, steps=12), resume=True)
    assert torch.equal(resumed.draws.generator.get_state(), trainer.draws.generator.get_state())
    equal([*resumed.ema.state_dict().values()], [*trainer.ema.state_dict().values()])
    resumed.fit(progress_bar=False)
    assert resumed.steps == 12
