"""`ganfast.accelerate` on networks as people write them: the same network before and after, faster or not."""

import pytest
import torch
from torch import Tensor, nn

import ganfast
from tests.families import oracle
from tests.families.family import Family
from tests.families.registry import FAMILIES

rows = pytest.mark.parametrize("row", FAMILIES, ids=str)
modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def aliases(model: nn.Module, chains: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The chains sorted, each module by its first name: one that is registered twice has two."""
    first: dict[nn.Module, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        first.setdefault(module, path)
    name = lambda part: part if part.endswith("()") else first[model.get_submodule(part)]
    return sorted(tuple(name(part) for part in chain) for chain in chains)


@rows
@modes
def test_same_results_and_gradients_to_second_order(row, training):
    assert not (found := oracle.judge(row, training, torch.float32)), "\n".join(found)


@rows
@modes
def test_same_results_and_gradients_in_bfloat16(row, training):
    assert not (found := oracle.judge(row, training, torch.bfloat16)), "\n".join(found)


@rows
def test_finds_the_chains(row):
    model = ganfast.accelerate(row.build())
    assert aliases(model, ganfast.explain(model).fused) == aliases(model, row.fused)


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


def results(model: nn.Module, row: Family) -> list[Tensor]:
    torch.manual_seed(7)
    return [*oracle.tensors(model(*row.example())), *model.buffers()]


@rows
def test_restores_what_was_there(row):
    plain, model = oracle.network(row, True), oracle.network(row, True)
    types = {name: type(module) for name, module in model.named_modules(remove_duplicate=False)}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    ganfast.accelerate(model)
    with torch.no_grad():
        results(model.eval(), row)
    assert ganfast.restore(model.train()) is model
    assert {name: type(module) for name, module in model.named_modules(remove_duplicate=False)} == types
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert all(torch.equal(got, want) for got, want in zip(results(model, row), results(plain, row), strict=True))


@rows
def test_twice_is_once(row):
    once, twice = oracle.network(row, True), oracle.network(row, True)
    ganfast.accelerate(once)
    ganfast.accelerate(ganfast.accelerate(twice))
    assert ganfast.explain(twice).fused == ganfast.explain(once).fused
    assert all(torch.equal(got, want) for got, want in zip(results(twice, row), results(once, row), strict=True))
    types = [type(module) for module in oracle.network(row, True).modules()]
    assert [t.__name__ for t in map(type, ganfast.restore(twice).modules())] == [t.__name__ for t in types]
