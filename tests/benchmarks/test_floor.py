"""The floor's arithmetic against counts by hand, and the kinds that a profile knows."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import profile_step
from benchmarks.calibration import Calibration
from benchmarks.steps import floor
from benchmarks.steps.cases import STEPS
from benchmarks.steps.floor import Counter
from benchmarks.steps.step import How, Step
from tests.benchmarks.test_steps import TINY

DCGAN = STEPS[0]


def _layers(size: int, width: int) -> tuple[list, list]:
    """(generator's, discriminator's) layers as (inputs, outputs, weight, multiply-adds) of one image, from the paper's figure."""
    levels = int(math.log2(size)) - 2
    c = [width << i for i in range(levels)]
    sides = [size >> (i + 1) for i in range(levels)]
    d = [(3, c[0], sides[0]), *((c[i], c[i + 1], sides[i + 1]) for i in range(levels - 1))]
    down = [(4 * s * s * i, s * s * o, 16 * i * o, s * s * 16 * i * o) for i, o, s in d]  # a strided layer has four times the pixels
    down.append((16 * c[-1], 1, 16 * c[-1], 16 * c[-1]))
    up = [(o, i, w, m) for i, o, w, m in reversed(down[:-1])]  # the mirror
    return [(100, 16 * c[-1], 1600 * c[-1], 1600 * c[-1]), *up], down


def _by_hand(size: int, width: int, batch: int) -> tuple[int, int]:
    """(FLOPs, elements): the generator forward and both gradients but that of z; the discriminator forward and backward for reals and
    fakes, but for their images; then forward and data gradients for the generator, into the images."""
    g, d = _layers(size, width)
    flops = elements = 0
    passes = [(g, ("fwd", "data", "weight"), 1, ("fwd", "weight"))]
    passes += [(d, ("fwd", "data", "weight"), 2, ("fwd", "weight")), (d, ("fwd", "data"), 1, ("fwd", "data"))]
    for layers, every, times, first in passes:
        for i, (inputs, outputs, weight, multiplies) in enumerate(layers):
            for _ in every if i else first:
                flops += 2 * multiplies * batch * times
                elements += (batch * (inputs + outputs) + weight) * times
    return flops, elements


@pytest.mark.parametrize(("size", "width", "batch"), [(64, 64, 128), (64, 64, 1), (16, 8, 3), (128, 64, 16)])
def test_dcgans_floor_is_the_count_by_hand(size, width, batch):
    counted = floor.work(DCGAN._replace(size=size, width=width, batch=batch))
    assert (counted.flops, counted.elements) == _by_hand(size, width, batch)
    nets = DCGAN._replace(size=size, width=width).play().networks().values()
    assert counted.parameters == sum(p.numel() for net in nets for p in net.parameters())


def test_bytes_and_seconds():
    counted = floor.Work(flops=10, elements=100, parameters=1000)
    assert counted.bytes("fp32") == 400 + 28_000 and counted.bytes("bf16") == 200 + 28_000, "the optimizer's state stays float32"
    assert Calibration(copy=10.0, matrix={"fp32": 5.0, "bf16": 20.0}).floor(100, 50, "fp32") == 20 + 5
    assert Calibration(copy=10.0, matrix={"fp32": 5.0, "bf16": 20.0}).floor(100, 50, "bf16") == 5 + 5


def test_the_counter_agrees_with_torchs_where_that_can_count():
    step = Step(TINY["pix2pix"], How(torch.float32, torch.contiguous_format, frozen=True))
    with FlopCounterMode(display=False) as torchs:
        step.first()
    assert floor.work(TINY["pix2pix"]).flops == torchs.get_total_flops()


def test_frozen_is_fewer_and_a_penalty_is_more():
    def flops(case, frozen, **options):
        step = Step(case, How(torch.float32, torch.contiguous_format, frozen=frozen), **options)
        with Counter() as counter:
            step.step(*step.inputs)
        return counter.flops

    case = TINY["dcgan64"]
    assert flops(case, True) == floor.work(case).flops < flops(case, False)
    critic = TINY["wgan-gp64"]
    assert flops(critic, True, penalised=False) < floor.work(critic).flops
    assert floor.work(critic).flops < flops(critic, True), "backward() also takes the outer gradient of the images, for nobody"


def test_groups_and_products_are_counted():
    with torch.device("meta"):
        conv, linear = nn.Conv1d(16, 32, 5, groups=4, padding=2, bias=False), nn.Linear(8, 3)
        x, z = torch.empty(2, 16, 10, requires_grad=True), torch.empty(6, 8)
    with Counter() as counter:
        torch.autograd.grad(conv(x).sum(), [x, conv.weight])
    assert counter.flops == 3 * 2 * (2 * 10 * 32 * 4 * 5)
    assert counter.elements == 3 * (2 * 16 * 10 + 32 * 4 * 5 + 2 * 32 * 10)
    with Counter() as counter:
        linear(z)
    assert (counter.flops, counter.elements) == (2 * 6 * 8 * 3, 48 + 24 + 18)


def _event(name: str, seconds: float, parent=None, device=DeviceType.CPU):
    made = SimpleNamespace(
        name=name, self_cpu_time_total=seconds * 1e6, self_device_time_total=2 * seconds * 1e6, cpu_parent=parent, cpu_children=[],
        device_type=device,
    )  # fmt: skip
    if parent is not None:
        parent.cpu_children.append(made)
    return made


def test_the_kinds_of_a_profile():
    node = _event("autograd::engine::evaluate_function: ConvolutionBackward0", 0.0)
    backward = _event("aten::convolution_backward", 0.25, node)
    data = _event("kind: data gradient", 0.0, _event("PythonDispatchMode", 0.25, backward))
    events = [
        node, backward, data.cpu_parent, data, _event("aten::convolution_backward", 1.0, data), _event("aten::copy_", 0.5, data),
        _event("aten::convolution_backward", 4.0, node), _event("aten::convolution", 8.0), _event("NativeBatchNormBackward0", 16.0),
        _event("ganfast::batch_norm_act_fwd_native", 16.0), _event("aten::copy_", 32.0), _event("aten::rand", 64.0),
        _event("aten::lerp", 128.0, _event("Optimizer.step#Adam.step", 0.0)), _event("a kernel", 999.0, device=DeviceType.CUDA),
    ]  # fmt: skip
    found = profile_step.by_kind(events, "cpu")
    p = profile_step
    assert {kind: seconds for kind, seconds in found.items() if seconds} == {
        p.DATA: 1.5, p.BOTH: 4.0, p.FORWARD: 8.0, p.NORM: 32.0, p.COPIES: 32.0, p.REST: 64.5, p.OPTIMIZER: 128.0,
    }  # fmt: skip
    assert profile_step.by_kind(events, "cuda")[p.NORM] == 64.0


def test_a_profile_takes_a_real_step_apart(monkeypatch, capsys):
    monkeypatch.setenv("GANFAST_TUNE", "0")
    monkeypatch.setattr(profile_step, "STEPS", [TINY["dcgan64"]])
    assert profile_step.main(["--batch", "3", "--steps", "1"]) == 0
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")}
    assert [c.strip() for c in rows["ms (%)"]] == ["eager fp32", "ganfast fp32", "eager bf16", "ganfast bf16"]
    for kind in ("convolution forward", "data gradient", "weight gradient", "norm and activation", "optimizer"):
        assert all(float(cell.split()[0]) > 0 for cell in rows[kind]), kind
    assert not any(name.startswith("both gradients") and float(cells[0].split()[0]) for name, cells in rows.items()), "eager's are apart"
