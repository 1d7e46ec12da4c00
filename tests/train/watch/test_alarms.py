"""Alarms on rows made by hand: when each is raised, when not, what it says."""

import dataclasses
import json
import math
import re
from typing import get_args

import pytest
import torch

import ganfast.functional as GF
from ganfast.train import TrainConfig
from ganfast.train.config import Loss
from ganfast.train.watch.alarms import ALARMS, Alarm, Monitors, Thresholds

HEALTHY = {
    "loss_d": 1.2, "loss_g": 0.9, "real_accuracy": 0.7, "fake_accuracy": 0.72, "real_mean": 0.5, "fake_mean": -0.5, "real_sign": 0.4,
    "ada_p": 0.3, "grad_d": 5.0, "grad_g": 2.0, "grad_from_d": 0.3, "r1": 0.1, "r2": 0.1, "gradient_penalty": 0.02, "skipped": 0,
    "spread": 0.9,
}  # fmt: skip
SICK = {
    "perfect_discriminator": {"real_accuracy": 0.995, "fake_accuracy": 0.99, "loss_d": 0.05},
    "overfitting": {"real_sign": 0.95, "real_accuracy": 0.975, "loss_d": 0.5},
    "too_few_images": {"ada_p": 0.9},
    "vanishing_gradient": {"grad_from_d": 1e-6, "real_accuracy": 0.95, "fake_accuracy": 0.95},
    "gradient_ratio": {"grad_g": 2000.0},
    "mode_collapse": {"spread": 0.1},
    "overshoot": {"loss_d": 3.0},
    "non_finite": {"skipped": 5},
    "penalty_spike": {"r1": 1.5},
}


def run(monitors, lines, start=0, every=50, **changes):
    """[(step, alarm)] of so many lines after step `start`."""
    steps = range(start + every, start + every * (lines + 1), every)
    return [(step, alarm) for step in steps for alarm in monitors.see({"step": step, **HEALTHY, **changes})]


def names(found):
    return [alarm.name for _, alarm in found]


def test_a_healthy_run_is_left_alone():
    monitors = Monitors()
    assert run(monitors, 500) == [] and monitors.active == []


@pytest.mark.parametrize("name", ALARMS)
def test_each_is_raised_once_and_alone_and_says_when_it_is_over(name):
    monitors = Monitors()
    run(monitors, 40)
    found = run(monitors, 8, 2000, **SICK[name])
    assert names(found) == [name] and monitors.active == [name]
    step, alarm = found[0]
    assert step == (2050 if name == "non_finite" else 2150) and not alarm.over, "after three lines, 150 steps"
    assert (alarm.value > alarm.threshold) != (name in ("vanishing_gradient", "mode_collapse"))
    meaning, remedy = ALARMS[name]
    assert meaning in alarm.message and alarm.message.endswith(remedy + ".") and re.search(r"\d", alarm.message.split(";")[0])
    over = run(monitors, 20, 2400)
    assert [a.over for _, a in over] == [True] and names(over) == [name] and monitors.active == []
    assert over[0][1].message.startswith("Over: ") and remedy not in over[0][1].message


@pytest.mark.parametrize("name", ALARMS)
def test_a_noisy_line_is_no_alarm(name):
    monitors = Monitors()
    run(monitors, 40)
    for i in range(30):
        found = run(monitors, 1 if i % 2 else 2, 2000 + 100 * i, **HEALTHY if i % 2 else SICK[name])
        assert names(found) == [] or name == "non_finite"


@pytest.mark.parametrize("name", ALARMS)
def test_nothing_is_said_in_the_warm_up(name):
    found = run(Monitors(), 10, **SICK[name])
    assert names(found) == ([name] if name == "non_finite" else [])


@pytest.mark.parametrize("name", ALARMS)
def test_none_switches_it_off(name):
    monitors = Monitors(Thresholds(**{name: None}))
    run(monitors, 40)
    assert run(monitors, 20, 2000, **SICK[name]) == []


def test_patience_counts_steps_and_lines():
    every_step = run(Monitors(), 1000, every=1, **SICK["mode_collapse"])
    assert every_step[0][0] == 650, "150 steps after the warm-up"
    seldom = run(Monitors(), 10, every=400, **SICK["mode_collapse"])
    assert seldom[0][0] == 1600, "three lines, the first at 800"
    quick = Monitors(Thresholds(warm_up=0, patience_steps=0, patience_lines=1))
    assert run(quick, 1, **SICK["mode_collapse"])[0][0] == 50


def test_an_alarm_that_goes_on_is_repeated_ever_more_seldom():
    monitors = Monitors()
    run(monitors, 10)
    found = run(monitors, 200, 500, **SICK["perfect_discriminator"])
    assert [(step - 650) // 50 for step, _ in found] == [0, 20, 60, 140]
    first, again = found[0][1].message, found[1][1].message
    assert again.startswith("Still: the discriminator is right") and again[7:].lower() == first.lower()
    assert names(run(monitors, 2, 10_500)) == [] and monitors.active, "not over after two lines"
    assert [a.over for _, a in run(monitors, 5, 10_600)] == [True]
    assert len(run(monitors, 3, 20_000, **SICK["perfect_discriminator"])) == 1, "raised anew"


@pytest.mark.parametrize("name", ALARMS)
def test_saved_and_loaded_it_goes_on_the_same(name):
    def rows():
        for i in range(1, 200):
            yield {"step": 50 * i, **HEALTHY, **(SICK[name] if 40 < i < 90 or i % 7 == 0 else {})}

    whole = Monitors()
    want = [whole.see(row) for row in rows()]
    assert sum(map(len, want)) >= 2
    parts, got = Monitors(), []
    for row in rows():
        state = json.loads(json.dumps(parts.state_dict()))  # plain numbers
        parts = Monitors()
        parts.load_state_dict(state)
        got.append(parts.see(row))
    assert got == want


def test_a_state_is_a_copy():
    monitors = Monitors()
    run(monitors, 30)
    state = monitors.state_dict()
    before = json.dumps(state)
    run(monitors, 30, 1500, **SICK["gradient_ratio"] | {"r1": 0.2})
    assert json.dumps(state) == before
    other = Monitors()
    other.load_state_dict(state)
    run(other, 30, 1500, **SICK["penalty_spike"] | {"skipped": 1})
    assert json.dumps(state) == before


@pytest.mark.parametrize("key", [*HEALTHY, "step"])
def test_any_number_may_be_missing(key):
    monitors = Monitors()
    row = {**HEALTHY, "step": 0}
    del row[key]
    for i in range(1, 60):
        assert monitors.see(row | ({"step": 50 * i} if key != "step" else {})) == []
    assert Monitors().see({}) == []


def test_a_missing_number_neither_raises_nor_ends_an_alarm():
    monitors = Monitors()
    run(monitors, 10)
    run(monitors, 5, 500, **SICK["mode_collapse"])
    for i in range(20):
        assert monitors.see({"step": 800 + 50 * i}) == []
    assert monitors.active == ["mode_collapse"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["loss_d", "real_accuracy", "real_sign", "grad_g", "grad_d", "grad_from_d", "r1", "spread"])
def test_a_number_that_is_not_finite_is_reported_at_once_and_confuses_nothing_else(key, value):
    monitors = Monitors()
    found = run(monitors, 100, **{key: value})
    assert found[0][0] == 50 and set(names(found)) == {"non_finite"}
    assert found[0][1].message.startswith(f"{key} is no finite number")
    assert [a.over for _, a in run(monitors, 10, 5000)] == [True]
    json.dumps(monitors.state_dict(), allow_nan=False)


def test_skipped_updates():
    quick = lambda lines, **row: names(run(Monitors(), lines, **row))
    assert quick(1, every=5, skipped=5) == ["non_finite"], "all of a line"
    assert quick(1, every=1, skipped=1) == [], "a line of one step says little"
    assert quick(1, skipped=1) == [], "fp16 looks for its scale"
    assert quick(20, skipped=2)[:1] == ["non_finite"], "again and again"
    later = Monitors()
    run(later, 20)
    (_, alarm), *_ = run(later, 1, 1000, skipped=3)
    assert alarm.value == 3 / 200 and alarm.message.startswith("3 updates in the last 200 steps were skipped")
    seldom = Monitors()
    assert [run(seldom, 1, 1000 + 50 * i, skipped=int(i % 40 == 0)) for i in range(200)] == [[]] * 200, "fp16 tries a larger scale"


def test_a_wasserstein_critic_may_be_right_always():
    monitors = Monitors(loss="wasserstein")
    assert run(monitors, 50, **SICK["perfect_discriminator"] | {"real_sign": 1.0}) == []
    assert names(run(monitors, 5, 2500, grad_from_d=1e-7)) == ["vanishing_gradient"]


@pytest.mark.parametrize("loss", ["relativistic", "relativistic_average"])
def test_relativistic_logits_have_no_zero(loss):
    shifted = {"real_accuracy": 1.0, "fake_accuracy": 0.0, "real_sign": 1.0}
    monitors = Monitors(loss=loss)
    assert run(monitors, 50, **shifted | {"loss_d": 0.6}) == []
    (_, alarm), *others = run(monitors, 5, 2500, **shifted | {"loss_d": 0.005})
    assert not others and alarm.name == "perfect_discriminator" and 0.99 < alarm.value < 1, "the loss tells"
    apart = {"real_accuracy": 0.97, "fake_accuracy": 0.97, "real_sign": 0.94}
    assert names(run(Monitors(loss=loss), 20, **apart | {"loss_d": 0.3})) == ["overfitting"], "zero lies between them"


def test_the_share_of_pairs_that_the_loss_promises():
    """The bound behind it, on logits of any kind."""
    for scale in (0.1, 1.0, 10.0):
        real, fake = scale * torch.randn(1000) + scale, scale * torch.randn(1000)
        loss = torch.nn.functional.softplus(fake - real).mean().item()
        right = (real > fake).double().mean().item()
        row = {"real_accuracy": 0.0, "fake_accuracy": 0.0, "loss_d": loss}
        assert Monitors(loss="relativistic")._right(row) <= right


def test_lsgan_draws_its_border_elsewhere():
    monitors = Monitors(loss="lsgan")
    assert run(monitors, 50, real_sign=1.0, loss_d=0.1) == []
    assert names(run(monitors, 5, 2500, real_accuracy=0.97, loss_d=0.1)) == ["overfitting"]


def test_a_small_gradient_at_the_equilibrium_is_no_alarm():
    assert run(Monitors(), 50, grad_from_d=1e-6, real_accuracy=0.52, fake_accuracy=0.51) == []


@pytest.mark.parametrize("loss", get_args(Loss))
def test_what_guessing_costs(loss):
    """A discriminator that always says the same at its best, by the losses themselves."""
    if loss == "wasserstein":
        assert run(Monitors(loss=loss), 50, loss_d=100.0) == []
        return
    same = torch.full((8,), 0.5 if loss == "lsgan" else 0.0)
    guess = GF.discriminator_loss(same, same, kind=loss).item()
    assert run(Monitors(loss=loss), 50, loss_d=1.4 * guess, real_accuracy=0.5, fake_accuracy=0.5) == []
    (_, alarm), *_ = run(Monitors(loss=loss), 50, loss_d=1.6 * guess, real_accuracy=0.5, fake_accuracy=0.5)
    assert alarm.name == "overshoot" and alarm.value == pytest.approx(1.6)


def test_right_but_not_sure_is_no_alarm():
    """Logits a hair's breadth off zero, as strong penalties leave them."""
    right = {"real_accuracy": 1.0, "fake_accuracy": 1.0, "real_sign": 1.0}
    assert run(Monitors(), 50, **right | {"loss_d": 1.3}) == []
    assert set(names(run(Monitors(), 50, **right | {"loss_d": 0.3}))) == {"perfect_discriminator", "overfitting"}


def test_the_ratio_both_ways():
    (_, alarm), *_ = run(Monitors(), 20, grad_g=2e-6)
    assert alarm.name == "gradient_ratio" and alarm.value < alarm.threshold == 1 / 300
    (_, alarm), *_ = run(Monitors(), 20, grad_d=0.0)
    assert alarm.name == "gradient_ratio" and math.isfinite(alarm.value)
    assert run(Monitors(), 20, grad_d=0.0, grad_g=0.0) == []


@pytest.mark.parametrize("name", ["r1", "r2", "gradient_penalty"])
def test_a_spike_is_one_against_the_penaltys_own_past(name):
    monitors = Monitors()
    for i in range(100):  # grows a thousandfold, by and by
        assert run(monitors, 1, 1000 + 50 * i, **{name: 0.01 * 1000 ** (i / 100)}) == []
    found = run(monitors, 5, 6000, **{name: 300.0})
    assert names(found) == ["penalty_spike"] and found[0][1].message.startswith(f"{name} is 300, ")
    assert run(Monitors(), 50, **{name: 0.0}) == []


def test_what_to_try_names_fields_of_the_config():
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    for meaning, remedy in ALARMS.values():
        asked = set(re.findall(r"[a-z]+_[a-z_]+|\b(?:r1|r2|noise|augment|smoothing|loss|flip|precision)\b", remedy))
        assert asked and asked <= fields | {"mode_seeking"}, asked - fields
        assert ". " not in meaning + remedy and not meaning.endswith("."), "one sentence"


def test_alarms_and_thresholds_are_plain():
    alarm = Alarm("mode_collapse", 0.1, 0.25, "words")
    assert alarm.over is False and set(ALARMS) <= {field.name for field in dataclasses.fields(Thresholds)}
    json.dumps(dataclasses.asdict(Thresholds()), allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gradient_ratio": 0}, "gradient_ratio got 0, wants a positive number, or None for off."),
        ({"warm_up": None}, "warm_up got None, wants no negative number."),
        ({"patience_lines": -1}, "patience_lines got -1"),
        ({"non_finite": float("inf")}, "non_finite got inf"),
        ({"mode_collapse": float("nan")}, "mode_collapse got nan"),
        ({"overfitting": "high"}, "overfitting got 'high'"),
        ({"patience_lines": True}, "patience_lines got True"),
    ],
)
def test_bad_thresholds(changes, words):
    with pytest.raises(ValueError, match="Thresholds: " + words):
        Thresholds(**changes)
