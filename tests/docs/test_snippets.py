"""Every snippet of the pages runs as pasted, in a folder that holds nothing; every command that they show exists."""

import contextlib
import functools
import io
import re
import shlex

import pytest
import torch

from ganfast import cli, systems
from ganfast._place import has_bf16_units
from tests.docs.pages import PAGES, ROOT, blocks, name

_PROGRAMS = {"git", "pip", "python", "make", "ganfast", "torchrun", "cd", "env", "export", "tensorboard"}


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.language == "python" for b in blocks(page))], ids=name)
def test_python_blocks_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANFAST_CACHE", str(tmp_path / "cache"))
    space: dict = {"__name__": "__main__"}
    with torch.random.fork_rng():
        for block in blocks(page):
            if block.language == "python":
                text = (
                    block.text
                    if has_bf16_units(torch.device("cpu"))
                    else block.text.replace("torch.bfloat16)", "torch.bfloat16, enabled=False)")
                )
                exec(compile("\n" * (block.line - 1) + text, str(page), "exec"), space)


def _commands():
    for page in PAGES:
        for block in blocks(page):
            for line in block.text.replace("\\\n", " ").splitlines() if block.language in ("sh", "bash") else ():
                for part in line.split("#")[0].split("&&"):
                    if part.strip():
                        yield pytest.param(part.strip(), id=f"{name(page)}: {part.strip()}")


@pytest.mark.parametrize("command", list(_commands()))
def test_a_command_that_is_shown_exists(command):
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=.*", word)]
    program = words[0]
    assert program in _PROGRAMS
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert all(word in targets for word in words[1:] if "=" not in word)
    if "ganfast" in words:
        at = words.index("ganfast") + 1
        asked = words[at : at + 2] if words[at + 1 : at + 2] and words[at + 1] in systems.NAMES else words[at : at + 1]
        assert all(option.partition("=")[0] in _help(*asked) for option in words[at:] if option.startswith("--"))
    if "-m" in words and words[words.index("-m") + 1].startswith("benchmarks."):
        assert (ROOT / f"{words[words.index('-m') + 1].replace('.', '/')}.py").exists()


@functools.cache
def _help(*command: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        cli.main([*command, "--help"])
    assert command[-1] in said.getvalue()
    return said.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_block_says_its_language(page):
    assert {block.language for block in blocks(page)} <= {"python", "sh", "text", "diff"}
