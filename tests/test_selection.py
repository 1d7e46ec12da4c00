"""What `make test` leaves to `make prove`: that the two together are all tests, that turns cover all, that every pair of values stays."""

import itertools
import types

import pytest

from tests import selection

ACTS, DTYPES, LAYOUTS = ["relu", "tanh", "snake"], ["fp32", "bf16"], ["nchw", "nhwc"]


class Item:
    """As much of pytest's as a selection asks for."""

    path, cls, decorators = "test_planted.py", None, [("act", ACTS)]  # the other parameters are fixtures'

    def __init__(self, test, mark=None, **params):
        self.originalname, self.mark, self.nodeid = test, mark, f"test_planted.py::{test}[{'-'.join(params.values())}]"
        if params:
            self.callspec = types.SimpleNamespace(params=params)

    def get_closest_marker(self, name):
        kind, _, count = (self.mark or "").partition(" ")
        return types.SimpleNamespace(args=(int(count or 0),)) if name == kind else None

    def iter_markers(self, name):
        return [types.SimpleNamespace(args=args) for args in self.decorators]


@pytest.fixture
def items():
    product = itertools.product(["reference", "torch"], ACTS, DTYPES, LAYOUTS)
    pairs = [Item("test_product", "pairs", backend=b, act=a, dtype=d, layout=last) for b, a, d, last in product]
    return [Item("test_plain"), *(Item("test_long", "prove", seed=seed) for seed in "012"), *pairs]


def kept(items, prove=None, args=("tests",)):
    return selection.kept(types.SimpleNamespace(getoption=lambda name: prove, args=args), items)


def test_both_parts_together_are_all_tests(items):
    tests, proofs = kept(items), kept(items, "only")
    assert [i for i in items if i in tests or i in proofs] == items and not set(tests) & set(proofs)
    assert items[0] in tests and all(i in proofs for i in items[1:4])
    assert kept(items, "too") == items == kept(items, None, ["tests/test_planted.py::test_long"])


def test_every_third_case_of_a_thinned_test(items):
    thinned = [Item(test, "thinned 3", seed=seed) for seed in "0123456" for test in ("test_one", "test_other")]
    assert [i for i in kept(thinned + items) if i in thinned] == [thinned[place] for place in (0, 1, 6, 7, 12, 13)]
    assert set(thinned) <= {*kept(thinned + items), *kept(thinned + items, "only")}


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_every_pair_of_values_stays(items, backend):
    """Twelve cases, whose pairs fit into the six of an act and a dtype."""
    cases = [set(i.callspec.params.values()) for i in kept(items)[1:] if i.callspec.params["backend"] == backend]
    assert len(cases) == 6
    for one, two in itertools.combinations((ACTS, DTYPES, LAYOUTS), 2):
        assert all(any({a, b} <= case for case in cases) for a, b in itertools.product(one, two))


def test_what_one_decorator_gives_together_is_one_value(monkeypatch):
    """Else "2d" and "2d_last" of one shape would stand for each other with half of the acts."""
    monkeypatch.setattr(Item, "decorators", [("shape, last", []), (["act"], [])])
    pairs = [("3x5", "no"), ("3x5", "yes"), ("7", "no")]
    product = [Item("test_product", "pairs", shape=shape, last=last, act=act) for shape, last in pairs for act in ACTS]
    assert kept(product) == product, "two parameters: nothing to leave out"


def test_turns_cover_what_is_left_once(items):
    parts = [kept(items, f"{k}/8") for k in range(1, 9)]
    assert sorted(i.nodeid for part in parts for i in part) == sorted(i.nodeid for i in kept(items, "only"))
    assert sum(map(bool, parts)) > 3, "all in one part"
    more = [Item("test_other", "prove", seed="0"), *items]
    assert all(set(old) <= set(kept(more, f"{k}/8")) for k, old in enumerate(parts, 1)), "another test moved one to another part"


@pytest.mark.parametrize("text", ["all", "0/8", "9/8", "3/", ""])
def test_a_part_that_is_none_is_refused(items, text):
    with pytest.raises(pytest.UsageError, match=r"valid: too, only, or K/N"):
        kept(items, text)
