"""What becomes of an accelerated model: deleted, copied, pickled, moved, loaded; and that it stays accelerated."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import ganfast
from tests.dropin import small

GROUPS = [("first.0", "first.1", "first.2"), ("last", "tanh()")]


@pytest.mark.parametrize("steps", ["none", "eval", "train", "sizes", "child", "slice", "hook", "copied"])
@pytest.mark.parametrize("make", [small.critic, small.Blocks], ids=["critic", "blocks"])
def test_a_deleted_model_is_gone_at_once(make, steps):
    _, model = small.pair(make)
    x = small.images(2)
    if steps == "eval":
        with torch.no_grad():
            model.eval()(x)
    elif steps == "sizes":
        for n in (2, 3, 1):
            small.orders(model, small.images(n))
    elif steps == "child":
        next(model.children())(x)
    elif steps == "slice" and make is small.critic:
        model[:2](x)
    elif steps == "hook":
        model.register_forward_hook(lambda *_: None)
        model(x)
    elif steps != "none":
        small.orders(model, x)
    other = copy.deepcopy(model) if steps == "copied" else None
    gone = [weakref.ref(p) for p in model.parameters()]
    gc.disable()
    try:
        del model
        left = sum(p() is not None for p in gone)
    finally:
        gc.enable()
    assert left == 0
    if other is not None:
        other(x)


def test_what_a_call_kept_is_gone_after_its_backward():
    _, model = small.pair()
    x = small.images(2).requires_grad_()
    gone = weakref.ref(x)
    model(x).sum().backward()
    del x
    assert gone() is None


def test_an_accelerated_function_lets_go_of_its_graphs():
    torch.manual_seed(0)
    weight = torch.randn(2, 3, 3, 3)
    fast = ganfast.accelerate(lambda x, weight=weight: torch.tanh(nn.functional.conv2d(x, weight)))
    fast(small.images(2))
    gone = weakref.ref(weight)
    del fast, weight
    gc.collect()
    assert gone() is None


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": through_pickle,
    "torch.save": through_file,
    "AveragedModel": lambda m: AveragedModel(m).module,
    "in another": lambda m: copy.deepcopy(nn.ModuleList([m]))[0],
}


@pytest.mark.parametrize("called", [False, True], ids=["before", "after a call"])
@pytest.mark.parametrize("way", COPIES)
def test_copies_are_right_and_accelerated(way, called):
    plain, model = small.pair(small.Blocks)
    x = small.images(2)
    if called:
        small.same(model, plain, x)
    other, theirs = COPIES[way](model), copy.deepcopy(plain)
    if way != "copy":  # which shares its modules
        with torch.no_grad():
            for m in (other, theirs):
                for p in m.parameters():
                    p.mul_(1.5)
    small.same(other, theirs, x)
    assert small.layers(other) == GROUPS and type(other) is type(model)
    if way != "copy":
        small.same(model, plain, x)
        assert small.layers(model) == GROUPS


def test_a_shallow_copy_outlives_its_original():
    plain, model = small.pair(small.Blocks)
    x = small.images(2)
    small.same(model, plain, x)
    other = copy.copy(model)
    del model
    gc.collect()
    small.same(other, plain, x)
    assert small.layers(other) == GROUPS


def test_a_child_outlives_its_model():
    plain, model = small.pair(small.Blocks)
    x = small.images(2)
    small.same(model, plain, x)
    child = model.first
    del model
    gc.collect()
    for _ in range(2):
        small.assert_alike(small.orders(child, x), small.orders(plain.first, x))


def assigned(m):
    m.load_state_dict({name: t.clone() * 0.5 for name, t in m.state_dict().items()}, assign=True)


def replaced(m):
    torch.manual_seed(3)
    m.last = nn.Conv2d(4, 2, 3, padding=1)


def parametrized(m):
    torch.nn.utils.parametrizations.weight_norm(m.first[0])


CHANGES = {
    "load_state_dict": lambda m: m.load_state_dict({name: t.clone() * 0.5 for name, t in m.state_dict().items()}),
    "assign": assigned,
    "double": lambda m: m.double(),
    "channels_last": lambda m: m.to(memory_format=torch.channels_last),
    "requires_grad_(False)": lambda m: m.requires_grad_(False),
    "a part": lambda m: m.first.requires_grad_(False),
    "eval": lambda m: m.eval(),
    "a part in eval": lambda m: m.first[1].eval(),
    "a new layer": replaced,
    "a layer's data": lambda m: m.last.weight.data.mul_(2),
    "a new parameter": lambda m: setattr(m.last, "weight", nn.Parameter(m.last.weight.detach() * 2)),
    "an option": lambda m: setattr(m.first[1], "eps", 0.1),
    "a momentum": lambda m: setattr(m.first[1], "momentum", 0.5),
    "weight norm": parametrized,
    "swapped act": lambda m: m.first.__setitem__(2, nn.ELU()),
    "a new forward": lambda m: setattr(m, "forward", lambda x: (m.last(x[:, :1].expand(-1, 4, -1, -1)), x)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.thinned(2)
def test_changes_between_calls_are_seen(change):
    plain, model = small.pair(small.Blocks)
    x = small.images(2)
    small.same(model, plain, x)
    for m in (model, plain):
        CHANGES[change](m)
    for n in (2, 3):
        t = small.images(n).double() if change == "double" else small.images(n)
        small.same(model, plain, t)
    assert ("last", "tanh()") in small.layers(model) and small.fallbacks(model) == []


def test_half_is_as_near_as_eager():
    plain, model = small.pair(small.Blocks)
    x = small.images(2)
    small.same(model, plain, x)
    for m in (plain, model):
        m.bfloat16()
    for got, want in zip(model(x.bfloat16()), plain(x.bfloat16())):
        assert got.dtype == want.dtype == torch.bfloat16
        torch.testing.assert_close(got.float(), want.float(), rtol=5e-2, atol=5e-2)
    assert small.layers(model) == GROUPS and small.fallbacks(model) == []


def test_modes_back_and_forth_make_no_more_graphs():
    plain, model = small.pair(small.Blocks)
    x = small.images(2)
    for turn in range(4):
        for training in (True, False):
            small.same(model.train(training), plain.train(training), x)
        if turn == 0:
            made = ganfast.explain(model).graphs
    assert ganfast.explain(model).graphs == made == 2


def test_restored_and_accelerated_again():
    plain, model = small.pair(small.Blocks)
    x = small.images(2)
    for _ in range(2):
        small.same(ganfast.accelerate(model), plain, x)
        assert small.layers(model) == GROUPS
        ganfast.restore(model)
        small.same(model, plain, x)
        assert type(model) is small.Blocks and ganfast.explain(model).left == [("", "not accelerated")]
