"""`ganfast.accelerate` on networks as people write them: the same network before and after, faster or not."""

import functools

import pytest
import torch
from torch import Tensor, nn

import ganfast
from tests.families import oracle
from tests.families.family import Family, aliases, groups_of
from tests.families.normalised import WEIGHTS
from tests.families.registry import FAMILIES

# A row's tests follow each other, in one process where several share them out: what is compiled for one of them serves the next.
rows = pytest.mark.parametrize("row", FAMILIES, ids=str, scope="module")


@functools.lru_cache(maxsize=2)
def judged(row: Family, training: bool) -> tuple[list[str], nn.Module, dict]:
    """(what the oracle finds wrong, the accelerated model that it called, its modules as they were before)"""
    seen = []

    def change(model: nn.Module) -> nn.Module:
        seen.extend((model, modules(model)))
        return ganfast.accelerate(model)

    return oracle.judge(row, training, torch.float32, change), *seen


def modules(model: nn.Module) -> dict[str, tuple[type, set[str]]]:
    """By name, the class and the attributes of each."""
    return {name: (type(module), set(vars(module))) for name, module in model.named_modules(remove_duplicate=False)}


def some(wanted):
    left = [[] if wanted(place, row) else [pytest.mark.prove] for place, row in enumerate(FAMILIES)]
    return pytest.mark.parametrize("row", [pytest.param(r, marks=marks) for r, marks in zip(FAMILIES, left)], ids=str, scope="module")


@rows
def test_same_results_and_gradients_to_second_order(row):
    assert not (found := judged(row, True)[0]), "\n".join(found)


@some(lambda place, row: place % 4 == 0)
def test_same_results_and_gradients_to_second_order_in_evaluation(row):
    assert not (found := judged(row, False)[0]), "\n".join(found)


TRAINS_IN_BFLOAT16 = {row.name for row in [row for row in FAMILIES if row.small][::2]}


@some(lambda place, row: row.small)
@pytest.mark.parametrize("other", [False, pytest.param(True, marks=pytest.mark.prove)], ids=["one mode", "the other mode"])
@pytest.mark.thinned(2)
def test_same_results_and_gradients_in_bfloat16(row, other):
    training = (row.name in TRAINS_IN_BFLOAT16) != other
    assert not (found := oracle.judge(row, training, torch.bfloat16)), "\n".join(found)


@rows
def test_finds_the_chains(row, request):
    if row.name == "vae-decoder":
        why = "a batch norm without momentum asks for a number: dynamo leaves the Sequential around it, whose layers then run one by one"
        request.applymarker(pytest.mark.xfail(reason=why, strict=True))
    model = judged(row, True)[1]
    assert groups_of(model) == aliases(model, row.fused), ganfast.explain(model)
    assert [each[:2] for each in ganfast.explain(model).weights] == WEIGHTS.get(row.name, [])


@rows
def test_stays_the_same_network(row):
    """In place: parameters, buffers, names and what a checkpoint holds, both ways."""
    plain, model = row.build(), row.build()
    kept = [dict(model.named_parameters(remove_duplicate=False)), dict(model.named_buffers(remove_duplicate=False))]
    children = dict(model.named_modules(remove_duplicate=False))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    assert ganfast.accelerate(model) is model
    after = [dict(model.named_parameters(remove_duplicate=False)), dict(model.named_buffers(remove_duplicate=False))]
    assert [list(names) for names in after] == [list(names) for names in kept]
    assert all(new[name] is old[name] for new, old in zip(after, kept) for name in old)
    assert list(dict(model.named_modules(remove_duplicate=False))) == list(children)
    assert list(model.state_dict()) == list(before) == list(plain.state_dict())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    plain.load_state_dict(model.state_dict())
    model.load_state_dict(plain.state_dict())


TWICE = ("dcgan-flat-g", "pix2pix-unet", "sngan-resnet-old-d", "sngan-resnet-new-d", "stackgan-stage2-g")


def results(model: nn.Module, row: Family) -> list[Tensor]:
    torch.manual_seed(7)
    return [*oracle.tensors(model(*row.example())), *model.buffers()]


@rows
def test_restores_what_was_there(row):
    plain, (_, model, before) = oracle.network(row, True), judged(row, True)
    judged.cache_clear()  # it is no accelerated model any more
    assert ganfast.restore(model) is model
    assert modules(model) == before
    model.load_state_dict(plain.state_dict())
    assert all(torch.equal(got, want) for got, want in zip(results(model, row), results(plain, row), strict=True))


@pytest.mark.parametrize("row", [row for row in FAMILIES if row.name in TWICE], ids=str)
@pytest.mark.thinned(2)
def test_twice_is_once(row):
    once, twice = oracle.network(row, True), oracle.network(row, True)
    ganfast.accelerate(once)
    ganfast.accelerate(ganfast.accelerate(twice))
    assert all(torch.equal(got, want) for got, want in zip(results(twice, row), results(once, row), strict=True))
    assert groups_of(twice) == groups_of(once) == aliases(once, row.fused)
    types = [type(module) for module in oracle.network(row, True).modules()]
    assert [t.__name__ for t in map(type, ganfast.restore(twice).modules())] == [t.__name__ for t in types]
