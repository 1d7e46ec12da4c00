"""What a call of an accelerated model costs beside its kernels: a whole forward that has next to no work, by one thread."""

import pytest
import torch

from benchmarks.bench_generator import generators
from benchmarks.cases import CALL
from benchmarks.machine import DEVICE
from benchmarks.rivals import INFERENCE

ROUNDS = 300  # at least


def measure(bench) -> dict:
    """The row: medians of calls in turns, in eval mode without gradients."""
    bench.settings = bench.settings._replace(repeats=max(ROUNDS, 1000), at_least=ROUNDS)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return bench.modules(generators, CALL, "fp32", INFERENCE, {"op": "call", "threads": 1, "bytes": None, "flops": None}, dims=0)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(DEVICE == "cuda", reason="on a GPU the host's share of a call is `launch` in every row")
def test_call(bench):
    measure(bench)
