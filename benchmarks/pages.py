"""The measured numbers of README.md, of pages in docs and of the systems' gallery: all of them stand between markers, and come from the
results files, as does ganfast/systems/reached.json, which `ganfast run` shows.

    python benchmarks/report.py --results benchmarks/results --pages .

A block is what stands between <!-- NAME:begin --> and <!-- NAME:end -->.
"""

import json
import math
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import adaptive, augmentation, family_table, first_speedup, gallery_table, quality, tables
from benchmarks.gains import gains, newest_of_each
from benchmarks.ratios import ratio, surely_below
from benchmarks.results_file import Unusable, load_json, read, write
from benchmarks.steps import tables as steps
from benchmarks.targets import FAMILY_LEAST

NOTHING = "Not measured yet."
_WIDTH = 120


class Kept(NamedTuple):
    """A results file: its name, what it holds, of which kind it is, and the pictures beside it."""

    name: str
    content: dict[str, Any]
    kind: str
    pictures: list[str]

    @property
    def date(self) -> str:
        found = re.search(r"\d{4}-\d\d-\d\d", self.name)
        return found[0] if found else ""

    @property
    def link(self) -> str:
        return f"[{self.name}]({tables.RESULTS}{self.name})"


# What only files of a kind have; the first that fits.
_KINDS = {
    "suite": {"schema"},
    "demo": {"assessment", "images_per_second"},
    "first speedup": {"rows", "width", "bf16_units"},
    "loop": {"rows", "width", "batch"},
    "prove": {"ring8", "grid25", "line"},
    "heap": {"cases", "found", "counts"},
    "gallery": {"systems", "processes"},
    "augmentation": {"arms", "cells"},
    "quality": {"shares", "cells"},
    "adaptive": {"adaptive", "arms_over_seeds"},
}


def kept(folder: Path) -> list[Kept]:
    """All results files of a folder, the newest first. Raises Unusable for one that is damaged."""
    found = []
    for path in sorted(folder.glob("*.json")):
        content = load_json(path)
        kind = next((kind for kind, keys in _KINDS.items() if isinstance(content, dict) and keys <= content.keys()), "")
        drawn = sorted(picture.name for picture in folder.glob(f"{path.stem}-*.png"))
        found.append(Kept(path.name, read(path) if kind == "suite" else content, kind, drawn))
    return sorted(found, key=lambda one: (one.date, one.name), reverse=True)


def _all(found: list[Kept], kind: str) -> list[Kept]:
    return [one for one in found if one.kind == kind]


def _of_newest(kind: str, text: Callable[[Kept], str]) -> Callable[[list[Kept]], str]:
    def block(found: list[Kept]) -> str:
        there = _all(found, kind)
        return text(there[0]) if there else NOTHING

    return block


def _suites(found: list[Kept]) -> str:
    """Each file of `make bench` that is kept, the newest first."""
    parts = []
    for one in _all(found, "suite"):
        text = tables.summary(one.content, one.name.replace(".json", ".md"), one.pictures)
        parts.append(f"### {one.content['device']}, {one.date}\n\n{text}")
    return "\n\n".join(parts) or NOTHING


def _cell(row: dict | None) -> str:
    if row is None:
        return ""
    value = ratio(row)
    if value is None:
        return "failed"
    return f"{value:.2f}x" + (", below" if surely_below(row, FAMILY_LEAST) else "") + ("*" if row["noisy"] else "")


def _families(found: list[Kept]) -> str:
    """Each device's whole networks, each row as it was measured last: summed up, then network by network."""
    whole = lambda row: row["op"] == "accelerate" and "size" in row
    suites = _all(found, "suite")
    parts = []
    for device, pairs in newest_of_each([one.content for one in suites], whole).items():
        rows = [row for row, _ in pairs]
        about = [f"### Networks on {device}", ""]
        for one in suites:
            if count := sum(results is one.content for _, results in pairs):
                about.append(f"- {count} rows of {one.date}, commit {one.content['commit'][:12]}: {one.link}")
        lines = family_table.section(rows)
        lines = [*about, "", *lines[lines.index("## Whole networks") + 2 :], ""]
        lines.append("Network by network, the time of eager's better layout over that of ganfast's; `below` as above, * where the times of")
        lines.append("a rival were spread by more than 30 %:")
        wanted = [(mode, dtype) for mode in ("train", "inference") for dtype in ("fp32", "bf16")]
        for size in ("trained", "small"):
            of_size = {}
            for row in (row for row in rows if row["size"] == size):
                of_size.setdefault((row["case"].removesuffix(" small"), row["batch"]), {})[row["mode"], row["dtype"]] = row
            if not of_size:
                continue
            lines += ["", f"| {size} | batch | {' | '.join(map(' '.join, wanted))} |", "|---|---:|---:|---:|---:|---:|"]
            for (case, batch), row in of_size.items():
                lines.append(f"| {case} | {batch} | {' | '.join(_cell(row.get(key)) for key in wanted)} |")
        compiled = [f"{row['case']} {row['dtype']} {row['mode']} {value:.2f}x" for row in rows if (value := ratio(row, "compile"))]
        parts.append("\n".join([*lines, "", f"Over torch.compile, where it ran: {', '.join(compiled) or 'nowhere'}."]))
    return "\n\n".join(parts) or NOTHING


def _steps(found: list[Kept]) -> str:
    """Each device's newest file with training steps, every rival."""
    parts: dict[str, str] = {}
    for one in _all(found, "suite"):
        if lines := steps.section(one.content["rows"]):
            about = f"{one.content['device']}, commit {one.content['commit'][:12]}, {one.date}: {one.link}."
            parts.setdefault(one.content["device"], "\n".join([about, *lines[3:]]))
    return "\n\n".join(parts.values()) or NOTHING


def _loop(one: Kept) -> str:
    c = one.content
    lines = [
        f"DCGAN-64, width {c['width']}, batch {c['batch']}, {c['device']}, commit {c['commit'][:12]}: {one.link}.", "",
        "| | by hand, ms | trainer, ms | overhead | guard, norms and average by themselves | log lines | both |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in c["rows"]:
        bare, ours = (row["seconds"][who] * 1e3 for who in ("bare", "trainer"))
        shares = row["parts_share"], row["log_lines_share"]
        cells = [f"{share:.1%}" for share in (*shares, sum(shares))]
        lines.append(f"| {row['precision']} | {bare:.0f} | {ours:.0f} | {row['overhead']:+.1%} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _prove(one: Kept) -> str:
    c = one.content
    samples = 1 - math.exp(-4.5)  # of a two-dimensional Gaussian within 3 sigma
    lines = [
        f"{c['device']}, commit {c['commit'][:12]}, {one.date}: {one.link}. Means over the seeds: modes found / samples within 3 sigma of",
        f"one / reverse KL. The mixture's own samples have {samples:.1%} within 3 sigma.", "",
        "| `ganfast train --data` | seeds | ganfast | goal | PacGAN's table 1 | a run | |", "|---|---:|---|---|---|---|---|",
    ]  # fmt: skip
    for name in ("ring8", "grid25"):
        of = c[name]
        cells = [
            f"{v['modes']:.1f} / {v['within_3_sigma']:.1%} / {v['reverse_kl']:.3f}" for v in (of["mean"], of["target"], of["published"])
        ]
        took = [run["seconds"] for run in of["runs"]]
        cells.append(f"{min(took):.0f} to {max(took):.0f} s")
        cells.append(
            "reached" if all(of["reached"].values()) else "missed " + ", ".join(k for k, good in of["reached"].items() if not good)
        )
        lines.append(f"| `{name}` | {len(of['runs'])} | {' | '.join(cells)} |")
    lines += ["", "| on a line with known densities | mean | goal | |", "|---|---:|---:|---|"]
    words = {
        "error": "the discriminator's distance from p / (p + q)",
        "value_gap": "the game's value from -log 4 at the end",
        "js": "Jensen-Shannon divergence at the end",
    }
    for key, text in words.items():
        met = "reached" if c["line"]["reached"][key] else "missed"
        lines.append(f"| {text} | {c['line']['mean'][key]:.5f} | {c['line']['target'][key]:g} | {met} |")
    return "\n".join(lines)


def _demo(one: Kept) -> str:
    from ganfast import demo

    text = demo.markdown(one.content)
    return f"{one.content['machine']}: {one.link}.\n\n{text[text.index('| measured') :].strip()}"


def _heap(one: Kept) -> str:
    c = one.content
    limit = f", ONEDNN_MAX_CPU_ISA={c['onednn_max_cpu_isa']}" if c["onednn_max_cpu_isa"] else ""
    return (
        f"{c['cases']} random calls of seed {c['seed']}, from number {c['first']} on, in {len(c['counts'])} combinations of op, path, dtype"
        f" and threads, {c['seconds']} s: {len(c['found'])} broke a heap or gave a wrong number. {c['device']}, torch"
        f" {c['versions']['torch']}{limit}, commit {c['commit'][:12]}: {one.link}."
    )


def _first_speedup(found: list[Kept]) -> str:
    """Each device's newest."""
    parts: dict[str, str] = {}
    for one in _all(found, "first speedup"):
        c = one.content
        about = f"DCGAN-64, width {c['width']}, batch {c['batch']}, {c['device']}, commit {c['commit'][:12]}, {one.date}: {one.link}."
        parts.setdefault(c["device"], f"{about}\n\n{first_speedup.table(c)}")
    return "\n\n".join(parts.values()) or NOTHING


def _gallery(one: Kept) -> str:
    return gallery_table.section(one.content, one.name)


def reached(found: list[Kept]) -> str:
    """ganfast/systems/reached.json, by the newest gallery."""
    there = _all(found, "gallery")
    return json.dumps(gallery_table.reached(there[0].content) if there else {}, indent=1) + "\n"


def _gains(found: list[Kept]) -> str:
    there = _all(found, "suite")
    return gains([one.content for one in there]) if there else NOTHING


PAGES: dict[str, dict[str, Callable[[list[Kept]], str]]] = {
    "docs/first-speedup.md": {"first-speedup": _first_speedup},
    "README.md": {"gains": _gains},
    "docs/styles.md": {"quality": _of_newest("quality", lambda one: quality.section(one.content, one.link))},
    "docs/augmentation.md": {"augmentation": _of_newest("augmentation", lambda one: augmentation.section(one.content, one.link))},
    "docs/benchmarks.md": {
        "families": _families,
        "benchmarks": _suites,
        "steps": _steps,
        "loop": _of_newest("loop", _loop),
        "prove": _of_newest("prove", _prove),
        "adaptive": _of_newest("adaptive", lambda one: adaptive.section(one.content, one.link)),
        "demo": _of_newest("demo", _demo),
        "heap": _of_newest("heap", _heap),
    },
    "ganfast/systems/README.md": {"gallery": _of_newest("gallery", _gallery)},
}
REACHED = "ganfast/systems/reached.json"


def _wrapped(text: str) -> str:
    """Its paragraphs and list items filled anew, at most _WIDTH wide; tables, titles and pictures as they are."""
    lines, paragraph = [], []

    def close() -> None:
        after = "  " if paragraph and paragraph[0].startswith("- ") else ""
        lines.extend(textwrap.wrap(" ".join(paragraph), _WIDTH, subsequent_indent=after, break_long_words=False, break_on_hyphens=False))
        paragraph.clear()

    for line in text.splitlines():
        if not line or line[0] in "|!#-":
            close()
        if not line or line[0] in "|!#":
            lines.append(line)
        else:
            paragraph.append(line)
    close()
    return "\n".join(lines)


def replaced(page: str, name: str, text: str) -> str | None:
    """The page with the text in the block; None where a marker is missing or they are out of order."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, found, rest = page.partition(begin)
    _, closed, tail = rest.partition(end)
    return f"{head}{begin}\n{_wrapped(text)}\n{end}{tail}" if found and closed else None


def filled(page: str, where: str, found: list[Kept]) -> str:
    """The page, one of PAGES, with all of its blocks from the results. Raises Unusable where it lacks a marker."""
    for name, text in PAGES[where].items():
        if (new := replaced(page, name, text(found))) is None:
            raise Unusable(f"{where} lacks the markers <!-- {name}:begin --> and <!-- {name}:end -->")
        page = new
    return page


def fill(root: Path, folder: Path) -> None:
    """Renews the blocks of all pages below the root. Raises Unusable, with no page written, where one of them cannot serve."""
    found, new = kept(folder), {}
    for where in PAGES:
        try:
            page = (root / where).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise Unusable(f"cannot read {root / where}: {error}") from None
        new[where] = filled(page, where, found)
    new[REACHED] = reached(found)
    for where, text in new.items():
        write((root / where).parent, Path(where).name, text)
