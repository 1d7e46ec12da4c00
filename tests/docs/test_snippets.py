"""Every snippet of the pages runs as pasted, in a folder that holds nothing; every command that they show exists."""

import contextlib
import functools
import io
import re
import shlex

import pytest
import torch

from ganfast import cli
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
            if "torch.autocast(" in block.text and not has_bf16_units(torch.device("cpu")):
                continue  # torch would take minutes
            if block.language == "python":
                exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), space)


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
    program, options = words[0], [word.partition("=")[0] for word in words if word.startswith("--")]
    assert program in _PROGRAMS
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert all(word in targets for word in words[1:] if "=" not in word)
    if program == "ganfast" or words[1:3] == ["-m", "ganfast"]:
        sub = words[1] if program == "ganfast" else words[3]
        assert all(option in _help(sub) for option in options)


@functools.cache
def _help(command: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        cli.main([command, "--help"])
    assert command in said.getvalue()
    return said.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_block_says_its_language(page):
    assert {block.language for block in blocks(page)} <= {"python", "sh", "text", "diff"}
