"""A first call that dynamo must not see: traced, transformed, watched, from several threads; a normal call after it is fused."""

import threading

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import ganfast
from tests.dropin import small


class Counting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def watched(model, x):
    with Counting():
        return model(x)


def fake(model, x):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        shape = model(mode.from_tensor(x)).shape
    return torch.zeros(shape)  # there are no numbers


def inferred(model, x):
    with torch.inference_mode():
        return model(x).clone()


def forward_mode(model, x):
    with torch.no_grad(), forward_ad.dual_level():
        y = forward_ad.unpack_dual(model(forward_ad.make_dual(x, torch.ones_like(x))))
        return torch.cat([y.primal, y.tangent])


def exported(model, x):
    return torch.export.export(model, (x,)).module()(x)


def scripted(model, x):
    return torch.jit.script(model)(x)


def traced(model, x):
    return torch.jit.trace(model, x, check_trace=False)(x)


def functional(model, x):
    return torch.func.functional_call(model, {name: p * 2 for name, p in model.named_parameters()}, (x,))


WAYS = {
    "dispatch mode": watched,
    "fake tensors": fake,
    "jit.trace": traced,
    "jit.script": scripted,
    "fx": lambda model, x: torch.fx.symbolic_trace(model)(x),
    "export": exported,
    "vmap": lambda model, x: torch.func.vmap(lambda t: model(t[None]))(x),
    "grad": lambda model, x: torch.func.grad(lambda t: model(t).sum())(x),
    "jvp": lambda model, x: torch.cat(torch.func.jvp(model, (x,), (torch.ones_like(x),))),
    "jacrev": lambda model, x: torch.func.jacrev(model)(x[:1]),
    "functional_call": functional,
    "hessian-vector": lambda model, x: torch.func.jvp(torch.func.grad(lambda t: model(t).square().sum()), (x,), (torch.ones_like(x),))[1],
    "forward AD": forward_mode,
    "inference_mode": inferred,
    "autograd.functional": lambda model, x: torch.autograd.functional.jacobian(model, x[:1]),
    "make_fx": lambda model, x: torch.fx.experimental.proxy_tensor.make_fx(model)(x)(x),
    "CPU autocast": lambda model, x: torch.autocast("cpu", torch.bfloat16)(model)(x).float(),
}
NETWORKS = {
    "flat": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.SiLU(), nn.Conv2d(4, 2, 1), nn.Sigmoid()),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.SiLU()), nn.Conv2d(4, 2, 1), nn.Sigmoid()),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.thinned(2)
def test_the_first_call_and_the_calls_after_it(way, network):
    plain, model = small.pair(NETWORKS[network])
    x = small.images(2)
    for _ in range(2):  # as the first call, and after normal ones
        want, got = (WAYS[way](m, x) for m in (plain, model))
        near = 2e-2 if way == "CPU autocast" else 1e-3
        torch.testing.assert_close(got, want, rtol=near, atol=near)
        small.same(model, plain, x)
    groups = [("0", "1", "2"), ("3", "4")] if network == "flat" else [("0.0", "0.1"), ("1", "2")]
    assert set(groups) <= set(small.layers(model))
    if way != "fx":  # whose graph calls the layers one by one, each accelerated by itself
        assert small.layers(model) == groups
    assert small.fallbacks(model) == []


def test_a_dispatch_mode_sees_eagers_operators():
    plain, model = small.pair(NETWORKS["flat"])
    seen = []
    for m in (plain, model, model):
        with Counting() as mode:
            m(small.images(2))
        seen.append(mode.seen)
        model(small.images(2))
    assert seen[1] == seen[2] == seen[0]


def test_many_threads_call_one_model_for_the_first_time():
    plain, model = small.pair(small.critic)
    inputs = [small.images(n % 3 + 1) for n in range(8)]
    results, errors, start = {}, [], threading.Barrier(len(inputs))

    def call(i: int) -> None:
        start.wait()
        try:
            for _ in range(2):
                results[i] = small.orders(lambda x: model(x), inputs[i])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == [] and len(results) == len(inputs)
    for i, x in enumerate(inputs):
        small.assert_alike(results[i], small.orders(lambda x: plain(x), x))
    small.same(model, plain, inputs[0])
    assert small.layers(model) == [("0", "1"), ("2", "3", "4")] and small.fallbacks(model) == []


def test_second_derivatives_while_another_thread_compiles(monkeypatch):
    """torch's flag for it is one for all threads."""
    plain, model = small.pair(small.critic)
    x = small.images(2)
    small.same(model, plain, x)
    slopes = []
    for m in (model, plain):
        image = x.clone().requires_grad_()
        verdict = m(image)
        monkeypatch.setattr(torch.compiler, "_is_compiling_flag", True)
        (slope,) = torch.autograd.grad(verdict.square().sum(), image, create_graph=True)
        monkeypatch.undo()
        slopes.append(dict(zip("xw", torch.autograd.grad(slope.square().sum(), (image, m[0].weight)))))
    small.assert_alike(*slopes)


def test_another_thread_than_the_one_that_accelerated():
    plain, model = small.pair(small.critic)
    found = []
    thread = threading.Thread(target=lambda: found.append(small.orders(model, small.images(2))))
    thread.start()
    thread.join()
    small.assert_alike(found[0], small.orders(plain, small.images(2)))
    assert small.layers(model) == [("0", "1"), ("2", "3", "4")]


@pytest.mark.parametrize("called", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("make", [small.Blocks, small.critic], ids=["blocks", "critic"])
def test_a_replica_of_data_parallel_uses_its_own(make, called):
    plain, model = small.pair(make)
    x = small.images(2)
    if called:
        small.same(model, plain, x)
    originals = [m._replicate_for_data_parallel() for m in model.modules()]
    replicas = dict(zip([name for name, _ in model.named_modules()], originals))
    for name, module in model.named_modules():  # as torch.nn.parallel.replicate puts them together
        replica = replicas[name]
        for key in module._modules:
            replica._modules[key] = replicas[f"{name}.{key}".lstrip(".")]
        for key, p in module._parameters.items():
            replica._parameters[key] = None if p is None else nn.Parameter(p.detach() * 2)
    with torch.no_grad():
        for p in plain.parameters():
            p.mul_(2)
    got, want = (torch.utils._pytree.tree_leaves(m(x)) for m in (replicas[""], plain))
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        for p in plain.parameters():
            p.div_(2)
    for name, b in model.named_buffers():
        plain.get_buffer(name).copy_(b)
    small.same(model, plain, x)
    assert small.layers(model) and small.fallbacks(model) == []


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("make", [small.Blocks, small.critic], ids=["blocks", "critic"])
def test_an_outer_compile_takes_the_whole(make, backend):
    plain, model = small.pair(make)
    for m in (plain, model):
        child = m.first[1] if make is small.Blocks else m[1]
        child.register_forward_hook(lambda module, inputs, y: y * 2)
    graphs = []

    def counting(module, inputs):
        graphs.append(module)
        return torch._dynamo.backends.registry.lookup_backend(backend)(module, inputs)

    outer = torch.compile(model, backend=counting, fullgraph=True)
    x = small.images(2)
    small.assert_alike(*(small.orders(lambda t, m=m: m(t), x, second=False) for m in (outer, plain)))
    assert len(graphs) == 1 and ganfast.explain(model).graphs == 0
    small.same(model, plain, x, second=False)
    assert ganfast.explain(model).graphs == 1 and len(graphs) == 1


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_an_outer_compile_of_a_whole_step(backend):
    plain, model = small.pair(small.critic)
    step = lambda m: torch.compile(lambda x: m(x).square().mean(), backend=backend, fullgraph=True)
    x = small.images(2)
    for m in (model, plain):
        m.zero_grad()
        step(m)(x).backward()
    small.assert_alike(*({f"g {n}": p.grad for n, p in m.named_parameters()} for m in (model, plain)))
    assert ganfast.explain(model).graphs == 0
    small.same(model, plain, x)
    assert small.layers(model) == [("0", "1"), ("2", "3", "4")]
