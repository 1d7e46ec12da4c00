"""Turns runs of the suite into a results file, a full table and pictures beside it, and the README's summary.

python benchmarks/report.py runs/bench.json --results benchmarks/results --readme README.md
Exit: 0 written, 2 a file or folder that cannot serve, with a word.
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import plots, tables
from benchmarks.results_file import Unusable, as_text, check_writable, from_files, guarded, stem, write

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


def with_summary(page: str, text: str) -> str | None:
    """The page with its marked section replaced; None where a marker is missing or they are out of order."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{text}\n{END}{tail}" if begin and end else None


def run(arguments: argparse.Namespace) -> int:
    if arguments.check:
        check_writable(arguments.results or Path("."))
        return 0
    if not arguments.runs:
        raise Unusable("names no run to report; `make bench` leaves one in runs/bench.json")
    results = from_files(arguments.runs)
    page = None
    if arguments.readme:
        try:
            page = arguments.readme.read_text()
        except OSError as error:
            raise Unusable(f"cannot read {arguments.readme}: {error}") from None
        if with_summary(page, "") is None:
            raise Unusable(f"{arguments.readme} lacks the markers {BEGIN} and {END}")
    name, drawn = stem(results), []
    if arguments.results:
        check_writable(arguments.results)
        if plots.available():
            drawn = plots.draw(results, arguments.results, name)
        else:
            print("report: no pictures: matplotlib is not installed", file=sys.stderr)
        write(arguments.results, f"{name}.json", as_text(results))
        write(arguments.results, f"{name}.md", tables.full(results, drawn))
    text = tables.summary(results, f"{name}.md", drawn)
    if page is not None:
        write(arguments.readme.parent, arguments.readme.name, with_summary(page, text))
    print(text)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="pytest-benchmark's JSON of one device and commit, or one results file")
    parser.add_argument("--results", type=Path, help="folder that receives <device>-<date>.json, .md and two .png")
    parser.add_argument("--readme", type=Path, help="file whose marked section is rewritten")
    parser.add_argument("--check", action="store_true", help="only see whether --results can be written to, before a long run")
    arguments = parser.parse_args(argv)
    return guarded(lambda: run(arguments), "report")


if __name__ == "__main__":
    raise SystemExit(main())
