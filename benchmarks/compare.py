"""What became slower between two results files: python benchmarks/compare.py before.json after.json [--fail-under 0.9]

Per row, else per layout, ganfast's time over eager's in the same run, after / before: a slower day of the machine slows both and
does not count.
One is called slower when that exceeds 1 by more than --threshold and by more than the row's own spread (the largest of the
four timings'). Exit: 0; 1 with --fail-under R where a slower row kept less than R of its speed; 2 a file that cannot serve.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.ratios import best, geometric_mean, like_for_like, ratio
from benchmarks.results_file import Unusable, guarded, name_of, read


class Change(NamedTuple):
    """`before`, `after`: eager's time over ganfast's; `spread`: the largest of the four timings'."""

    name: str
    before: float
    after: float
    spread: float

    @property
    def kept(self) -> float:
        """Share of the speed that is left: 1 unchanged, 0.8 a fifth lost."""
        return self.after / self.before

    def slower(self, threshold: float) -> bool:
        return 1 / self.kept - 1 > max(threshold, self.spread)

    def faster(self, threshold: float) -> bool:
        return self.kept - 1 > max(threshold, self.spread)


def changes(before: dict, after: dict) -> list[Change]:
    """One for each row that both have and in which eager ran."""
    old = {name_of(row): row for row in before["rows"]}
    found = []
    for row in after["rows"]:
        other = old.get(name_of(row))
        if other is None or ratio(row) is None or ratio(other) is None:
            continue
        spread = max(best(r, who)[1]["spread"] for r in (row, other) for who in ("eager", "ganfast"))
        found.append(Change(name_of(row), ratio(other), ratio(row), spread))
    return found


def layout_changes(before: dict, after: dict, named: set[str]) -> list[Change]:
    """Layout for layout, of rows not in `named`: what happened to the slower layout alone would not show in the best."""
    old = {name_of(row): row for row in before["rows"]}
    found = []
    for row in after["rows"]:
        name = name_of(row)
        if name in named or name not in old:
            continue
        was, now = like_for_like(old[name]), like_for_like(row)
        spread = max(rival.get("spread", 0.0) for r in (row, old[name]) for rival in r["rivals"].values())
        if len(now) > 1:
            found += [Change(f"{name}, {layout}", was[layout], now[layout], spread) for layout in now if layout in was]
    return found


def run(arguments: argparse.Namespace) -> int:
    before, after = read(arguments.before), read(arguments.after)
    found = changes(before, after)
    if not found:
        raise Unusable("the two files have no row in common")
    if before["device"] != after["device"]:
        print(f"compare: different devices, {before['device']} and {after['device']}: kernels differ, not only the code", file=sys.stderr)
    print(f"{before['commit'][:12]} -> {after['commit'][:12]}, {len(found)} rows in both")
    limit = arguments.threshold
    everything = found + layout_changes(before, after, {c.name for c in found if c.slower(limit) or c.faster(limit)})
    for change in sorted(everything, key=lambda c: c.kept):
        word = "slower" if change.slower(arguments.threshold) else "faster" if change.faster(arguments.threshold) else ""
        if word:
            print(f"{word}: {change.name}: {change.before:.2f}x -> {change.after:.2f}x of eager (spread {change.spread:.0%})")
    names = [{name_of(row) for row in results["rows"]} for results in (before, after)]
    for word, only in (("gone", names[0] - names[1]), ("new", names[1] - names[0])):
        if only:
            print(f"{word}: {len(only)} rows: {', '.join(sorted(only)[:5])}{', ...' if len(only) > 5 else ''}")
    print(f"geometric mean of what is left of the speed: {geometric_mean(c.kept for c in found):.3f}")
    under = arguments.fail_under
    return int(under is not None and any(c.slower(arguments.threshold) and c.kept < under for c in everything))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--threshold", type=float, default=0.05, help="a smaller change is not named; default 0.05")
    parser.add_argument("--fail-under", type=float, help="exit 1 where a slower row kept less than this share of its speed")
    arguments = parser.parse_args(argv)
    return guarded(lambda: run(arguments), "compare")


if __name__ == "__main__":
    raise SystemExit(main())
