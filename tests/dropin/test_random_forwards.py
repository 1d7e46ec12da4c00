"""Random forwards give what eager gives: outputs, two orders of gradients, buffers."""

import copy

import pytest
import torch

import ganfast
from tests.dropin import small
from tests.dropin.random_forwards import C, Drawn

QUICK = range(14)


def outcome(model, x, gradients: bool) -> dict[str, torch.Tensor] | str:
    """What a call gives; the error's text where there is one, as a view that does not fit makes, or a write into what a backward needs."""
    try:
        if gradients:
            found = small.orders(model, x)
        else:
            with torch.no_grad():
                found = {f"y{i}": y.clone() for i, y in enumerate(model(x * 1))}
    except RuntimeError as error:
        return str(error)
    return found | {f"buffer {name}": b.clone() for name, b in model.named_buffers()}


def far(found, reference) -> dict[str, float]:
    """Each tensor's largest difference, over the largest value of its order: some gradients cancel to nothing."""
    found = {name: t for name, t in found.items() if t.is_floating_point()}
    largest: dict[str, float] = {}
    for name in found:
        order = name.partition(" ")[0]
        largest[order] = max(largest.get(order, 1e-2), reference[name].abs().max().item())
    return {name: (t.double() - reference[name]).abs().max().item() / largest[name.partition(" ")[0]] for name, t in found.items()}


def check(seed: int, training: bool) -> bool:
    """Whether there was something to compare."""
    plain = Drawn(seed).train(training)
    model = ganfast.accelerate(copy.deepcopy(plain))
    exact = copy.deepcopy(plain).double()
    x = torch.randn(2, C, 6, 6, generator=torch.Generator().manual_seed(seed))
    ran = False
    for gradients in (False, True, True):
        got, want = outcome(model, x, gradients), outcome(plain, x, gradients)
        reference = outcome(exact, x.double(), gradients)
        if isinstance(want, str):
            continue  # an answer does no harm
        assert isinstance(got, dict), got
        assert got.keys() == want.keys()
        ours, own = far(got, reference), far(want, reference)
        worst = max(ours, key=lambda name: ours[name] - 4 * own[name])
        assert ours[worst] < 4 * own[worst] + 2e-4, (worst, ours[worst], own[worst], plain.lines)
        ran = True
    return ran


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("seed", QUICK)
@pytest.mark.thinned(3)
def test_a_random_forward(seed, training):
    check(seed, training)


@pytest.mark.prove
@pytest.mark.parametrize("first", range(14, 234, 20))
def test_many_random_forwards(first):
    ran = [check(seed, training) for seed in range(first, first + 20) for training in (True, False)]
    assert sum(ran) > 20
