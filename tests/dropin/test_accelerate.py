"""accelerate and restore: what they refuse, what they leave, and that a model keeps its meaning. The networks people build are in
tests/families."""

import copy
import functools
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from ganfast.dropin import arithmetic, entry
from ganfast.dropin.accelerate import Accelerated
from tests.dropin.common import FLAT, Block, Sized, Unet, both, flat, x_for
from tests.dropin.small import layers


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (lambda: None, TypeError, "wants a torch.nn.Module or a function"),
        (lambda: torch.ones(1), TypeError, "wants a torch.nn.Module or a function"),
        (lambda: nn.Conv2d, TypeError, "Pass an instance"),
        (lambda: nn.Sequential(nn.Conv2d(2, 2, 3, device="meta"), nn.ReLU()), ValueError, "0.weight is on the meta device"),
    ],
)
def test_refuses(model, error, words):
    model = model()
    with pytest.raises(error, match=words):
        ganfast.accelerate(model)
    if error is TypeError:
        for function in (ganfast.restore, ganfast.explain):
            with pytest.raises(TypeError, match=words):
                function(model)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("wrap", "words"), [(torch.jit.script, "scripted"), (torch.compile, "torch.compile")])
def test_what_others_have_compiled_is_given_back_as_it_is(wrap, words):
    model = wrap(flat().eval())
    state = {name: type(module) for name, module in model.named_modules()}
    assert ganfast.accelerate(model) is model and ganfast.restore(model) is model
    assert {name: type(module) for name, module in model.named_modules()} == state
    ((name, why),) = ganfast.explain(model).left
    assert name == "" and words in why


def test_an_exception_half_way_leaves_a_model_that_restore_undoes(monkeypatch):
    model = nn.ModuleDict({"a": flat(), "b": nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), "c": flat()})
    before = [(type(m), set(vars(m))) for m in model.modules()]
    real, made = entry.Armed.__init__, []

    def failing(*args):
        made.append(args)
        if len(made) == 3:
            raise KeyboardInterrupt
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(entry.Armed, "__init__", failing)
        with pytest.raises(KeyboardInterrupt):
            ganfast.accelerate(model)
    assert [(type(m), set(vars(m))) for m in ganfast.restore(model).modules()] == before


def test_twice_is_once_and_restore_is_exact():
    model = flat()
    before, keys = [(type(m), set(vars(m))) for m in model.modules()], list(model.state_dict())
    parameters = list(model.parameters())
    ganfast.accelerate(model)(x_for())
    once, types = layers(model), [type(m) for m in model.modules()]
    ganfast.accelerate(model)(x_for())
    assert layers(model) == once == FLAT
    assert [type(m) for m in model.modules()] == types
    assert list(model.state_dict()) == keys
    assert ganfast.restore(model) is model
    assert [(type(m), set(vars(m))) for m in model.modules()] == before
    assert all(a is b for a, b in zip(model.parameters(), parameters))
    assert ganfast.explain(model).left == [("", "not accelerated")]
    model(x_for())
    assert not layers(model)


def test_before_the_first_call_nothing_is_known():
    found = ganfast.explain(ganfast.accelerate(flat()))
    assert not found.groups and not found.left and "nothing was called yet" in str(found)


def test_a_function():
    """It comes back as a new one; restore gives the original, twice is once."""
    weight = torch.randn(2, 4, 3, 3)

    def plain(x, *, by=1.0):
        """Its own words."""
        return F.relu(F.conv2d(x, weight)) * by

    fast = ganfast.accelerate(plain)
    assert fast is not plain and fast.__doc__ == plain.__doc__ and fast.__name__ == "plain"
    for by in (1.0, 0.5):
        torch.testing.assert_close(fast(x_for(), by=by), plain(x_for(), by=by))
    assert layers(fast)[0] == ("conv2d()", "relu()", "mul()")
    assert ganfast.restore(fast) is ganfast.restore(ganfast.accelerate(fast)) is ganfast.restore(plain) is plain
    assert ganfast.explain(plain).left == [("", "not accelerated")]


def test_an_activation_before_the_convolution_works_in_place():
    x = x_for()
    got, wanted = both(Unet, x)
    torch.testing.assert_close(got, wanted)
    assert not torch.equal(got[:, :4], x)


@pytest.mark.parametrize("size", [8, 9])
def test_output_size_at_call_time(size):
    got, wanted = both(Sized, x_for(size))
    assert got.shape[-1] == size
    torch.testing.assert_close(got, wanted)
    fast = ganfast.accelerate(Sized())
    fast(x_for(size))
    assert layers(fast) == [("down", "relu()"), ("up", "norm", "tanh()")]
    lone = ganfast.accelerate(nn.ConvTranspose2d(4, 4, 3, 2, 1))
    plain = copy.deepcopy(lone)
    x = x_for()
    for options in ({}, {"output_size": (16, 16)}, {"output_size": (15, 16)}):
        torch.testing.assert_close(lone(x, **options), ganfast.restore(plain)(x, **options))


def test_eval_batch_norm_is_folded_without_touching_parameters(monkeypatch):
    monkeypatch.setattr(arithmetic, "_FOLDING", 0)

    def make():
        model = nn.Sequential(
            nn.Upsample(scale_factor=2), nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6), nn.SiLU(),
            nn.Conv2d(6, 5, 4, 2, 1, bias=False), nn.BatchNorm2d(5), nn.ReLU(),
            nn.ConvTranspose2d(5, 4, 4, 2, 1), nn.BatchNorm2d(4, affine=False),
        )  # fmt: skip
        generator = torch.Generator().manual_seed(1)
        for norm in (model[2], model[5], model[8]):
            norm.running_mean.normal_(generator=generator)
            norm.running_var.uniform_(0.3, 2, generator=generator)
        return model.eval()

    torch.manual_seed(0)
    source = make()
    model = ganfast.accelerate(copy.deepcopy(source))
    before = copy.deepcopy(model.state_dict())
    torch.testing.assert_close(model(x_for()), source(x_for()), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    # Frozen norms in a model that trains: gradients pass, statistics stay.
    for m in (model, source):
        m.zero_grad()
        m(x_for()).square().sum().backward()
    for (name, a), b in zip(model.named_parameters(), source.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_transforms_and_tracers_get_the_plain_layers():
    model, plain = ganfast.accelerate(flat(nn.InstanceNorm2d)), flat(nn.InstanceNorm2d)
    x = x_for()
    torch.testing.assert_close(
        torch.func.vmap(lambda one: model(one[None])[0])(x), torch.func.vmap(lambda one: plain(one[None])[0])(x), rtol=1e-4, atol=1e-5
    )
    for a, b in zip(*(torch.func.jvp(m, (x,), (torch.ones_like(x),)) for m in (model, plain))):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.jit.trace(model, x)(x), plain(x))
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), plain(x))


@pytest.mark.parametrize("make", [flat, Sized, lambda: nn.Sequential(Unet(), nn.Conv2d(8, 2, 1))], ids=["flat", "sized", "unet"])
def test_compiles_whole(make):
    torch._dynamo.reset()
    model, plain = ganfast.accelerate(make()).eval(), make().eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x_for()), plain(x_for()), rtol=1e-4, atol=1e-5)


def test_parametrized_after_it_was_accelerated():
    conv = nn.Conv2d(4, 4, 3)
    model, plain = ganfast.accelerate(conv), copy.deepcopy(conv)
    for m in (model, plain):
        torch.manual_seed(0)
        nn.utils.parametrizations.weight_norm(m)
    torch.testing.assert_close(model(x_for()), plain(x_for()))
    ganfast.restore(model)
    assert not isinstance(model, Accelerated)
    torch.testing.assert_close(model(x_for()), plain(x_for()))
    nn.utils.parametrize.remove_parametrizations(model, "weight")
    assert type(model) is nn.Conv2d


class Named(nn.Sequential):
    """A subclass that adds nothing to the forward."""

    def __init__(self, channels):
        super().__init__(nn.Conv2d(4, channels, 1), nn.ReLU())


class Doubling(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


class WithAChild(nn.Conv2d):
    def __init__(self):
        super().__init__(4, 4, 1)
        self.extra = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return F.relu(self.extra(x))


def test_a_layers_subclass_with_layers_of_its_own():
    torch.manual_seed(0)
    model = WithAChild()
    wanted = model(x_for())
    torch.testing.assert_close(ganfast.accelerate(model)(x_for()), wanted)
    assert layers(model) == [("extra", "relu()")]


def test_subclasses():
    torch.manual_seed(0)
    model = nn.Sequential(Named(5), Doubling(5, 4, 1), nn.ReLU())
    wanted = model(x_for())
    torch.testing.assert_close(ganfast.accelerate(model)(x_for()), wanted)
    assert layers(model) == [("0.0", "0.1"), ("1",)]


@pytest.mark.alone
def test_accelerate_takes_less_than_a_second():
    from ganfast.models.dcgan import DCGANDiscriminator, DCGANGenerator

    for model in (DCGANGenerator(64), DCGANDiscriminator(64), nn.Sequential(*(flat() for _ in range(20)))):
        start = time.perf_counter()
        ganfast.accelerate(model)
        assert time.perf_counter() - start < 1


def test_shared_layers_and_weights():
    def make():
        torch.manual_seed(0)
        act, conv = nn.LeakyReLU(0.3, True), nn.Conv2d(4, 4, 3, padding=1)
        up = nn.ConvTranspose2d(4, 4, 3, padding=1)
        up.weight = conv.weight  # tied across layer types
        return nn.Sequential(conv, act, conv, act, up, act)

    fast, plain = ganfast.accelerate(make()), make()
    assert fast[0].weight is fast[4].weight
    grads = []
    for model in (fast, plain):
        model(x_for()).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_class_names_stay():
    """weights_init functions ask for them."""
    model = ganfast.accelerate(nn.ModuleList([nn.Conv2d(1, 1, 1), flat(), Block()]))
    assert [type(m).__name__ for m in model] == ["Conv2d", "Sequential", "Block"]
    assert functools.reduce(lambda n, m: n + isinstance(m, nn.Conv2d), model.modules(), 0) == 4
