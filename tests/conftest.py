"""What every test shares: seeds, which tests can run here, and the promise that none of a backend's was skipped.

A test says which backend it exercises by a parameter named `backend`, or by the marks `triton` and `gpu`:
- `backend=` one that cannot run here: skipped with the reason;
- `triton` (the interpreter's tests) run only in a process started with TRITON_INTERPRET=1, and nothing else runs there;
- `gpu` needs a CUDA device.
GANFAST_PROMISED="cpu,triton" names the backends this machine must have tested: the session fails when one of them is
unavailable, when a test of it was skipped, or when none ran. "gpu" may be promised too.
"""

import os
import random

import pytest
import torch

# The tuner would time what these tests compare by value; tests/tune turns it on for itself.
os.environ.setdefault("GANFAST_TUNE", "0")

from ganfast import _backends

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
PROMISED = [name.strip() for name in os.environ.get("GANFAST_PROMISED", "").split(",") if name.strip()]


def pytest_configure(config):
    unknown = [name for name in PROMISED if name not in (*_backends.BACKENDS, "gpu")]
    if unknown:
        raise pytest.UsageError(f"GANFAST_PROMISED: {', '.join(unknown)} is unknown; valid: {', '.join(_backends.BACKENDS)}, gpu")
    config.ganfast_ran, config.ganfast_skipped = set(), []
    config.pluginmanager.register(_Promises(config))


def exercised(item) -> set[str]:
    """The backends a test is about."""
    backend = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
    found = {backend} if isinstance(backend, str) and backend in _backends.BACKENDS else set()
    return found | {mark for mark in ("triton", "gpu") if item.get_closest_marker(mark)}


def pytest_collection_modifyitems(config, items):
    if INTERPRETING:
        config.hook.pytest_deselected(items=[item for item in items if not item.get_closest_marker("triton")])
        items[:] = [item for item in items if item.get_closest_marker("triton")]


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
    report.exercised = sorted(exercised(item))


class _Promises:
    """What ran and what was skipped, read off the reports: pytest-xdist's processes send theirs to the one that sums up."""

    def __init__(self, config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report):
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, (tuple, list)) else str(report.longrepr)
            self.config.ganfast_skipped += [(name, report.nodeid, reason) for name in report.exercised]
        elif report.when == "call":
            self.config.ganfast_ran |= set(report.exercised)


def broken_promises(config) -> list[str]:
    if hasattr(config, "workerinput"):  # one of pytest-xdist's processes, which runs a part
        return []
    broken = []
    missing = {name: state.reason for name, state in _backends.backends().items() if not state.available}
    for name in PROMISED:
        if name in missing:
            broken.append(f"{name} is promised and cannot run: {missing[name]}")
        broken += [f"{name} is promised, {test} was skipped: {reason}" for which, test, reason in config.ganfast_skipped if which == name]
        if name not in config.ganfast_ran:
            broken.append(f"{name} is promised and no test of it ran")
    return broken


def pytest_sessionfinish(session):
    if broken_promises(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    for line in broken_promises(config):
        terminalreporter.write_line(f"GANFAST_PROMISED: {line}", red=True)


@pytest.fixture(autouse=True)
def seeds():
    random.seed(0)
    torch.manual_seed(0)
