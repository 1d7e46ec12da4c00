"""cuBLAS's workspaces around the recording of a CUDA graph."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def own_workspaces() -> Iterator[None]:
    """Around one recording, outside of it. torch keeps a workspace for each stream and lends it to every graph recorded there; as of 2.13
    a graph that dies frees the workspaces of its stream, so also the one that a later graph still reads and writes. With none there
    beforehand and none left, each recording makes its own in its own pool; torch/_inductor/cudagraph_trees.py does the same."""
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()
