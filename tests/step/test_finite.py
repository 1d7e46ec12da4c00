"""A step whose gradients are not finite changes nothing that training keeps, and is counted; captured or not."""

import pytest
import torch
from torch import nn

import ganfast
from tests.step.common import Gan, adam, equal, images


class Guarded(Gan):
    def __init__(self, device):
        super().__init__(device)
        self.guard = ganfast.FiniteGuard(self.generator, self.discriminator)

    def step(self, real, spoil_d, spoil_g):
        """`spoil_*` multiply the losses: 1, inf or nan."""
        with self.guard:
            fake = self.generator(torch.randn(len(real), 8, 1, 1, device=real.device))
            loss_d = (self.discriminator(fake.detach()) - self.discriminator(real)).mean() * spoil_d
            self.opt_d.zero_grad()
            loss_d.backward()
            norm_d = self.guard.step(self.opt_d)
            loss_g = -self.discriminator(fake).mean() * spoil_g
            self.opt_g.zero_grad()
            loss_g.backward()
            norm_g = self.guard.step(self.opt_g, ema=self.ema, decay=0.75)
        return norm_d, norm_g

    def changed(self, before) -> dict[str, bool]:
        moved = [not torch.equal(a, b) for a, b in zip(self.tensors(), before)]
        parts = [len(n.state_dict()) for n in self.networks()] + [
            3 * len(list(n.parameters())) for n in (self.generator, self.discriminator)
        ]
        named = dict(zip(("generator", "discriminator", "ema", "opt_g", "opt_d"), torch.tensor(moved).split(parts)))
        return {name: bool(part.any()) for name, part in named.items()}


def make(device, captured):
    gan = Guarded(device)
    step = ganfast.capture(gan.step, images(device), 1.0, 1.0) if captured else gan.step
    step(images(device), 1.0, 1.0)
    return gan, step


@pytest.mark.parametrize("captured", [False, True], ids=["plain", "captured"])
@pytest.mark.parametrize("spoil", [float("nan"), float("inf")])
def test_a_bad_step_leaves_no_trace(device, captured, spoil):
    gan, step = make(device, captured)
    before = gan.copies()
    norm_d, _ = step(images(device), spoil, 1.0)
    assert not any(gan.changed(before).values()) and gan.guard.skipped == 1 and gan.guard.bad == 1 and not norm_d.isfinite()
    step(images(device), 1.0, 1.0)
    assert all(gan.changed(before).values()) and gan.guard.skipped == 1 and gan.guard.bad == 0


@pytest.mark.parametrize("captured", [False, True], ids=["plain", "captured"])
def test_images_that_are_not_finite_do_not_reach_batch_norm(device, captured):
    gan, step = make(device, captured)
    before = gan.copies()
    step(images(device) * float("nan"), 1.0, 1.0)
    assert not any(gan.changed(before).values())


@pytest.mark.parametrize("captured", [False, True], ids=["plain", "captured"])
def test_an_update_before_the_bad_one_stays(device, captured):
    gan, step = make(device, captured)
    before = gan.copies()
    step(images(device), 1.0, float("nan"))
    names = [n for n, _ in gan.discriminator.named_buffers()]
    assert gan.changed(before) == {"generator": False, "discriminator": True, "ema": False, "opt_g": False, "opt_d": True}
    old = dict(zip([f"d.{n}" for n in gan.discriminator.state_dict()], before[len(gan.generator.state_dict()) :]))
    assert all(torch.equal(gan.discriminator.state_dict()[n], old[f"d.{n}"]) for n in names)


def test_as_without_where_all_is_finite(device):
    ends = []
    for with_guard in (False, True):
        gan = Guarded(device)
        if not with_guard:
            gan.guard = type("Plain", (), {"__enter__": lambda s: s, "__exit__": lambda s, *a: None, "step": plain_update})()
        torch.manual_seed(3)
        for seed in range(3):
            norms = gan.step(images(device, seed=seed), 1.0, 1.0)
        ends.append(gan.copies())
    equal(ends[1], ends[0])
    want = torch.cat([p.grad.flatten() for p in gan.discriminator.parameters()]).norm()
    assert norms[0] > 0 and want > 0


def plain_update(self, optimizer, ema=None, decay=None):
    optimizer.step()
    if ema is not None:
        ema.update(decay)


def test_the_norm_is_that_of_all_gradients(device):
    layer = nn.Linear(3, 2).to(device)
    optimizer, guard = adam(layer), ganfast.FiniteGuard(layer)
    with guard:
        layer(torch.ones(4, 3, device=device)).square().sum().backward()
        norm = guard.step(optimizer)
    torch.testing.assert_close(norm, torch.cat([p.grad.flatten() for p in layer.parameters()]).norm())


def test_half_precision_gradients_whose_norm_is_beyond_their_range(device):
    p = nn.Parameter(torch.ones(2, device=device, dtype=torch.float16))
    optimizer, guard = torch.optim.SGD([p], 2.0**-16, fused=True), ganfast.FiniteGuard(nn.ParameterList([p]))
    with guard:
        p.grad = torch.full_like(p, 2.0**15.5)
        norm = guard.step(optimizer)
    assert guard.bad == 0 and norm == pytest.approx(2**16, rel=1e-3) and not p.eq(1).any()


def test_with_a_scaler(device):
    layer = nn.Linear(3, 2).to(device)
    optimizer, guard, scaler = adam(layer), ganfast.FiniteGuard(layer), torch.amp.GradScaler(device, init_scale=4.0)
    for factor in (1.0, float("inf")):
        before = layer.weight.detach().clone()
        optimizer.zero_grad()
        with guard:
            scaler.scale(layer(torch.ones(4, 3, device=device)).mean() * factor).backward()
            scaler.unscale_(optimizer)
            norm = guard.step(optimizer)
            scaler.update()
        assert torch.equal(before, layer.weight) is (factor != 1)
    assert scaler.get_scale() == 2 and guard.skipped == 1 and not norm.isfinite()


def test_momentum_whose_first_step_is_skipped(device):
    ends = []
    for skipped in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(64, 64).to(device)
        optimizer, guard = torch.optim.SGD(layer.parameters(), 0.5, momentum=0.5, fused=True), ganfast.FiniteGuard(layer)
        for factor in (float("nan"), 1.0, 1.0) if skipped else (1.0, 1.0):
            optimizer.zero_grad()
            with guard:
                (layer(torch.ones(2, 64, device=device)).square().mean() * factor).backward()
                guard.step(optimizer)
        ends.append([layer.weight.detach()])
    equal(ends[1], ends[0])
    dampened = torch.optim.SGD(layer.parameters(), 0.5, momentum=0.5, dampening=0.5, fused=True)
    with guard, pytest.raises(RuntimeError, match="SGD with dampening is unlike"):
        guard.step(dampened)


def test_buffers_of_all_kinds(device):
    """Replaced by the forward, integer, double, empty, expanded: as they were."""

    class Kinds(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
            self.register_buffer("replaced", torch.ones(2))
            self.register_buffer("count", torch.zeros(3, dtype=torch.int64))
            self.register_buffer("empty", torch.zeros(0))
            self.register_buffer("expanded", torch.ones(1).expand(4))
            self.register_buffer("gaps", torch.zeros(4, 8)[:, ::2])

        def forward(self, factor):
            self.replaced = self.replaced + 1
            self.count += 1
            self.gaps += 1
            return (self.weight * factor).sum()

    net = Kinds().to(device)
    optimizer, guard = torch.optim.SGD(net.parameters(), 0.5, fused=True), ganfast.FiniteGuard(net)
    for factor, times in ((float("nan"), 0), (2.0, 1)):
        optimizer.zero_grad()
        with guard:
            net(factor).backward()
            norm = guard.step(optimizer)
        assert net.count.tolist() == [times] * 3 and net.replaced.tolist() == [1 + times] * 2 and net.gaps.eq(times).all()
    torch.testing.assert_close(norm.cpu(), torch.tensor(8.0).sqrt())


def test_bad_use():
    layer = nn.Linear(2, 2)
    guard = ganfast.FiniteGuard(layer)
    with pytest.raises(RuntimeError, match="inside of `with guard:`"):
        guard.step(adam(layer))
    with guard, pytest.raises(RuntimeError, match="got Adam without fused"):
        guard.step(torch.optim.Adam(layer.parameters()))
    with guard, pytest.raises(RuntimeError, match="entered twice"), guard:
        pass
    with guard, pytest.raises(ValueError, match="ema and decay together"):
        guard.step(adam(layer), ema=ganfast.EMA(layer))
    with guard, pytest.raises(TypeError, match=r"expects a ganfast\.EMA, got Linear"):
        guard.step(adam(layer), ema=layer, decay=0.5)
    with guard, pytest.raises(ValueError, match="decay expects a number from 0 to 1, got 2"):
        guard.step(adam(layer), ema=ganfast.EMA(layer), decay=2)
    with guard, pytest.raises(ValueError, match="optimizer of another network"):
        guard.step(adam(nn.Linear(1, 1)))
    with guard, pytest.raises(TypeError, match=r"expects a torch\.optim\.Optimizer, got Tensor"):
        guard.step(torch.ones(1))
    with pytest.raises(TypeError, match="got Adam"):
        ganfast.FiniteGuard(adam(layer))
    with pytest.raises(ValueError, match="no parameters"):
        ganfast.FiniteGuard()
    with pytest.raises(ValueError, match=r"\['cpu', 'meta'\]"):
        ganfast.FiniteGuard(layer, nn.Linear(1, 1, device="meta"))


def test_an_exception_ends_the_block(device):
    layer = nn.BatchNorm1d(2).to(device)
    guard = ganfast.FiniteGuard(layer)
    with pytest.raises(KeyError), guard:
        layer(torch.randn(3, 2, device=device))
        raise KeyError
    with guard:
        layer(torch.randn(3, 2, device=device))
    assert layer.num_batches_tracked == 2


def test_optimizers_of_one_update_are_skipped_together():
    """Also the first, whose own gradients are finite, and both averages."""
    one, two = nn.Linear(2, 1), nn.Linear(2, 1)
    guard, averages = ganfast.FiniteGuard(one, two), [ganfast.EMA(one), ganfast.EMA(two)]
    optimizers = [torch.optim.Adam(network.parameters(), lr=0.1, fused=True) for network in (one, two)]
    for spoil, moved in ((float("nan"), False), (1.0, True)):
        before = [p.clone() for network in (one, two, *(average.module for average in averages)) for p in network.parameters()]
        for optimizer in optimizers:
            optimizer.zero_grad()
        (one(torch.ones(3, 2)).sum() + two(torch.ones(3, 2)).sum() * spoil).backward()
        with guard:
            norm = guard.step(*optimizers, ema=averages, decay=0.5)
        now = [p for network in (one, two, *(average.module for average in averages)) for p in network.parameters()]
        assert [not torch.equal(a, b) for a, b in zip(now, before, strict=True)] == [moved] * len(now)
    grads = torch.cat([p.grad.flatten() for network in (one, two) for p in network.parameters()])
    torch.testing.assert_close(norm, grads.norm())
    with pytest.raises(TypeError, match=r"step expects a torch.optim.Optimizer, got none"), guard:
        guard.step()
