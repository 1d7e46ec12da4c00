"""Which backend runs: the argument, use_backend, GANFAST_BACKEND, auto; and that nothing falls back in silence."""

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ganfast
import ganfast.functional as GF
from ganfast import _native
from ganfast.ops.batch_norm_act import op as norm_op
from ganfast.ops.conv_transpose_act import op as conv_op
from tests import conftest

NATIVE = ["reference", "torch", "cpu"]


class Recorder(TorchDispatchMode):
    """The (op, backend) of every ganfast op that runs inside."""

    def __enter__(self):
        self.calls = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "ganfast" and not func._opname.endswith("_native"):
            self.calls.append((func._opname, args[-1]))
        return func(*args, **(kwargs or {}))


def call(backend=None, **kwargs):
    """(backends of the forward, backends of the backward) of one small call, of 3 channels and 2 x 2 pixels."""
    x, weight = torch.randn(2, 4, 2, 2, requires_grad=True), torch.randn(4, 3, 4, 4, requires_grad=True)
    with Recorder() as forward:
        y = GF.conv_transpose_act(x, weight, stride=2, padding=1, act="tanh", backend=backend, **kwargs)
    with Recorder() as backward:
        y.sum().backward()
    return {name for _, name in forward.calls}, {name for _, name in backward.calls}


@pytest.fixture(autouse=True)
def no_wish(monkeypatch):
    monkeypatch.delenv("GANFAST_BACKEND", raising=False)


def forget():
    """The extension, and every plan that a call made with it."""
    _native._load.cache_clear()
    conv_op._plans.clear()
    norm_op._plans.clear()


@pytest.fixture
def fresh_native():
    """The extension is looked for again inside the test, and again after it."""
    forget()
    yield
    forget()


@pytest.mark.parametrize("backend", NATIVE)
def test_a_named_backend_runs_forward_and_backward(backend):
    assert call(backend) == ({backend}, {backend})


@pytest.mark.parametrize("backend", NATIVE)
def test_use_backend_is_what_runs_even_if_the_backward_comes_later(backend):
    x, weight = torch.randn(2, 4, 2, 2, requires_grad=True), torch.randn(4, 3, 4, 4)
    with ganfast.use_backend(backend):
        y = GF.conv_transpose_act(x, weight, act="silu")
        assert call() == ({backend}, {backend})
    with ganfast.use_backend("torch"), Recorder() as recorder:
        y.sum().backward()
    assert {name for _, name in recorder.calls} == {backend}


def test_use_backend_nests_and_the_argument_wins():
    with ganfast.use_backend("reference"):
        with ganfast.use_backend("torch"):
            assert call() == ({"torch"}, {"torch"})
            assert call("reference") == ({"reference"}, {"reference"})
        assert call() == ({"reference"}, {"reference"})
        with ganfast.use_backend("auto"):
            assert call()[0] <= {"cpu", "torch"}


def test_use_backend_restores_on_exceptions():
    with pytest.raises(KeyError), ganfast.use_backend("reference"):
        raise KeyError
    assert "reference" not in call()[0]


def test_one_use_backend_object_may_be_entered_again():
    reference = ganfast.use_backend("reference")
    with reference, reference:
        pass
    assert "reference" not in call()[0]
    with reference:
        assert call()[0] == {"reference"}
    assert "reference" not in call()[0]


def test_the_environment_is_the_default_and_use_backend_wins(monkeypatch):
    monkeypatch.setenv("GANFAST_BACKEND", "reference")
    assert call() == ({"reference"}, {"reference"})
    with ganfast.use_backend("torch"):
        assert call() == ({"torch"}, {"torch"})
    assert call("torch") == ({"torch"}, {"torch"})


@pytest.mark.parametrize(
    ("wish", "closest"), [("refrence", "reference"), ("cudnn", "cuda"), ("Triton", "triton"), ("zzz", None), (3, None), ("", None)]
)
def test_unknown_names_raise_with_the_nearest(wish, closest, monkeypatch):
    errors = []
    for act in (lambda: ganfast.use_backend(wish), lambda: call(wish)):
        with pytest.raises(ValueError) as raised:
            act()
        errors.append(str(raised.value))
    if isinstance(wish, str):
        monkeypatch.setenv("GANFAST_BACKEND", wish)
        with pytest.raises(ValueError, match="GANFAST_BACKEND") as raised:
            call()
        errors.append(str(raised.value))
    assert errors[0].startswith("use_backend:") and errors[1].startswith("conv_transpose_act:")
    for error in errors:
        assert repr(wish) in error and "auto, reference, torch, cpu, triton, cuda" in error
        assert (f"Did you mean {closest!r}?" in error) == (closest is not None)


def test_backends_lists_all_with_a_sentence_each():
    listing = ganfast.backends()
    assert list(listing) == ["auto", "reference", "torch", "cpu", "triton", "cuda"]
    assert all(isinstance(entry.available, bool) and entry.reason for entry in listing.values())
    assert listing["auto"].available and listing["reference"].available and listing["torch"].available


def test_a_backend_that_is_not_there_raises_with_the_reason_of_the_listing():
    missing = {name: entry.reason for name, entry in ganfast.backends().items() if not entry.available}
    for name, reason in missing.items():
        for act in (lambda: ganfast.use_backend(name), lambda: call(name)):  # noqa: B023
            with pytest.raises(RuntimeError) as raised:
                act()
            assert f"backend {name!r} cannot run" in str(raised.value)
            assert name == "triton" or reason in str(raised.value) or "x is on cpu" in str(raised.value)


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_gpu_backends_refuse_cpu_tensors_and_float64(name, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="conv_transpose_act: backend '" + name + "' cannot run: x is on cpu"):
        call(name)


def test_a_missing_extension_is_a_reason_and_auto_goes_on(fresh_native, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ganfast._C" else find(name, *rest))
    entry = ganfast.backends()["cpu"]
    assert not entry.available and "no compiled extension" in entry.reason and "pip install" in entry.reason
    with pytest.raises(RuntimeError, match="no compiled extension"):
        call("cpu")
    with pytest.raises(RuntimeError, match="no compiled extension"):
        ganfast.use_backend("cpu")
    assert call() == ({"torch"}, {"torch"})


def fake_extension(monkeypatch, **info):
    module = types.ModuleType("ganfast._C")
    module.__spec__ = importlib.machinery.ModuleSpec("ganfast._C", None)
    module.build_info = lambda: {"torch": torch.__version__, "cuda": False, "archs": "", **info}
    monkeypatch.setitem(sys.modules, "ganfast._C", module)


def test_an_extension_for_another_torch_counts_as_not_available(fresh_native, monkeypatch):
    fake_extension(monkeypatch, torch="2.9.1")
    entry = ganfast.backends()["cpu"]
    assert not entry.available and "built for torch 2.9.1" in entry.reason and torch.__version__ in entry.reason
    assert _native.build_info() is None
    with pytest.raises(RuntimeError, match=r"built for torch 2\.9\.1"):
        call("cpu")
    assert call() == ({"torch"}, {"torch"})


def test_another_local_build_of_the_same_torch_is_available(fresh_native, monkeypatch):
    major, minor = torch.__version__.split(".")[:2]
    fake_extension(monkeypatch, torch=f"{major}.{minor}.99+cu130")
    assert ganfast.backends()["cpu"].available and _native.build_info()["archs"] == ""
    assert "built without CUDA" in ganfast.backends()["cuda"].reason


def test_an_extension_that_does_not_load_says_so(fresh_native, monkeypatch, tmp_path):
    (tmp_path / "_C.py").write_text("raise ImportError('undefined symbol: _ZN2at5emptyE')")
    monkeypatch.delitem(sys.modules, "ganfast._C", raising=False)
    monkeypatch.delattr(ganfast, "_C", raising=False)
    monkeypatch.setattr(ganfast, "__path__", [str(tmp_path)])
    reason = ganfast.backends()["cpu"].reason
    assert "does not load" in reason and "undefined symbol" in reason and "pip install" in reason


PROMISED_TEST = """
import pytest

@pytest.mark.parametrize("backend", ["reference", "cuda"])
def test_backend(backend):
    pass

@pytest.mark.triton
def test_triton():
    pass

@pytest.mark.parametrize("backend", ["torch"])
def test_skips(backend):
    pytest.skip("as planted")
"""


BROKEN = [
    "cuda is promised and cannot run",
    "cuda is promised, test_planted.py::test_backend[cuda] was skipped",
    "triton is promised, test_planted.py::test_triton was skipped: Skipped: needs TRITON_INTERPRET=1",
    "torch is promised, test_planted.py::test_skips[torch] was skipped: Skipped: as planted",
    "torch is promised and no test of it ran",
    "auto is promised and no test of it ran",
]


EVERYTHING = "reference,cuda,triton,torch,auto"


@pytest.mark.parametrize(
    ("promised", "broken", "workers"),
    [
        ("reference", [], 0),
        (EVERYTHING, BROKEN, 0),
        pytest.param(EVERYTHING, BROKEN, 2, marks=pytest.mark.prove),
    ],
)
def test_a_broken_promise_fails_the_session(tmp_path, promised, broken, workers):
    if torch.cuda.is_available():
        pytest.skip("the planted tests count on a machine without a GPU")
    if workers:
        pytest.importorskip("xdist")
    (tmp_path / "conftest.py").write_text(Path(conftest.__file__).read_text())
    (tmp_path / "test_planted.py").write_text(PROMISED_TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    triton\n    gpu\n")
    environment = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "PYTEST_XDIST_WORKER")}
    path = [str(Path(conftest.__file__).parents[1]), environment.get("PYTHONPATH")]
    environment |= {"GANFAST_PROMISED": promised, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    command = [sys.executable, "-m", "pytest", "-q", *([f"-n{workers}"] if workers else [])]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    output = done.stdout + done.stderr
    assert (done.returncode != 0) == bool(broken), output
    assert all(output.count(f"GANFAST_PROMISED: {line}") == 1 for line in broken) and "reference is promised" not in output, output


def test_an_unknown_promise_is_refused(monkeypatch):
    monkeypatch.setattr(conftest, "PROMISED", ["cpu", "cudda"])
    with pytest.raises(pytest.UsageError, match="GANFAST_PROMISED: cudda is unknown"):
        conftest.pytest_configure(None)
