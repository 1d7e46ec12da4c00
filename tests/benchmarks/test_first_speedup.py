"""The scripts of docs/first-speedup.md: each edit applies, all of them compute the same, and the page shows what is measured."""

import re

import pytest
import torch

from benchmarks import first_speedup as module
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "first-speedup.md"


def test_the_plain_script_is_thirty_lines_of_plain_pytorch():
    lines = [line for line in module.script().splitlines() if line]
    assert len(lines) <= 30 and max(map(len, lines)) <= 120
    assert "ganfast" not in module.script()


def test_an_edit_adds_to_those_before_and_finds_its_words_in_one_place(monkeypatch):
    texts = [module.script(names) for names in module.stages(True)]
    assert len(set(texts)) == len(module.EDITS) + 1
    lost = module.EDITS[0]._replace(changes=(("no such words", ""),))
    monkeypatch.setattr(module, "EDITS", (lost, *module.EDITS[1:]))
    with pytest.raises(ValueError, match="autocast: 0 places"):
        module.script(("autocast",))


@pytest.mark.parametrize("names", module.stages(False)[1:], ids=lambda names: names[-1])
def test_all_scripts_compute_the_same(names):
    """Two steps: the second follows from the gradients of the first."""
    results = []
    for edits in ((), names):
        step, first = module.made(edits, 4, 4)
        torch.manual_seed(1)
        results.append([torch.tensor(first), *(loss.detach() for loss in step(torch.rand(4, 3, 64, 64) * 2 - 1))])
    for got, want in zip(*results):
        torch.testing.assert_close(got, want, rtol=2e-3, atol=2e-3)


def test_the_page_shows_the_first_and_the_last_script():
    shown = [block.text for block in blocks(PAGE) if block.language == "python"]
    assert shown == [module.script(), module.script(tuple(edit.name for edit in module.EDITS))]
    text = PAGE.read_text()
    assert all(edit.name in text and edit.why in re.sub(r"\s+", " ", text) for edit in module.EDITS)


def test_the_table_says_what_each_edit_gains_and_what_was_left_out():
    rows = [
        {"edit": name, "seconds": seconds, "first_seconds": 1.25}
        for name, seconds in (("plain PyTorch", 0.4), ("channels_last", 0.2), ("accelerate", 0.1))
    ]
    lines = module.table({"rows": rows, "bf16_units": False}).splitlines()
    assert "| channels_last | 200 | 2.00x | 2.00x | 1.2 |" in lines and "| accelerate | 100 | 2.00x | 4.00x | 1.2 |" in lines
    assert "no units for bfloat16" in lines[3] and "autocast" not in module.table({"rows": rows, "bf16_units": True})
