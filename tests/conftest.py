"""What every test shares: seeds, which tests can run here, and the promise that none of a backend's was skipped.

A test says which backend it exercises by a parameter named `backend`, or by the marks `triton` and `gpu`:
- `backend=` one that cannot run here: skipped with the reason;
- `triton` (the interpreter's tests) run only in a process started with TRITON_INTERPRET=1, and nothing else runs there;
- `gpu` needs a CUDA device.
GANFAST_PROMISED="cpu,triton" names the backends this machine must have tested: the session fails when one of them is
unavailable, when a test of it was skipped, or when none ran. "gpu" may be promised too. Under pytest-xdist the process that hands
out the tests counts over all of its workers.

What is left to `make prove` (the mark `prove`, and all but the pairs of `pairs`): tests/selection.py.
"""

import gc
import os
import random
import re
from pathlib import Path

import pytest

# A worker of pytest-xdist has a core for itself, and threads that wait must not keep it. Before torch is imported, which reads both.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# The tuner would time what these tests compare by value; tests/tune turns it on for itself.
os.environ.setdefault("GANFAST_TUNE", "0")

import torch

from ganfast import _backends
from tests import selection

OPS = {path.name for path in Path(_backends.__file__).with_name("ops").iterdir() if path.is_dir()}
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
RAN: set[str] = set()  # backends of tests that ran
SKIPPED: list[tuple[str, str, str]] = []  # backend, test, reason
PROMISED = [name.strip() for name in os.environ.get("GANFAST_PROMISED", "").split(",") if name.strip()]


def pytest_addoption(parser):
    selection.add_option(parser)


def pytest_configure(config):
    unknown = [name for name in PROMISED if name not in (*_backends.BACKENDS, "gpu")]
    if unknown:
        raise pytest.UsageError(f"GANFAST_PROMISED: {', '.join(unknown)} is unknown; valid: {', '.join(_backends.BACKENDS)}, gpu")
    RAN.clear(), SKIPPED.clear()


def exercised(item) -> set[str]:
    """The backends a test is about."""
    backend = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
    found = {backend} if isinstance(backend, str) and backend in _backends.BACKENDS else set()
    return found | {mark for mark in ("triton", "gpu") if item.get_closest_marker(mark)}


@pytest.hookimpl(tryfirst=True)  # before pytest's own -k and -m: which cases stand for a test does not hang on what is asked for
def pytest_collection_modifyitems(config, items):
    kept = selection.kept(config, items)
    if INTERPRETING:
        kept = [item for item in kept if item.get_closest_marker("triton")]
    stay = set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item not in stay])
    items[:] = kept


def pytest_collection_finish(session):
    """Modules and test items, half a million objects, live to the end: what asks for `gc.collect()`, as measuring does, need not look
    through them each time (0.8 s)."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """So does what a file's tests have imported and compiled; their garbage is collected first, and stays out of it."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_runtest_setup(item):
    if item.get_closest_marker("triton") and not INTERPRETING:
        pytest.skip("needs TRITON_INTERPRET=1 before python starts")
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    for name in exercised(item) - {"gpu"}:
        if not (state := _backends.backends()[name]).available:
            pytest.skip(f"backend {name}: {state.reason}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    report.user_properties.append(("exercised", sorted(exercised(item))))  # travels from a worker to the process that counts


def pytest_runtest_logreport(report):
    names = dict(report.user_properties).get("exercised", [])
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple | list) else str(report.longrepr)
        SKIPPED.extend((name, report.nodeid, reason) for name in names)
    elif report.when == "call":
        RAN.update(names)


def broken_promises(config) -> list[str]:
    if hasattr(config, "workerinput"):  # a worker sees a part of the tests
        return []
    broken = []
    # Of what `make prove` runs in parts, and of the few tests that run alone, a part may hold none of a backend.
    a_part = config.getoption("--prove") or re.search(r"(?<!not )\balone\b", config.option.markexpr)
    missing = {name: state.reason for name, state in _backends.backends().items() if not state.available}
    for name in PROMISED:
        if name in missing:
            broken.append(f"{name} is promised and cannot run: {missing[name]}")
        broken += [f"{name} is promised, {test} was skipped: {reason}" for which, test, reason in SKIPPED if which == name]
        if name not in RAN and not a_part:
            broken.append(f"{name} is promised and no test of it ran")
    return broken


def pytest_sessionfinish(session, exitstatus):
    gc.unfreeze()  # or what is still there as Python ends is called a leak by those who count
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.getoption("--prove"):
        session.exitstatus = pytest.ExitCode.OK  # a part may be empty
    if broken_promises(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    for line in broken_promises(config):
        terminalreporter.write_line(f"GANFAST_PROMISED: {line}", red=True)


@pytest.fixture(autouse=True)
def seeds():
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def kernels_have_threads(request):
    """At least two for the tests of the kernels, so that work is shared out also where a worker has one."""
    before = torch.get_num_threads()
    if request.path.parent.name in OPS:
        torch.set_num_threads(max(2, before))
    yield
    torch.set_num_threads(before)
