"""What a forward means beyond its values: outputs changed in place, the order of norms, every gradient, hooks, threads."""

import copy
import threading

import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from tests.dropin.common import Sized, both, x_for
from tests.dropin.small import layers


class Overwritten(nn.Module):
    """Outputs that are changed in place: eager's activations keep their input for the backward."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.LeakyReLU(0.2))
        self.conv, self.last = nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 4, 1)

    def forward(self, x):
        y = self.body(x)
        y += x
        z = F.elu(self.conv(y))
        z.mul_(0.5)
        return F.softplus(self.last(z)).add_(1)


def test_outputs_that_are_changed_in_place():
    fast, plain = ganfast.accelerate(Overwritten()), Overwritten()
    for model in (fast, plain):
        model(x_for()).square().sum().backward()
    for (name, a), b in zip(fast.named_parameters(), plain.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    assert [row[0] for row in layers(fast)] == ["body.0", "conv", "last"]


class Watching(nn.Module):
    """What the norm does is seen between the convolution and the norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        h = self.conv(x)
        before = self.norm.running_mean.clone()
        return F.relu(self.norm(h)) + before.view(1, -1, 1, 1)


def test_a_norm_is_not_run_before_its_time():
    got, wanted = both(Watching, x_for() + 3)
    torch.testing.assert_close(got, wanted)


def test_second_order_reaches_every_bias():
    """Zeros, as torch has them: an optimizer and DDP wait for every gradient."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(4, 4, 3),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(4, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 3, 1),
        nn.PReLU(),
        nn.Conv2d(3, 1, 1),
    ]
    plain = nn.Sequential(*layers)
    fast = ganfast.accelerate(copy.deepcopy(plain))
    for model in (fast, plain):
        x = x_for().requires_grad_()
        (gx,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        gx.square().sum().backward()
    for a, b in zip(fast.parameters(), plain.parameters()):
        assert (a.grad is None) == (b.grad is None)
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_the_calls_of_nested_sequentials_stay_their_own():
    x = x_for()
    model, plain = (nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())) for _ in range(2))
    plain.load_state_dict(model.state_dict())
    ganfast.accelerate(model)
    model(x), plain(x)
    for m in (model, plain):
        m[1].forward = lambda x: x * 2
    torch.testing.assert_close(model(x), plain(x))
    calls = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, i, o: calls.append(type(m).__name__))
    try:
        del model[1].forward
        model(x)
    finally:
        handle.remove()
    assert calls == ["Conv2d", "BatchNorm2d", "ReLU", "Sequential", "Sequential"]


def test_threads():
    """The first call in another thread, then several at once, each with a size of its own."""
    model, plain = ganfast.accelerate(Sized()).eval(), Sized().eval()
    results = {}

    def call(size):
        with torch.no_grad():  # a thread's own setting
            results[size] = model(x_for(size))

    for sizes in ((8,), (9, 10, 8)):
        threads = [threading.Thread(target=call, args=(size,)) for size in sizes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for size, got in results.items():
        torch.testing.assert_close(got, plain(x_for(size)), rtol=1e-4, atol=1e-5)
    assert len(results) == 3
