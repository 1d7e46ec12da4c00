"""Networks, optimizers and values that a step gets at in roundabout ways are found all the same."""

import argparse
import contextlib
import dataclasses
import functools
import types
from collections import deque

import pytest
import torch
from torch import nn

import ganfast
from ganfast.step.reach import Reached
from ganfast.step.state import Kept, Watch
from tests.step.common import adam, equal


class Base:
    def __init__(self, device):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).to(device)
        self.opt = adam(self.net)
        self.weight = 1.0

    def train(self, x):
        self.opt.zero_grad()
        loss = self.net(x).square().mean() * self.weight
        loss.backward()
        self.opt.step()
        return loss

    def copies(self):
        return [t.detach().clone() for t in (*self.net.state_dict().values(), *(v for s in self.opt.state.values() for v in s.values()))]


def logged(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


class Decorated(Base):
    @logged
    def step(self, x):
        return self.train(x)


class NoGradDecorated(Base):
    @torch.enable_grad()
    def step(self, x):
        return self.train(x)


class Inherits(Decorated):
    def step(self, x):
        return super().step(x) * 2


class Static(Base):
    def __init__(self, device):
        super().__init__(device)
        Static.mine = self
        self.step = Static.of_class

    @classmethod
    def of_class(cls, x):
        return cls.mine.train(x)


class ByName(Base):
    def step(self, x):
        return getattr(self, "tr" + "ain")(x)


class InNamespace(Base):
    def __init__(self, device):
        super().__init__(device)
        self.all = types.SimpleNamespace(args=argparse.Namespace(run=Base.train.__get__(self)))

    def step(self, x):
        return self.all.args.run(x)


class InSlots(Base):
    def __init__(self, device):
        super().__init__(device)
        holder = dataclasses.make_dataclass("Holder", ["owner", "queue"], slots=True)
        self.holder = holder(self, deque([self.opt]))

    def step(self, x):
        return self.holder.owner.train(x)


@pytest.mark.parametrize("kind", [Decorated, NoGradDecorated, Inherits, Static, ByName, InNamespace, InSlots])
def test_found_all_the_same(device, kind):
    """A first step from the beginning, a learning rate followed, batch norm put back."""
    x, ends = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).to(device), []
    for captured in (False, True):
        one = kind(device)
        step = ganfast.capture(one.step, x) if captured else one.step
        step(x)
        one.opt.param_groups[0]["lr"] = 2.0**-5
        step(x)
        ends.append(one.copies())
    equal(ends[1], ends[0])


def test_parameters_that_only_a_hidden_optimizer_knows(device):
    p = nn.Parameter(torch.tensor([1.0, -2.0], device=device))
    world = {"optimizer": torch.optim.SGD([p], 0.25, momentum=0.5, fused=True)}

    def step():
        optimizer = eval("world['optimizer']", {"world": world})
        optimizer.zero_grad()
        eval("p.square().sum().backward()", {"p": p})
        optimizer.step()

    captured = ganfast.capture(step, state=(torch.zeros(1, device=device),))
    assert p.grad is None and p.tolist() == [1, -2]
    for want in ([0.5, -1.0], [0.0, 0.0], [-0.25, 0.5]):
        captured()
        assert p.tolist() == want and p.grad is not None


def other_net(one, device):
    one.net = nn.Sequential(nn.Linear(2, 1)).to(device)
    one.opt = adam(one.net)


def grows(one, device):
    one.net.append(nn.Tanh())


def option(one, device):
    one.net[1].momentum = 0.5


def weight(one, device):
    one.weight = 3.0


def hook(one, device):
    one.net[0].register_forward_hook(lambda module, args, out: out * 2)


def more_parameters(one, device):
    one.opt.param_groups[0]["params"].pop()


@pytest.mark.parametrize("change", [other_net, grows, option, weight, hook, more_parameters])
def test_objects_and_containers_that_changed(device, change):
    x, ends = torch.ones(5, 2, device=device) * torch.arange(5, device=device)[:, None], []
    for captured in (False, True):
        one = Base(device)
        step = ganfast.capture(one.train, x) if captured else one.train
        step(x)
        torch.manual_seed(4)
        change(one, device)
        step(x)
        ends.append(one.copies())
    assert step.graphs == 2
    equal(ends[1], ends[0])


def test_settings_that_are_replaced_or_deep(device):
    settings = types.SimpleNamespace(loss={"weight": 2.0}, pair=(1.0, 2.0))
    step = ganfast.capture(lambda x: x * settings.loss["weight"] + settings.pair[0], torch.ones(2, device=device))
    settings.loss["weight"] = 3.0
    assert step(torch.ones(2, device=device)).tolist() == [4, 4]
    settings.loss = {"weight": 5.0}
    assert step(torch.ones(2, device=device)).tolist() == [6, 6]
    settings.pair = (2.0, 2.0)
    assert step(torch.ones(2, device=device)).tolist() == [7, 7]


def test_set_requires_grad_in_both_phases(device):
    """As pix2pix's and CycleGAN's loops do; a flag that a phase leaves is left by its graph."""
    ends = []
    for captured in (False, True):
        torch.manual_seed(0)
        g, d = nn.Linear(2, 2).to(device), nn.Linear(2, 1).to(device)
        opt_g, opt_d = adam(g), adam(d)

        def phase(x, network, optimizer, wanted, g=g, d=d):
            d.requires_grad_(wanted)
            optimizer.zero_grad()
            d(g(x)).mean().backward()
            optimizer.step()

        g_phase, d_phase = (
            functools.partial(phase, network=g, optimizer=opt_g, wanted=False),
            functools.partial(phase, network=d, optimizer=opt_d, wanted=True),
        )
        x = torch.ones(3, 2, device=device)
        if captured:
            g_phase, d_phase = ganfast.capture(g_phase, x), ganfast.capture(d_phase, x)
            assert d.weight.requires_grad
        for _ in range(3):
            g_phase(x)
            assert not d.weight.requires_grad
            d_phase(x)
            assert d.weight.requires_grad
        ends.append([p.detach() for p in (*g.parameters(), *d.parameters())])
    assert g_phase.graphs == 1 and d_phase.graphs == 2  # found with either flag
    equal(ends[1], ends[0])


def test_a_step_that_sets_the_mode_it_wants(device):
    one = Base(device)

    def step(x):
        one.net.train()
        return one.train(x)

    one.net.eval()
    captured = ganfast.capture(step, torch.randn(3, 2, device=device))
    assert not one.net.training
    for _ in range(3):
        captured(torch.randn(3, 2, device=device))
        assert one.net.training and one.net[1].training
        one.net.eval()
    assert captured.graphs == 1 and one.net[1].num_batches_tracked == 3


def test_a_gradient_of_another_phase_is_left_alone(device):
    g, d = nn.Linear(2, 2).to(device), nn.Linear(2, 1).to(device)

    def d_micro(x):
        with torch.no_grad():
            fake = g(x)
        d(fake).mean().backward()

    x = torch.ones(3, 2, device=device)
    captured = ganfast.capture(d_micro, x)
    g(x).mean().backward()
    gradient = g.weight.grad.clone()
    captured(x)
    assert torch.equal(g.weight.grad, gradient) and d.weight.grad is not None


def test_a_scaler_updated_in_another_phase(device):
    one, scaler = Base(device), torch.amp.GradScaler(device, init_scale=4.0)

    def step(x):
        one.opt.zero_grad()
        scaler.scale(one.net(x).mean()).backward()
        scaler.step(one.opt)

    x = torch.randn(3, 2, device=device)
    with contextlib.suppress(ganfast.CaptureError):
        ganfast.capture(step, x)
    step(x)
    scaler.update()
    scaler.scale(one.net(x).mean()).backward()
    scaler.unscale_(one.opt)
    ganfast.capture(lambda x: scaler.scale(x), x)
    with pytest.raises(RuntimeError, match="has already been called"):  # as before the capture
        scaler.unscale_(one.opt)


def test_autocast_without_a_cache_is_part_of_the_look(device):
    layer, x = nn.Linear(2, 2).to(device), torch.ones(2, 2, device=device)
    step = ganfast.capture(lambda x: layer(x), x)
    with torch.autocast(device, torch.bfloat16, cache_enabled=False):
        assert step(x).dtype == torch.bfloat16
    assert step(x).dtype == torch.float32 and step.graphs == 2


def test_tensors_of_the_cpu_among_those_of_a_device():
    """`meta` stands for the GPU: a number from outside is watched, one made inside is a constant, more is refused with its line."""
    kept = Kept(Reached(lambda: None), torch.device("meta"), [])
    number, x = torch.tensor(2.0), torch.ones(3, device="meta")
    with Watch(kept) as watch:
        x * number
        x * torch.tensor(3.0)
    assert watch.brought is None and watch.hosts == [number]
    with Watch(kept) as watch:
        torch.ones(3).to("meta")  # the line
    assert "test_hidden.py" in watch.brought and "# the line" in watch.brought


def test_a_captured_step_is_not_copied(device):
    import copy
    import pickle

    step = ganfast.capture(lambda x: x + 1, torch.ones(2, device=device))
    for way in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="capture again"):
            way(step)
