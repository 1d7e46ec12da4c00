"""The pages that users read, and what is in them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS, ROOT / "ganfast" / "systems" / "README.md"]
ALL = [
    *PAGES,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    *sorted(ROOT.glob("ganfast/ops/*/README.md")),
]


class Block(NamedTuple):
    """language: "" for none; line: of the page, where the text begins."""

    language: str
    line: int
    text: str


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """Its fenced blocks."""
    found, start, language = [], None, ""
    lines = page.read_text().splitlines()
    for i, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start, language = i + 1, line[3:].strip()
        else:
            found.append(Block(language, start + 1, "\n".join(lines[start:i]) + "\n"))
            start = None
    assert start is None, f"{name(page)}: a block that is not closed"
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks and without code in a line."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))


def headings(page: Path) -> set[str]:
    """As a code host makes anchors of them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", title).strip().lower()).replace(" ", "-") for title in titles}
