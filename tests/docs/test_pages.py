"""Links lead somewhere, README is short, every page begins with its task, and no number of a measurement was typed."""

import re

import pytest

from tests.docs.pages import ALL, DOCS, PAGES, ROOT, headings, name, prose

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_MEASURED = re.compile(r"\d(?:\.\d+)?x\b|\d(?:\.\d+)? (?:ms|us|milliseconds|microseconds|GB/s|GFLOP/s)\b")


@pytest.mark.parametrize("page", ALL, ids=name)
def test_links_lead_somewhere(page):
    for target in _LINK.findall(prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name(page)}: {target}"
        if anchor and there.suffix == ".md":
            assert anchor in headings(there), f"{name(page)}: {target} has no such heading"


def test_the_front_door_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120


def test_the_index_names_every_page():
    linked = set(_LINK.findall((ROOT / "docs" / "index.md").read_text()))
    assert linked >= {page.name for page in DOCS} - {"index.md"} and len(DOCS) >= 17


@pytest.mark.parametrize("page", DOCS, ids=name)
def test_a_page_begins_with_what_it_is_for(page):
    first, blank, second = page.read_text().splitlines()[:3]
    assert first.startswith("# ") and not blank and second and not second.startswith(("#", "|", "```", "!", "<"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_numbers_of_measurements_come_from_a_tool(page):
    """Between the markers that the tools fill, or in a table of limits: nowhere else."""
    typed = re.sub(r"<!-- ([\w-]+):begin -->.*?<!-- \1:end -->", "", prose(page), flags=re.DOTALL)
    assert not [line for line in typed.splitlines() if _MEASURED.search(line)]
