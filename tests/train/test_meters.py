"""What the log's numbers are means of, and in what numbers the networks run."""

import pytest
import torch

from ganfast.train import precision
from ganfast.train.distributed.world import World
from ganfast.train.precision import Precision
from ganfast.train.turns import Meters


def turn(good: int = 1, **numbers: float) -> dict[str, torch.Tensor]:
    """As a turn gives them: zeros where it was skipped."""
    return {name: torch.tensor(value * good) for name, value in numbers.items()} | {"good": torch.tensor(float(good))}


def test_means_are_over_the_turns_that_have_the_number():
    meters = Meters()
    for value in (1.0, 2.0):
        meters.add(turn(d=value))
        meters.add(turn(d=value, g=10 * value))
    meters.add(turn(penalty=7.0))
    row = meters.read(World())
    assert row == {"d": 1.5, "g": 15.0, "penalty": 7.0, "skipped": 0, "skipped_in_a_row": 0}
    assert meters.read(World()) == {}


def test_skipped_turns_count_for_nothing_but_themselves():
    meters = Meters()
    for good in (1, 0, 0, 1, 0, 0, 0, 1, 0):
        meters.add(turn(good, d=4.0))
    assert meters.read(World()) == {"d": 4.0, "skipped": 6, "skipped_in_a_row": 3}
    meters.add(turn(0, d=4.0))  # the row that was going on goes on
    assert meters.read(World()) == {"skipped": 1, "skipped_in_a_row": 2}


def test_half_full_meters_come_back():
    whole, cut, resumed = Meters(), Meters(), Meters()
    for meters in (whole, cut):
        meters.add(turn(0, d=1.0))
        meters.add(turn(d=3.0, g=2.0))
    resumed.load_state_dict(cut.state_dict(), torch.device("cpu"))
    for meters in (whole, resumed):
        meters.add(turn(d=5.0, g=4.0))
    assert whole.read(World()) == resumed.read(World())


@pytest.mark.parametrize(("amx", "avx", "name"), [(False, False, "fp32"), (True, False, "bf16"), (False, True, "bf16")])
def test_auto_is_bf16_where_a_cpu_has_units_for_it(monkeypatch, amx, avx, name):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert Precision("auto", torch.device("cpu")).name == name


@pytest.mark.parametrize(("capability", "name"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_is_bf16_from_ampere_on(monkeypatch, capability, name):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision.has_bf16_units(torch.device("cuda")) == (name == "bf16")


DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize(("name", "dtype"), DTYPES.items())
def test_networks_run_in_what_is_asked_for(name, dtype):
    wanted = Precision(name, torch.device("cpu"))
    with wanted.autocast():
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype
    assert all(scaler.is_enabled() == (name == "fp16") for scaler in wanted.scalers.values())


@pytest.mark.parametrize(("name", "switch"), [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "tf32")])
def test_the_switches_are_put_back(name, switch):
    backends = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [backend.fp32_precision for backend in backends]
    wanted = Precision(name, torch.device("cpu"))
    wanted.device = torch.device("cuda")  # the switches alone: there need be no GPU
    with wanted.switches():
        assert [backend.fp32_precision for backend in backends] == [switch] * 2
    assert [backend.fp32_precision for backend in backends] == before
