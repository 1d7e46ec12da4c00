"""Which tests `make test` runs, and which it leaves to `make prove`.

Left to `make prove`: tests marked `prove`, of a test marked `thinned(n)` all but every n-th case, and of a test marked `pairs` the cases
that add nothing in pairs. The cases that stay hold
every pair of values of any two parameters that occurs among all cases (pairwise testing): each act with each dtype, each dtype with
each layout, each act with each layout, but not each act with each dtype in each layout. Backends are kernels of their own: the cases of
each `backend` hold all pairs, and of each every n-th case runs. A case that skips itself counts as one that ran: a test with such cases is
no test for `pairs`.

    --prove too     both parts together
    --prove only    what `make prove` runs
    --prove 3/8     the third of eight parts of that; a test stays in its part whatever others are added, so that turns cover all
A test named with `::` on the command line runs in any case.
"""

import itertools
import re
import zlib
from collections import Counter

import pytest


def add_option(parser) -> None:
    parser.addoption("--prove", metavar="too|only|K/N", help="tests that `make prove` runs: with the others, alone, or a part of them")


def part_of(text: str) -> tuple[int, int]:
    """(k, n) of "k/n", k from 1 on."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise pytest.UsageError(f"--prove: got {text!r}; valid: too, only, or K/N with K from 1 to N, as 3/8")
    return int(found[1]), int(found[2])


def values_of(item) -> list[tuple]:
    """(name, value) for each parameter of a case. What one `parametrize` gives together counts as one value; cases share the objects."""
    values, left = [], dict(item.callspec.params)
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]
        together = [name.strip() for name in names if name.strip() in left]
        values.append((*together, *(id(left.pop(name)) for name in together)))
    return values + [(name, id(value)) for name, value in left.items()]  # of fixtures


def pairs_of(values: list[tuple]) -> set:
    """The pairs of values in one case; one parameter alone makes a pair with itself."""
    return set(itertools.combinations(sorted(values), 2)) or {(value, value) for value in values}


def covering(cases: list[list[tuple]]) -> set[int]:
    """Places of cases that hold all pairs: those that add most are taken first, the earlier ones of equals."""
    pairs = [pairs_of(case) for case in cases]
    missing, taken = set().union(*pairs), set()
    for wanted in range(max(map(len, pairs), default=0), 0, -1):
        for place, held in enumerate(pairs):
            if len(held & missing) >= wanted:
                taken.add(place)
                missing -= held
    return taken


def left_to_prove(items) -> set:
    left, families, met = {item for item in items if item.get_closest_marker("prove")}, {}, Counter()
    for item in items:
        test = (item.path, item.cls, item.originalname, item.callspec.params.get("backend") if hasattr(item, "callspec") else None)
        if thinned := item.get_closest_marker("thinned"):
            left |= {item} if met[test] % thinned.args[0] else set()
            met[test] += 1
        if item.get_closest_marker("pairs") and hasattr(item, "callspec"):
            families.setdefault(test, []).append(item)
    for family in families.values():
        taken = covering([values_of(item) for item in family])
        left |= {item for place, item in enumerate(family) if place not in taken}
    return left


def kept(config, items) -> list:
    asked = config.getoption("--prove")
    if asked == "too" or (asked is None and any("::" in str(arg) for arg in config.args)):
        return list(items)
    left = left_to_prove(items)
    if asked is None:
        return [item for item in items if item not in left]
    if asked == "only":
        return [item for item in items if item in left]
    k, n = part_of(asked)
    return [item for item in items if item in left and zlib.crc32(item.nodeid.encode()) % n == k - 1]
