"""What changes between calls is noticed: the step is recorded anew, or the call refused, but never replayed in silence."""

import pytest
import torch
from torch import nn

import ganfast
from ganfast.step.reach import Reached
from tests.step.common import Gan, adam, equal, images


class Scaled:
    """Multiplies by a plain number of its own."""

    def __init__(self, factor):
        self.factor, self.calls = factor, 0

    def step(self, x):
        return x * self.factor


def test_a_plain_value_that_changed(device):
    x, scaled = torch.ones(2, device=device), Scaled(2)
    step = ganfast.capture(scaled.step, x, max_graphs=3)
    for scaled.factor in (2, 3, 2, 3, 5):  # two are found again
        scaled.calls += 1  # no code of the step names it
        assert step(x).tolist() == [scaled.factor] * 2
    assert step.graphs == 3
    scaled.factor = 7
    with pytest.raises(ganfast.CaptureError, match=r"self\.factor was 5 and is 7"):
        step(x)


def test_train_and_eval_have_a_graph_each(device):
    layer = nn.BatchNorm1d(3).to(device)
    x = torch.randn(5, 3, device=device)
    step = ganfast.capture(lambda x: layer(x), x)
    for mode in (True, False, True, False):
        layer.train(mode)
        want = nn.functional.batch_norm(x, layer.running_mean.clone(), layer.running_var.clone(), training=mode)
        torch.testing.assert_close(step(x), want, rtol=1e-5, atol=1e-5)
    assert step.graphs == 2 and layer.num_batches_tracked == 2


def moves_data(gan):
    for p in gan.generator.parameters():
        p.data = p.data.clone()


def loads(gan):
    gan.generator.load_state_dict({k: v.clone() for k, v in gan.generator.state_dict().items()}, assign=True)
    gan.opt_g.param_groups[0]["params"] = list(gan.generator.parameters())


def loads_optimizer(gan):
    state = gan.opt_d.state_dict()
    gan.opt_d.load_state_dict({**state, "state": {k: {n: t.clone() for n, t in s.items()} for k, s in state["state"].items()}})


def freezes(gan):
    gan.generator[0].weight.requires_grad_(False)


def another_option(gan):
    gan.opt_g.param_groups[0]["betas"] = (0.75, 0.875)


def another_layer(gan):
    torch.manual_seed(9)
    gan.discriminator[2] = nn.ReLU()


def another_class(gan):
    ganfast.accelerate(gan.generator)
    ganfast.restore(gan.generator)
    gan.generator[2].__class__ = type("Rectifier", (nn.ReLU,), {})


@pytest.mark.parametrize("change", [moves_data, loads_optimizer, freezes, another_option, another_layer, another_class, loads])
def test_state_that_moved_is_recorded_anew(device, change):
    batch, ends = images(device), []
    for captured in (False, True):
        gan = Gan(device)
        step = ganfast.capture(gan.step, batch) if captured else gan.step
        torch.manual_seed(3)
        step(batch)
        change(gan)
        step(batch)
        step(batch)
        ends.append(gan.copies())
    assert step.graphs == 2
    equal(ends[1], ends[0])


def test_a_network_loads_in_place_without_a_new_recording(device):
    batch, gan, other = images(device), Gan(device), Gan(device)
    step = ganfast.capture(gan.step, batch)
    other.step(batch)
    gan.generator.load_state_dict(other.generator.state_dict())
    step(batch)
    assert step.graphs == 1


def test_a_dataset_that_was_replaced(device):
    class Data:
        images = torch.zeros(4, 2)

        def __init__(self):
            self.images = torch.arange(8.0, device=device).reshape(4, 2)

        def step(self, index):
            return self.images[index]

    data = Data()
    index = torch.tensor([1, 3], device=device)
    step = ganfast.capture(data.step, index)
    data.images = data.images + 10
    assert step(index).tolist() == [[12, 13], [16, 17]] and step.graphs == 2


def outer_function(x):
    return x * GLOBAL_FACTOR + helper(x)


def helper(x):
    return LAYER(x)


GLOBAL_FACTOR, LAYER, UNUSED = 3.0, nn.Linear(2, 2), nn.Linear(3, 3)


def test_what_a_step_reaches():
    generator = torch.Generator()

    class Holder:
        def __init__(self):
            self.nets = {"d": nn.Linear(1, 1)}
            self.unnamed = nn.Linear(5, 5)

        def use(self, x):
            return self.nets["d"](x)

    holder, optimizer = Holder(), torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)

    def step(x, default=generator):
        optimizer.step()
        return holder.use(outer_function(x)) + torch.rand(1, generator=default)

    found = Reached(step)
    names = {slot.name for slot in found.slots}
    assert {LAYER, holder.nets["d"]} == set(found.modules) and "GLOBAL_FACTOR" in names
    assert found.optimizers == [optimizer] and found.generators == [generator]
    assert len(found.parameters()) == 5


class Net(nn.Module):
    """Reads one number and one optimizer of its own; another trains it and counts."""

    def __init__(self):
        super().__init__()
        self.layer, self.slope, self.epoch = nn.Linear(2, 2), 0.5, 0
        self.opt = adam(self.layer)

    def forward(self, x):
        return nn.functional.leaky_relu(self.layer(x), self.slope)

    def step(self, x):
        self.opt.zero_grad()
        for optimizer in [self.opt]:
            self(x).sum().backward()
            optimizer.step()

    def fit(self):
        self.epoch += 1


def test_only_what_the_code_names():
    net = Net()
    found = Reached(net.step)
    assert found.optimizers == [net.opt] and found.modules == [net, net.layer]
    names = {slot.name for slot in found.slots}
    assert "self.slope" in names and not any("epoch" in name for name in names)


def test_a_variable_of_the_closure(device):
    factor, x = 2, torch.ones(2, device=device)
    step = ganfast.capture(lambda x: x * factor, x)
    assert step(x).tolist() == [2, 2]
    factor = 3
    assert step(x).tolist() == [3, 3] and step.graphs == 2


class Parent:
    def step(self, x):
        return x * self.factor


class Child(Parent):
    def __init__(self):
        self.factor = 2

    def step(self, x):
        return super().step(x) + 1


def test_what_a_parents_method_reads(device):
    child, x = Child(), torch.ones(2, device=device)
    step = ganfast.capture(child.step, x)
    child.factor = 3
    assert step(x).tolist() == [4, 4] and step.graphs == 2


def test_the_same_name_elsewhere_is_another(device):
    class Loop:
        def __init__(self):
            self.net, self.steps = nn.Linear(2, 1).to(device), 0
            self.opt = adam(self.net)

        def update(self, x):
            self.opt.zero_grad()
            self.net(x).mean().backward()
            self.opt.step()

        def step(self):
            self.steps += 1

    loop = Loop()
    update = ganfast.capture(loop.update, torch.ones(3, 2, device=device))
    for _ in range(3):
        loop.step()
        update(torch.ones(3, 2, device=device))
    assert update.graphs == 1


def test_functions_inside_of_the_step():
    scaled, optimizer = Scaled(2), torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)

    def step(x):
        def inner():
            return next(y * scaled.factor for y in (x,))

        def closes():
            optimizer.step()

        closes()
        return inner()

    found = Reached(step)
    assert "scaled.factor" in {slot.name for slot in found.slots} and found.optimizers == [optimizer]


def test_a_name_that_is_set_later_and_cells():
    def step():
        return later

    assert [s.name for s in Reached(step).slots] == []
    later = 3
    (slot,) = Reached(step).slots
    assert slot.get() == 3
    slot.set(4)
    assert later == 4
