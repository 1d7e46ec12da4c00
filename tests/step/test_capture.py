"""A captured step against the same step uncaptured: equal, step by step, in all that it changes."""

import warnings

import pytest
import torch
from torch import nn

import ganfast
from ganfast.step import capture as module
from tests.step.common import Gan, equal, images
from tests.step.recorded import RecordedGraphs


def both(device, accelerated=False):
    plain, captured = Gan(device, accelerated), Gan(device, accelerated)
    return plain, captured


def run(gan, step, batches, *more):
    """Seeds, then steps; (outputs, the state after each)"""
    torch.manual_seed(3)
    outputs, states = [], []
    for batch in batches:
        outputs.append([t.clone() for t in step(batch, *more)])
        states.append(gan.copies())
    return outputs, states


@pytest.mark.parametrize("accelerated", [False, True], ids=["plain", "accelerated"])
def test_equal_step_by_step(device, accelerated):
    plain, mine = both(device, accelerated)
    batches = [images(device, seed=i) for i in range(4)]
    step = ganfast.capture(mine.step, batches[0])
    (want, states), (got, mine_states) = run(plain, plain.step, batches), run(mine, step, batches)
    assert step.graphs == 1
    for a, b in zip(got + mine_states, want + states):
        equal(a, b, exact=not accelerated)
    assert not torch.equal(got[0][0], got[1][0])


def test_an_accelerated_network_is_recorded_with_its_kernels(monkeypatch):
    graphs = RecordedGraphs()
    monkeypatch.setattr(module, "graphs_for", lambda reached, leaves: graphs)
    gan = Gan("cpu", accelerated=True)
    step = ganfast.capture(gan.step, images("cpu"))
    (recorded,) = [graph()._recorder for graph in graphs._alive.values()]
    names = [func._schema.name for func, *_ in recorded.calls]
    assert names.count("ganfast::conv_transpose_act_fwd") == 3  # the generator's two, and a data gradient of the discriminator's
    assert names.count("ganfast::batch_norm_act_fwd") == 4
    assert not [name for name in names if name in ("aten::native_batch_norm", "aten::relu_", "aten::tanh")]
    compiled = [ganfast.explain(network).graphs for network in (gan.generator, gan.discriminator)]
    step(images("cpu", seed=1))
    assert [ganfast.explain(network).graphs for network in (gan.generator, gan.discriminator)] == compiled


def test_capturing_changes_nothing(device):
    gan = Gan(device)
    gan.step(images(device))
    gan.opt_g.zero_grad()
    before, gradients = gan.copies(), [p.grad for p in gan.discriminator.parameters()]
    values = [g.clone() for g in gradients]
    drawn = torch.randn(3, device=device)
    torch.manual_seed(5)
    ganfast.capture(gan.step, images(device))
    after = torch.randn(3, device=device)
    torch.manual_seed(5)
    assert torch.equal(after, torch.randn(3, device=device)) and not torch.equal(drawn, after)
    assert all(torch.equal(a, b) for a, b in zip(gan.tensors(), before))
    assert all(p.grad is g for p, g in zip(gan.discriminator.parameters(), gradients))
    assert all(p.grad is None for p in gan.generator.parameters())
    assert all(torch.equal(a, b) for a, b in zip(gradients, values))


def test_values_that_change_over_time(device):
    """The learning rate, assigned and scheduled, and an EMA's decay as an argument."""
    plain, mine = both(device)
    batch = images(device)
    step = ganfast.capture(mine.step, batch, 0.75)
    states = []
    for gan, call in ((plain, plain.step), (mine, step)):
        torch.manual_seed(3)
        schedule = torch.optim.lr_scheduler.ExponentialLR(gan.opt_d, 0.5)
        for i, decay in enumerate((0.75, 0.5, 0.0)):
            call(batch, decay)
            gan.opt_g.param_groups[0]["lr"] = 2.0 ** -(6 + i)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a replay does not tell the schedule that the optimizer stepped
                schedule.step()
        call(batch, 0.25)
        states.append(gan.copies())
    assert step.graphs == 1
    equal(states[1], states[0])


def test_a_penalty_weight_and_an_augmentation_probability(device):
    """Floats among the arguments are device tensors; `where` takes the branch that `if` cannot."""
    x = torch.arange(8.0, device=device).reshape(2, 4)

    def step(x, weight, p):
        assert isinstance(weight, torch.Tensor) and weight.device.type == device
        flipped = torch.where(torch.rand(len(x), 1, device=device) < p, x.flip(1), x)
        return weight * x.square().mean(), flipped

    captured = ganfast.capture(step, x, 1.0, 0.0)
    for weight, p, y in ((1.0, 0.0, x), (0.25, 1.0, x.flip(1))):
        loss, flipped = captured(x, weight, p)
        assert loss == weight * x.square().mean() and torch.equal(flipped, y)
    assert captured.graphs == 1


def test_a_new_shape_is_recorded_and_an_old_one_found_again(device):
    plain, mine = both(device)
    batches = [images(device, n, seed=n) for n in (4, 3, 4, 3, 4)]
    step = ganfast.capture(mine.step, batches[0])
    (want, states), (got, mine_states) = run(plain, plain.step, batches), run(mine, step, batches)
    assert step.graphs == 2
    for a, b in zip(got + mine_states, want + states):
        equal(a, b)


def test_recordings_are_bounded(device):
    step = ganfast.capture(lambda x: x * 2, images(device), max_graphs=2)
    step(images(device, 3))
    with pytest.raises(ganfast.CaptureError, match=r"max_graphs=2 .*look different from all earlier.*drop_last"):
        step(images(device, 2))
    assert torch.equal(step(images(device, 3)), images(device, 3) * 2)
    step.reset()
    assert torch.equal(step(images(device, 2)), images(device, 2) * 2) and step.graphs == 1


def test_outputs_are_copies_unless_asked_for(device):
    x = torch.ones(3, device=device)
    for static in (False, True):
        step = ganfast.capture(lambda x: {"y": x + 1, "none": None}, x, static_outputs=static)
        first, second = step(x), step(x * 2)
        assert first["none"] is None and second["y"].tolist() == [3, 3, 3]
        assert (first["y"] is second["y"]) is static and first["y"].tolist() == ([3] * 3 if static else [2] * 3)


def test_phases_with_intervals_share_what_they_train(device):
    """D, its regulariser every second step, G, its regulariser every third: four graphs in turns."""
    ends = []
    for captured in (False, True):
        gan = Gan(device)
        batch = images(device)

        def fakes(gan=gan, batch=batch):
            return gan.generator(torch.randn(len(batch), 8, 1, 1, device=batch.device))

        def train(network, optimizer, loss, **asked):
            optimizer.zero_grad()
            loss.backward(**asked)
            optimizer.step()
            return loss

        def d_phase(real, gan=gan):
            loss = gan.discriminator(fakes().detach()).mean() - gan.discriminator(real).mean()
            return train(gan.discriminator, gan.opt_d, loss)

        def r1_phase(real, weight, gan=gan):
            return train(gan.discriminator, gan.opt_d, weight * ganfast.penalties.r1_penalty(gan.discriminator, real))

        def g_phase(gan=gan):
            asked = list(gan.generator.parameters())
            return train(gan.generator, gan.opt_g, -gan.discriminator(fakes()).mean(), inputs=asked)

        def g_reg_phase(weight, gan=gan):
            return train(gan.generator, gan.opt_g, weight * fakes().square().mean())

        phases = d_phase, r1_phase, g_phase, g_reg_phase
        if captured:
            phases = [ganfast.capture(d_phase, batch), ganfast.capture(r1_phase, batch, 5.0), ganfast.capture(g_phase)]
            phases.append(ganfast.capture(g_reg_phase, 0.5))
        torch.manual_seed(3)
        losses = []
        for i in range(4):
            losses.append(phases[0](batch))
            if i % 2 == 0:
                losses.append(phases[1](batch, 5.0))
            losses.append(phases[2]())
            if i % 3 == 0:
                losses.append(phases[3](0.5))
        ends.append([t.detach() for t in losses] + gan.copies())
        if captured:
            assert [phase.graphs for phase in phases] == [1, 1, 1, 1]
    equal(ends[1], ends[0])


def test_gradients_are_where_a_step_leaves_them_and_are_added_to(device):
    """Two accumulating calls, then an update that a third graph makes from `.grad`."""
    ends = []
    for captured in (False, True):
        gan = Gan(device)
        gan.discriminator.eval()
        accumulate = lambda real, gan=gan: (gan.discriminator(real).mean().backward(), None)[1]

        def update(gan=gan):
            gan.opt_d.step()
            gan.opt_d.zero_grad(set_to_none=False)

        if captured:
            accumulate = ganfast.capture(accumulate, images(device))
            accumulate(images(device))
            update = ganfast.capture(update)
        else:
            accumulate(images(device))
        accumulate(images(device, seed=8))
        gradients = [p.grad.clone() for p in gan.discriminator.parameters()]
        update()
        accumulate(images(device, seed=9))
        update()
        ends.append(gradients + gan.copies())
    equal(ends[1], ends[0])


def test_gradients_of_the_last_call_lie_in_grad(device):
    """Whichever of two graphs it was."""
    layer = nn.Linear(2, 1).to(device)

    def step(x):
        layer.zero_grad()
        layer(x).sum().backward()

    captured = ganfast.capture(step, torch.ones(1, 2, device=device))
    for rows in (1, 3, 1, 3):
        captured(torch.full((rows, 2), 2.0, device=device))
        assert layer.weight.grad.tolist() == [[2 * rows, 2 * rows]] and layer.bias.grad.tolist() == [rows]
        layer.zero_grad()
    assert captured.graphs == 2


def test_random_generators_of_ones_own_advance(device):
    numbers = []
    for captured in (False, True):
        generator = torch.Generator(device).manual_seed(4)
        step = lambda g=generator: torch.rand(3, generator=g, device=device)
        step = ganfast.capture(step) if captured else step
        numbers.append([step() for _ in range(3)])
    equal(numbers[1], numbers[0])


def test_tensors_that_the_step_writes_to_and_those_it_assigns(device):
    class Counter:
        def __init__(self):
            self.total, self.last = torch.zeros(2, device=device), None

        def step(self, x):
            self.total += x
            self.last = x * 2
            return self.total

    counter = Counter()
    step = ganfast.capture(counter.step, torch.ones(2, device=device))
    assert counter.total.tolist() == [0, 0]
    for i in (1, 2, 3):
        assert step(torch.full((2,), float(i), device=device)).tolist() == [sum(range(i + 1))] * 2
        assert counter.last.tolist() == [2 * i] * 2


def test_batches_from_the_cpu_are_brought_over(device):
    layer = nn.Linear(3, 2).to(device)
    step = ganfast.capture(lambda x: layer(x), torch.ones(4, 3))
    x = torch.randn(4, 3)
    torch.testing.assert_close(step(x).cpu(), layer(x.to(device)).detach().cpu())


def test_a_captured_step_inside_of_another(device):
    inner = ganfast.capture(lambda x, w: x * w, torch.ones(2, device=device), 2.0)
    outer = ganfast.capture(lambda x: inner(x, 3.0) + 1, torch.ones(2, device=device))
    assert outer(torch.full((2,), 2.0, device=device)).tolist() == [7, 7]


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RAdam", "NAdam", "Adamax", "Adadelta", "RMSprop", "Rprop", "ASGD", "SGD", "momentum"])
def test_optimizers_begin_at_their_first_step(device, name):
    options = {"lr": 0.1} | ({"momentum": 0.9} if name == "momentum" else {})
    cls = getattr(torch.optim, "SGD" if name == "momentum" else name)
    if name in ("Adam", "AdamW", "SGD", "momentum"):
        options["fused"] = True
    elif device == "cpu":
        pytest.skip("waits for the device on a CPU, where torch has no capturable form of it")
    if device == "cuda" and "SGD" not in cls.__name__:
        options["capturable"] = True
    ends = []
    for captured in (False, True):
        p = nn.Parameter(torch.tensor([1.0, -2.0], device=device))
        optimizer = cls([p], **options)

        def step(p=p, optimizer=optimizer):
            optimizer.zero_grad()
            p.square().sum().backward()
            optimizer.step()

        step = ganfast.capture(step) if captured else step
        ends.append([(step(), p.detach().clone())[1] for _ in range(3)])
    for a, b in zip(*ends):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6)
