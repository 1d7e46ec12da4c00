"""Each test runs on a stand-in for graphs on the CPU, which proves the bookkeeping only, and under `make gpu` on CUDA graphs."""

import pytest

from ganfast.step import capture as module
from tests.step.recorded import RecordedGraphs


@pytest.fixture(params=["bookkeeping", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch) -> str:
    if request.param == "cuda":
        return "cuda"
    monkeypatch.setattr(module, "graphs_for", lambda reached, leaves: RecordedGraphs())
    return "cpu"
