"""Requests to stop: noted once, obeyed the second time, and nothing of the process's own handlers lost."""

import os
import signal
import threading

import pytest

from ganfast.train.saving import signals
from ganfast.train.saving.signals import StopRequests


@pytest.fixture(autouse=True)
def handlers():
    """Whatever started the tests: a background job ignores Ctrl-C."""
    before = {number: signal.signal(number, handler) for number, handler in OWN.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class EndedError(Exception):
    pass


def interrupted(*_):
    raise EndedError(int(signal.SIGINT))


def terminated(*_):
    raise EndedError(int(signal.SIGTERM))


OWN = {signal.SIGINT: interrupted, signal.SIGTERM: terminated}


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_the_first_is_noted(number, name):
    with StopRequests() as stop:
        assert stop.asked is None
        os.kill(os.getpid(), number)
        assert stop.asked == name
    assert all(signal.getsignal(number) is handler for number, handler in OWN.items())


@pytest.mark.parametrize("first", OWN)
@pytest.mark.parametrize("second", OWN)
def test_the_second_acts_as_ever(first, second, clock):
    with StopRequests() as stop:
        signal.raise_signal(first)
        clock[0] += 0.5  # torchrun passes on what the terminal has sent already
        signal.raise_signal(second)
        assert stop.asked == signals.NAMES[first]
        clock[0] += 0.6
        with pytest.raises(EndedError, match=str(int(second))):
            signal.raise_signal(second)
        assert all(signal.getsignal(number) is handler for number, handler in OWN.items())
    assert all(signal.getsignal(number) is handler for number, handler in OWN.items())


def test_handlers_come_back_after_an_error():
    with pytest.raises(ZeroDivisionError), StopRequests():
        1 / 0  # noqa: B018
    assert all(signal.getsignal(number) is handler for number, handler in OWN.items())


def test_what_the_process_ignores_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopRequests() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.asked is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked == "SIGTERM"
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_outside_the_main_thread_nothing_happens():
    seen = []

    def enter():
        with StopRequests() as stop:
            seen.extend([signal.getsignal(signal.SIGTERM), stop.asked])

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [terminated, None]


def test_one_object_serves_twice():
    stop = StopRequests()
    with stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop.asked == "SIGTERM"
    with stop:
        assert stop.asked is None
        assert signal.getsignal(signal.SIGTERM) == stop._note
    assert signal.getsignal(signal.SIGTERM) is terminated
