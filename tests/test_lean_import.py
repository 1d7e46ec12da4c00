"""`import ganfast` costs next to nothing: each measurement in a fresh interpreter, after torch."""

import statistics
import subprocess
import sys

import pytest

IMPORT = """
import sys, time
import torch

def touched(*_):
    raise AssertionError("the import asks for a GPU")

torch.cuda.is_available = torch.cuda._lazy_init = torch.cuda.device_count = touched
before, start = set(sys.modules), time.perf_counter()
import ganfast
seconds = time.perf_counter() - start
heavy = [name for name in set(sys.modules) - before if name.split(".")[0] != "ganfast" or name == "ganfast._C"]
print(seconds, *heavy)
"""

FIRST_CALL = """
import sys
import torch
import ganfast
import ganfast.functional as GF
x, weight = torch.randn(1, 2, 3, 3, requires_grad=True), torch.randn(2, 3, 4, 4)
GF.conv_transpose_act(x, weight, stride=2, act="relu").sum().backward()
ganfast.backends()
print(*[name for name in sys.modules if name.split(".")[0] == "triton"], torch.cuda.is_initialized())
"""

ACCELERATED = """
import sys
from torch import nn
import ganfast
ganfast.restore(ganfast.accelerate(nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU())))
ganfast.explain(ganfast.accelerate(nn.Conv2d(2, 2, 1)))
print("torch._dynamo" in sys.modules)
"""


def run(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.alone
def test_import_adds_less_than_50_ms_and_loads_nothing_heavy():
    runs = [run(IMPORT) for _ in range(3)]
    assert runs[0][1:] == [], "modules loaded by import ganfast alone"
    assert statistics.median(float(seconds) for seconds, *_ in runs) < 0.050


def test_a_cpu_call_imports_no_triton_and_initialises_no_gpu():
    assert run(FIRST_CALL) == ["False"]


def test_accelerate_leaves_dynamo_for_the_first_call():
    assert run(ACCELERATED) == ["False"]
