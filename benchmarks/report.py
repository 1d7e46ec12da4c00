"""Turns runs of the suite into a results file, a full table and pictures beside it, and renews the numbers of the pages.

python benchmarks/report.py runs/bench.json --results benchmarks/results --pages .
python benchmarks/report.py --results benchmarks/results --pages .    # from the results files that are there
Exit: 0 written, 2 a file or folder that cannot serve, with a word.
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import pages, plots, tables
from benchmarks.results_file import Unusable, as_text, check_writable, from_files, guarded, stem, write


def report(runs: list[Path], folder: Path | None) -> None:
    results = from_files(runs)
    name, drawn = stem(results), []
    if folder:
        check_writable(folder)
        if plots.available():
            drawn = plots.draw(results, folder, name)
        else:
            print("report: no pictures: matplotlib is not installed", file=sys.stderr)
        write(folder, f"{name}.json", as_text(results))
        write(folder, f"{name}.md", tables.full(results, drawn))
    print(tables.summary(results, f"{name}.md", drawn))


def run(arguments: argparse.Namespace) -> int:
    if arguments.check:
        check_writable(arguments.results or Path("."))
        return 0
    if not arguments.runs and not arguments.pages:
        raise Unusable("names no run to report; `make bench` leaves one in runs/bench.json")
    if arguments.pages and not arguments.results:
        raise Unusable("--pages wants --results, the folder whose files the pages tell of")
    if arguments.runs:
        report(arguments.runs, arguments.results)
    if arguments.pages:
        pages.fill(arguments.pages, arguments.results)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="pytest-benchmark's JSON of one device and commit, or one results file")
    parser.add_argument("--results", type=Path, help="folder that receives <device>-<date>.json, .md and two .png")
    parser.add_argument("--pages", type=Path, help="the checkout whose README.md and docs/benchmarks.md get the numbers of all files there")
    parser.add_argument("--check", action="store_true", help="only see whether --results can be written to, before a long run")
    arguments = parser.parse_args(argv)
    return guarded(lambda: run(arguments), "report")


if __name__ == "__main__":
    raise SystemExit(main())
