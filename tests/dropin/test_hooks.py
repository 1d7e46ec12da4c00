"""Hooks of every kind, added and removed while an accelerated model is used."""

import pytest
import torch
from torch import nn

from tests.dropin import small

KINDS = {
    "forward": lambda m, hook: m.register_forward_hook(hook),
    "pre-forward": lambda m, hook: m.register_forward_pre_hook(hook),
    "full backward": lambda m, hook: m.register_full_backward_hook(hook),
    "full backward pre": lambda m, hook: m.register_full_backward_pre_hook(hook),
}
PATHS = ["", "first", "first.1", "first.0", "last"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path or "root")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.thinned(3)
def test_a_hook_added_after_the_first_call_fires_until_it_is_removed(kind, path):
    plain, model = small.pair(small.Blocks)
    x = small.images(2)
    small.same(model, plain, x)
    groups = small.layers(model)
    fired = []
    handle = KINDS[kind](model.get_submodule(path), lambda *_: fired.append(1) and None)
    for times in (1, 2):
        small.same(model, plain, x, second=False)
        assert len(fired) == times
    handle.remove()
    small.same(model, plain, x)
    assert len(fired) == 2
    assert set(groups) <= set(small.layers(model))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path or "root")
def test_a_hook_that_changes_the_output(path):
    plain, model = small.pair(small.Blocks)
    x = small.images(2)
    small.same(model, plain, x)
    double = lambda module, inputs, y: (y[0] * 2, y[1]) if isinstance(y, tuple) else y * 2
    for handles in range(2):
        hooks = [m.get_submodule(path).register_forward_hook(double) for m in (plain, model)]
        small.same(model, plain, x)
        for hook in hooks[handles:]:
            hook.remove()
        plain.get_submodule(path)._forward_hooks.clear()
        model.get_submodule(path)._forward_hooks.clear()
        small.same(model, plain, x)


def test_a_hook_that_is_there_before_the_first_call():
    plain, model = small.pair(small.Blocks)
    seen = []
    model.first[0].register_forward_hook(lambda module, inputs, y: seen.append(y.detach().clone()))
    x = small.images(2)
    small.same(model, plain, x, second=False)
    torch.testing.assert_close(seen, [plain.first[0](x)], rtol=1e-4, atol=1e-5)


def test_a_hook_that_keeps_features():
    plain, model = small.pair(small.critic)
    kept = {m: [] for m in (plain, model)}
    for m, found in kept.items():
        for i in (1, 3, 4):
            m[i].register_forward_hook(lambda module, inputs, y, found=found: found.append(y))
    x = small.images(2)
    for _ in range(2):
        for m in (plain, model):
            kept[m].clear()
            m.zero_grad()
            y = m(x)
            (y.sum() + sum(f.square().mean() for f in kept[m])).backward()
        assert len(kept[model]) == 3
        for mine, theirs in zip(kept[model], kept[plain]):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        grads = [{f"g {name}": p.grad for name, p in m.named_parameters()} for m in (model, plain)]
        small.assert_alike(*grads)


GLOBAL = {
    "forward": nn.modules.module.register_module_forward_hook,
    "pre-forward": nn.modules.module.register_module_forward_pre_hook,
    "full backward": nn.modules.module.register_module_full_backward_hook,
}


@pytest.mark.parametrize("kind", GLOBAL)
def test_global_hooks(kind):
    plain, model = small.pair(small.Blocks)
    x = small.images(2)
    small.same(model, plain, x)
    fired = {plain: [], model: []}
    running = []
    names = {id(module): name for m in (plain, model) for name, module in m.named_modules()}
    handle = GLOBAL[kind](lambda module, *_: running.append(names[id(module)]) and None)
    try:
        for m in (plain, model):
            running.clear()
            small.orders(m, x, second=False)
            fired[m] = list(running)
    finally:
        handle.remove()
    assert fired[model] == fired[plain] != []
    running.clear()
    small.same(model, plain, x)
    assert running == []


def test_saved_tensors_hooks_see_what_runs():
    plain, model = small.pair(small.critic)
    x = small.images(2)
    small.same(model, plain, x)
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        small.same(model, plain, x)
    assert packed
    with torch.autograd.graph.save_on_cpu():
        small.same(model, plain, x)
    assert small.fallbacks(model) == []


def test_gradient_hooks_of_parameters_fire():
    _, model = small.pair(small.generator)
    seen = []
    model[0].weight.register_hook(lambda g: seen.append("hook"))
    model[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append("after"))
    for _ in range(2):
        model(torch.randn(2, 8, 1, 1)).sum().backward()
    assert seen == ["hook", "after"] * 2
    assert small.layers(model) == [("0", "1", "2"), ("3", "4")]


def test_checkpointing_around_a_block():
    from torch.utils.checkpoint import checkpoint

    plain, model = small.pair(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2)))
    x = small.images(2).requires_grad_()
    for reentrant in (False, True):
        found = []
        for m in (model, plain):
            m.zero_grad()
            checkpoint(m, x, use_reentrant=reentrant).square().sum().backward()
            found.append({f"g {name}": p.grad for name, p in m.named_parameters()} | {f"b {name}": b for name, b in m.named_buffers()})
        small.assert_alike(*found)
    assert small.layers(model) == [("0", "1", "2")] and small.fallbacks(model) == []
