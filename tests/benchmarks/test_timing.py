"""The timer's bookkeeping. No GPU is used: a stub stands for torch.cuda, so what is tested is what is captured, replayed and
divided, not that a graph can be captured there; `make gpu-bench` does that where there is one."""

import pytest

from ganfast import _timing
from ganfast._timing import DeviceClock, QueueClock, Sampler, interleaved


class StubDevice:
    """A device with its own clock: a call takes `seconds` there, its launch `launch` on the host."""

    def __init__(self, seconds: float, launch: float = 20e-6, refuses: Exception | None = None) -> None:
        self.one, self.launch, self.refuses = seconds, launch, refuses
        self.captured: list[int] = []
        self.synchronised = 0

    def capture(self, call, copies):
        if self.refuses:
            raise self.refuses
        self.captured.append(copies)
        for _ in range(copies):
            call()

        def replay():
            return copies * self.one

        return replay

    def seconds(self, call):
        took = call()
        return self.one if took is None else took

    def enqueue(self, call):
        call()
        return self.launch

    def queued(self, call, times, behind):
        assert behind >= 2 * times * self.launch
        for _ in range(times):
            call()
        return times * self.one

    def wall(self, call):
        call()
        return self.one + self.launch

    def synchronize(self):
        self.synchronised += 1


def test_a_long_call_is_captured_once_and_its_launch_told_apart():
    device = StubDevice(2e-3)
    timing = interleaved({"a": lambda: None}, repeats=7, measure=DeviceClock(device))["a"]
    assert device.captured == [1] and timing.clock == "graph"
    assert timing.median == pytest.approx(2e-3) and len(timing.samples) == 7
    assert timing.launch == pytest.approx(20e-6)


def test_a_short_call_is_captured_many_times_and_its_share_reported():
    device = StubDevice(6e-6)
    timing = interleaved({"a": lambda: None}, repeats=3, measure=DeviceClock(device))["a"]
    assert device.captured == [1, 50]  # 300 us of work a replay
    assert timing.median == pytest.approx(6e-6)
    device = StubDevice(1e-7)
    DeviceClock(device)(lambda: None)
    assert device.captured[-1] == DeviceClock.MOST_COPIES


def test_the_queue_clock_captures_nothing_and_reports_one_call():
    device, calls = StubDevice(6e-6), []
    timing = interleaved({"a": lambda: calls.append(1)}, repeats=3, warmup=0, measure=QueueClock(device))["a"]
    assert timing.median == pytest.approx(6e-6) and timing.clock == "queue"
    assert not device.captured and len(calls) == 3 * QueueClock.COPIES + 1


def test_a_call_that_cannot_be_captured_is_timed_by_events_and_says_why():
    device = StubDevice(1e-3, refuses=RuntimeError("operation not permitted\nwhen stream is capturing"))
    timing = interleaved({"a": lambda: None}, repeats=3, measure=DeviceClock(device))["a"]
    assert timing.clock == "events (no graph: RuntimeError: operation not permitted)"
    assert timing.median == pytest.approx(1e-3) and device.synchronised == 1


def test_a_failure_of_the_longer_capture_falls_back_too():
    class Refuses(StubDevice):
        def capture(self, call, copies):
            if copies > 1:
                raise MemoryError
            return super().capture(call, copies)

    timing = interleaved({"a": lambda: None}, repeats=3, measure=DeviceClock(Refuses(1e-6)))["a"]
    assert timing.clock.startswith("events (no graph: MemoryError") and timing.median == pytest.approx(1e-6)


def test_rivals_take_turns_and_each_round_starts_with_another():
    order = []
    interleaved({name: lambda name=name: order.append(name) for name in "abc"}, repeats=3, warmup=0)
    assert "".join(order) == "abcbcacab"


@pytest.mark.parametrize(("seconds", "rounds"), [(None, 15), (1.0, 15), (0.025, 7), (0.0, 5)])
def test_rounds_end_with_the_time_but_not_before_the_least(monkeypatch, seconds, rounds):
    """Two rivals of 4 ms each: a round is 8 ms, the limit is per rival, so 2 * 25 ms end during the seventh."""
    now = [0.0]
    monkeypatch.setattr(_timing.time, "perf_counter", lambda: now[0])

    def sample():
        now[0] += 4e-3
        return 4e-3

    timings = interleaved({"a": int, "b": int}, repeats=15, seconds=seconds, at_least=5, measure=lambda _: Sampler(sample, "stub"))
    assert [len(t.samples) for t in timings.values()] == [rounds, rounds]


def test_the_wall_clock_knows_no_launch():
    timing = interleaved({"a": lambda: sum(range(1000))}, repeats=3)["a"]
    assert timing.clock == "wall" and timing.launch is None and timing.median > 0
    assert timing.p20 <= timing.median <= timing.p80 and timing.spread == pytest.approx((timing.p80 - timing.p20) / timing.median)


def test_no_rivals_and_no_rounds_are_refused():
    with pytest.raises(ValueError, match="at least one rival"):
        interleaved({})
    with pytest.raises(ValueError, match="got 1 and 0"):
        interleaved({"a": int}, repeats=0)
