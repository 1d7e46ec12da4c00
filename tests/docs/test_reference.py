"""docs/reference.md is what the code says, and the code says what a user must know of every public name."""

import inspect
import runpy

import pytest

from tests.docs.pages import ROOT

reference = runpy.run_path(str(ROOT / "tools" / "reference.py"))
PUBLIC = [(module, name) for module in reference["MODULES"] for name in reference["names"](module)]


def test_the_page_is_what_the_code_says():
    assert (ROOT / "docs" / "reference.md").read_text() == reference["page"](), "run: python tools/reference.py"


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda value: value)
def test_a_public_name_has_a_docstring(module, name):
    value = reference["thing"](module, name)
    if callable(value):
        assert len(reference["docstring"](value)) > 20


@pytest.mark.parametrize(("module", "name"), [case for case in PUBLIC if case[0] in ("ganfast.functional", "ganfast.penalties")])
def test_an_ops_docstring_is_complete(module, name):
    value = reference["thing"](module, name)
    if inspect.isfunction(value):
        missing = [word for word in ("Shapes", "Dtypes", "Grads", "Raises", "Source") if word not in reference["docstring"](value)]
        assert not missing


@pytest.mark.parametrize("name", reference["names"]("ganfast.nn"))
def test_a_layers_docstring_is_complete(name):
    doc = reference["docstring"](reference["thing"]("ganfast.nn", name))
    assert "Shapes:" in doc and "Source" in doc and "Raises" in doc and "Dtypes" in doc and "{" not in doc
