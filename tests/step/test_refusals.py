"""What a graph cannot repeat is refused with the reason and the line, and leaves nothing changed."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ganfast
from ganfast.step.graph import CudaGraphs
from ganfast.step.reach import Reached
from ganfast.step.refusals import refuse
from tests.step.common import Gan, adam, equal, images
from tests.step.recorded import RecordedGraphs

CUDA = torch.device("cuda", 0)


def test_the_line_that_waits_is_told_and_everything_put_back(device):
    gan, batch = Gan(device), images(device)

    def step(real):
        loss, _ = gan.step(real)
        if loss.item() > 1e9:  # the line
            raise AssertionError
        return loss

    gan.step(batch)
    before = gan.copies()
    words = r"waits for the device, .* at .*test_refusals\.py:\d+, in step: `if loss\.item\(\) > 1e9"
    with pytest.raises(ganfast.CaptureError, match=words) as found:
        ganfast.capture(step, batch)
    number = int(re.search(r"test_refusals\.py:(\d+)", str(found.value))[1])
    assert "# the line" in Path(__file__).read_text().splitlines()[number - 1]
    equal(gan.copies(), before)
    assert gan.opt_d.param_groups[0]["lr"] == 2**-10 and isinstance(gan.opt_d.param_groups[0]["lr"], float)
    gan.step(batch)


def test_waiting_is_noticed_before_anything_is_recorded(device, monkeypatch):
    for graphs in (RecordedGraphs, CudaGraphs):
        monkeypatch.setattr(graphs, "record", lambda *args: pytest.fail("recorded"))
    with pytest.raises(ganfast.CaptureError, match=r"waits for the device, .* at .*`.*x\.sum\(\)\.item\(\)"):
        ganfast.capture(lambda x: x * x.sum().item(), torch.ones(2, device=device))


def test_an_error_of_the_steps_own_comes_as_it_is(device):
    gan = Gan(device)

    def step(x):
        gan.step(x)
        raise KeyError("mine")

    gan.step(images(device))
    before = gan.copies()
    with pytest.raises(KeyError, match="mine"):
        ganfast.capture(step, images(device))
    equal(gan.copies(), before)


class Stateful:
    def __init__(self):
        self.steps, self.losses, self.previous, self.phase = 0, [], torch.zeros(2), {"d": 0}

    def counts(self, x):
        self.steps += 1
        return x

    def collects(self, x):
        self.losses.append(x)
        return x

    def notes(self, x):
        self.phase["d"] += 1
        return x

    def replaces(self, x):
        y = x + self.previous
        self.previous = y
        return y

    def draws(self, x):
        return x * random.random()

    def draws_numpy(self, x):
        return x * np.random.rand()


WORDS = {
    "counts": r"changes self\.steps \(0 became 1\)",
    "collects": r"adds to or takes from self\.losses \(0 items became 1\)",
    "notes": r"changes self\.phase\['d'\]",
    "replaces": r"reads self\.previous and then puts another tensor there.*copy_",
    "draws": r"draws from Python's random",
    "draws_numpy": r"draws from numpy\.random",
}


@pytest.mark.parametrize("name", WORDS)
def test_python_state_is_refused(device, name):
    stateful = Stateful()
    stateful.previous = stateful.previous.to(device)
    previous, drawn = stateful.previous, (random.getstate(), np.random.get_state()[1].tolist())
    with pytest.raises(ganfast.CaptureError, match=WORDS[name]):
        ganfast.capture(getattr(stateful, name), torch.ones(2, device=device))
    assert stateful.steps == 0 and stateful.losses == [] and stateful.previous is previous and stateful.phase == {"d": 0}
    assert (random.getstate(), np.random.get_state()[1].tolist()) == drawn


@pytest.mark.gpu
def test_random_numbers_of_the_host_are_refused():
    own = torch.Generator()
    for step in (lambda x: x + torch.rand(2).sum().item(), lambda x: x * torch.rand(2, generator=own).cuda(non_blocking=True)):
        with pytest.raises(ganfast.CaptureError, match=r"on the host|waits for the device"):
            ganfast.capture(step, torch.ones(2, device="cuda"))


@pytest.mark.parametrize("out", [1.5, 2, "text", {"loss": 3.0}])
def test_outputs_that_cannot_be_renewed(device, out):
    with pytest.raises(TypeError, match="return tensors"):
        ganfast.capture(lambda x: out, torch.ones(2, device=device))


BAD_ARGUMENTS = [(np.ones(2), "ndarray"), (object(), "object"), (torch.ones(2, requires_grad=True), "requires grad")]


@pytest.mark.parametrize("argument, words", BAD_ARGUMENTS)
def test_arguments_that_a_graph_cannot_have(device, argument, words):
    with pytest.raises(TypeError, match=words):
        ganfast.capture(lambda x: None, argument)


@pytest.mark.parametrize("argument, words", BAD_ARGUMENTS)
def test_on_a_cpu_they_are_refused_too(argument, words):
    with pytest.raises(TypeError, match=words):
        ganfast.capture(lambda x: None, argument)


def test_autocast_belongs_inside(device):
    layer = nn.Linear(2, 2).to(device)
    with torch.autocast(device, torch.bfloat16), pytest.raises(ganfast.CaptureError, match="use autocast inside the step"):
        ganfast.capture(lambda x: layer(x), torch.ones(2, 2, device=device))


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.NAdam])
def test_an_optimizer_that_is_not_capturable(make):
    optimizer = make([nn.Parameter(torch.ones(1))], 0.1)
    with pytest.raises(ganfast.CaptureError, match=f"{make.__name__} counts its steps on the host: make it with capturable=True"):
        refuse(Reached(lambda: optimizer.step()), CUDA)


def test_a_first_step_unlike_the_others(device):
    layer = nn.Linear(2, 1).to(device)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9, dampening=0.5, fused=True)

    def step(x):
        optimizer.zero_grad()
        layer(x).mean().backward()
        optimizer.step()

    x = torch.ones(3, 2, device=device)
    with pytest.raises(ganfast.CaptureError, match="SGD with dampening is unlike the others: take one before"):
        ganfast.capture(step, x)
    step(x)
    ganfast.capture(step, x)


class Foreign(torch.optim.Optimizer):
    """Begins with ones, as no optimizer of torch does."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.5})

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            state = self.state.setdefault(p, {})
            if "speed" not in state:
                state["speed"] = torch.ones_like(p)
            state["speed"].mul_(0.5).add_(p.grad)
            p.sub_(state["speed"])


def test_an_optimizer_whose_beginning_is_not_known(device):
    p = nn.Parameter(torch.ones(2, device=device))
    optimizer = Foreign([p])

    def step():
        optimizer.zero_grad()
        p.square().sum().backward()
        optimizer.step()

    with pytest.raises(ganfast.CaptureError, match="how Foreign begins is not known"):
        ganfast.capture(step)
    assert not optimizer.state.get(p) and p.tolist() == [1, 1]
    step()
    captured = ganfast.capture(step)
    before = p.detach().clone(), optimizer.state[p]["speed"].clone()
    captured()
    want = before[1] * 0.5 + 2 * before[0]
    assert torch.equal(optimizer.state[p]["speed"], want) and torch.equal(p.detach(), before[0] - want)


def test_modules_that_talk_to_others_are_refused_by_name(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        for make in (nn.parallel.DistributedDataParallel, nn.SyncBatchNorm.convert_sync_batchnorm):
            network = make(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)))
            with pytest.raises(ganfast.CaptureError, match=r"DistributedDataParallel is not|SyncBatchNorm in a process group is not"):
                refuse(Reached(lambda network=network: network), CUDA)
            assert ganfast.capture(lambda x, network=network: network(x).sum(), torch.ones(2, 1, 3, 3)).device is None
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("options", [{"warmup": -1}, {"max_graphs": 0}])
def test_bad_options(options):
    with pytest.raises(ValueError, match=r"got -1 and 8|got 1 and 0"):
        ganfast.capture(lambda: None, **options)
    for step in (3, nn.Linear):
        with pytest.raises(TypeError, match="a function or an object with a call, got"):
            ganfast.capture(step)


def test_on_a_cpu_the_step_runs_as_it_is():
    seen = []

    def step(x, weight, *, twice=False):
        seen.append(weight)
        layer = nn.Linear(2, 2)
        return layer(x) * weight, {"w": weight * (1 + twice)}

    captured = ganfast.capture(step, torch.ones(1, 2), 0.5)
    assert seen == [] and captured.device is None and captured.graphs == 0 and captured.__name__ == "step"
    y, more = captured(torch.ones(1, 2), np.float32(0.25), twice=True)
    assert repr(captured).endswith("step, runs as it is: nothing on a GPU>")
    assert not y.requires_grad and more["w"] == 0.5 and isinstance(seen[0], torch.Tensor) and seen[0].dtype == torch.float32
    with pytest.raises(TypeError, match="return tensors"):
        ganfast.capture(lambda: 1.5)()
    assert adam(nn.Linear(1, 1)).param_groups[0]["lr"] == 2**-10
