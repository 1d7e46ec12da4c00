"""Options of a run, its calibration, and the `bench` fixture that measures and stores a row."""

import time

import pytest

from benchmarks.calibration import calibrate
from benchmarks.harness import Bench, Settings, clock
from benchmarks.machine import DEVICE, facts
from benchmarks.rivals import DTYPES, FIRST_ORDER, WHO, takes_max_autotune

_ORDER = {"bench_step": 0, "bench_accelerate": 2}  # a time limit cuts the tail; otherwise as the files come
_CHOICES = [who for who in WHO if who != "ganfast"]
_DEFAULT = "eager" if DEVICE == "cpu" else ",".join(_CHOICES)


def pytest_addoption(parser):
    group = parser.getgroup("ganfast's benchmarks")
    said = f"comma-separated, of {', '.join(_CHOICES)}; here by default {_DEFAULT}; whole networks take compile only if it is named here"
    group.addoption("--rivals", default=None, help=said)
    group.addoption("--seconds", type=float, default=Settings().seconds, help="wall time a rival's rounds may take, after the first 5")
    group.addoption("--time-limit", type=float, default=None, help="seconds after which no further row is begun; the rest is skipped")
    group.addoption("--measured-commit", default=None, help="the commit, for a copy without its git history")


def _rivals(config) -> tuple[str, ...]:
    given = config.getoption("--rivals")
    return tuple((_DEFAULT if given is None else given).split(","))


def pytest_configure(config):
    config.addinivalue_line("markers", "layers: a layer against a layer, without max-autotune")
    config.addinivalue_line("markers", "steps: everything else; the two marks part a long run")
    unknown = [who for who in _rivals(config) if who not in _CHOICES]
    if unknown:
        raise pytest.UsageError(f"--rivals: {', '.join(unknown)} is unknown; valid: {', '.join(_CHOICES)}")
    config.ganfast_begun = time.monotonic()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: _ORDER.get(item.path.stem, 1))
    for item in items:
        given = item.callspec.params if hasattr(item, "callspec") else {}
        layer = "case" in given and hasattr(given["case"], "c_in")
        autotuned = layer and takes_max_autotune(given["case"], given.get("dtype"), given.get("mode", FIRST_ORDER))
        item.add_marker("layers" if layer and not autotuned else "steps")


@pytest.fixture(scope="session")
def calibration(request):
    """Its words come first: what this run is, and which of ganfast's kernels it lacks."""
    say, about = _say(request.config), facts(request.config.getoption("--measured-commit"))
    say(f"benchmarks on {about['device']}, commit {about['commit']}; rivals: {','.join(_rivals(request.config))}")
    for word in about["missing"]:
        say(f"ganfast falls back to torch's own kernels where it would take {word}")
    found = calibrate(DTYPES, clock())
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in found.matrix.items())
    say(f"calibration: copy {found.copy / 1e9:.1f} GB/s; {rates}")
    return found


def _say(config):
    """Prints past the capture, a line a row, so that a long run is seen to live."""
    terminal, capture = (config.pluginmanager.getplugin(name) for name in ("terminalreporter", "capturemanager"))

    def say(text):
        with capture.global_and_fixture_disabled():
            terminal.write_line(text)
            terminal.flush()

    return say


@pytest.fixture
def bench(request, benchmark, calibration):
    config = request.config
    limit, begun = config.getoption("--time-limit"), config.ganfast_begun
    if limit is not None and time.monotonic() - begun > limit:
        pytest.skip(f"the time limit of {limit:.0f} s is spent")
    about = facts(config.getoption("--measured-commit")) | {"calibration": {"copy": calibration.copy, "matrix": calibration.matrix}}
    asked = config.getoption("--rivals") is not None
    settings = Settings(_rivals(config), seconds=config.getoption("--seconds"), asked=asked)
    return Bench(benchmark, settings, about, calibration, _say(config))
