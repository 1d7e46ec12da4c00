"""The tuner: what it measures, and when it must not."""

import threading
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import ganfast.functional as GF
from ganfast import _tune, _tune_cache
from ganfast.ops.conv_transpose_act import torch_faults
from ganfast.testing import assert_close_to_reference
from tests.tune.common import X, calls


def test_takes_the_fastest_and_asks_once(told_times):
    candidates, ran = calls(slow=0.004, fast=0.001)
    assert _tune.choose("q", candidates, X) == ("fast", True)
    before = len(ran)
    assert _tune.choose("q", candidates, X) == ("fast", True)
    assert len(ran) == before
    assert set(_tune.chosen()[next(iter(_tune.chosen()))].microseconds) == {"slow", "fast"}


def test_the_default_wins_ties(told_times):
    candidates, _ = calls(default=0.00301, other=0.003)
    assert _tune.choose("q", candidates, X)[0] == "default"


def test_a_hopeless_candidate_is_not_run_again(told_times):
    candidates, ran = calls(a=0.0005, hopeless=0.02, b=0.0004)
    assert _tune.choose("q", candidates, X)[0] == "b"
    assert ran.count("hopeless") == 2  # the warm-up and one round


def test_ever_new_sizes_are_not_measured_for_ever(told_times):
    candidates, ran = calls(default=0.002, fast=0.001)
    for i in range(30):
        assert _tune.choose(f"q {i}", candidates, X, "family")[0] == "fast"  # the commonest answer, once there are enough
    assert len(_tune.chosen()) == _tune.MOST_SHAPES
    before = len(ran)
    assert _tune.choose("q 30", calls(default=0.002, other=0.001)[0], X, "family") == ("default", True)
    assert len(ran) == before
    assert _tune.choose("q 30", candidates, X, "another family")[0] == "fast" and len(ran) > before


@pytest.mark.alone
def test_a_first_call_that_takes_for_ever_is_the_last():
    ran = []

    def slow():
        ran.append("slow")
        time.sleep(0.11)

    assert _tune.choose("q", {"default": lambda: None, "slow": slow}, X)[0] == "default"
    assert ran == ["slow"]


@pytest.mark.alone
def test_a_candidate_may_ask_a_question_of_its_own():
    """Its first call then measures the inner candidates, for longer than any first call may take."""

    def outer():
        _tune.choose("inner", {"a": lambda: time.sleep(0.05), "b": lambda: time.sleep(0.051)}, X)

    assert _tune.choose("outer", {"plain": lambda: time.sleep(0.005), "outer": outer}, X)[0] == "outer"


def test_out_of_memory_is_no_lasting_answer(told_times):
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    candidates = {"full": full} | calls(works=0.001)[0]
    assert _tune.choose("q", candidates, X) == ("works", False)
    assert not _tune.chosen() and not _tune_cache.cache_file(X.device).exists()


def test_a_failing_candidate_is_left_out_and_named(told_times):
    def broken():
        raise RuntimeError("no such tile\nand more")

    candidates = {"broken": broken} | calls(works=0.001)[0]
    assert _tune.choose("q", candidates, X)[0] == "works"
    assert next(iter(_tune.chosen().values())).failed == {"broken": "RuntimeError: no such tile"}
    assert "broken did not run: RuntimeError: no such tile" in _tune.report()


def test_where_all_fail_the_default_says_why():
    def broken():
        raise RuntimeError("the default's reason")

    with pytest.raises(RuntimeError, match="the default's reason"):
        _tune.choose("q", {"a": broken, "b": broken}, X)


def test_a_failure_that_passes_leaves_the_default():
    tried = []

    def recovers():
        tried.append(1)
        if len(tried) == 1:
            raise RuntimeError("a passing trouble")

    def broken():
        raise RuntimeError("no")

    assert _tune.choose("q", {"default": recovers, "b": broken}, X)[0] == "default"


@pytest.fixture
def threads(monkeypatch):
    """(name, where) in order: "bind" for a thread that touches the device, the candidate for its call."""
    found = []
    monkeypatch.setattr(_tune, "_bind", lambda device: found.append(("bind", threading.get_ident())))
    return found


def test_every_attempt_touches_the_device_first_in_its_own_thread(threads):
    """A thread of the pool has no CUDA context before it does."""
    call = lambda name: lambda: threads.append((name, threading.get_ident()))
    _tune.choose("q", {name: call(name) for name in ("torch", "triton/a", "triton/b")}, X)
    for name in ("torch", "triton/a", "triton/b"):
        who = next(thread for what, thread in threads if what == name)
        mine = [what for what, thread in threads if thread == who]
        assert mine[0] == "bind"
    assert len({thread for what, thread in threads if what.startswith("triton")} - {threading.get_ident()}) >= 1


@pytest.mark.parametrize("mends", [True, False])
def test_a_triton_candidate_that_fails_in_the_pool_is_tried_by_the_caller(mends):
    """What a thread of the pool lacked does not decide; what fails there too is listed."""
    tried = []

    def picky():
        tried.append(threading.get_ident())
        if not mends or threading.get_ident() != threading.main_thread().ident:
            raise RuntimeError("no context is bound to this thread")

    candidates = {"torch": lambda: time.sleep(0.003), "triton/tma": picky}
    assert _tune.choose("q", candidates, X)[0] == ("triton/tma" if mends else "torch")
    assert tried[0] != tried[1] == threading.main_thread().ident
    failed = next(iter(_tune.chosen().values())).failed
    assert failed == ({} if mends else {"triton/tma": "RuntimeError: no context is bound to this thread"})
    assert ("triton/tma did not run: RuntimeError: no context" in _tune.report()) != mends


def test_touching_a_device_is_a_call_into_its_runtime(monkeypatch):
    """Setting the device is none where it is the current one, nor is an allocation from torch's pool."""
    asked = []
    stream = type("Stream", (), {"query": lambda self: asked.append("query")})()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: asked.append(device) or stream)
    _tune._bind(torch.device("cuda", 0))
    _tune._bind(torch.device("cpu"))
    assert asked == [torch.device("cuda", 0), "query"]


def test_more_than_six_candidates_are_refused():
    with pytest.raises(ValueError, match="7 candidates for q, at most 6"):
        _tune.choose("q", {str(i): lambda: None for i in range(7)}, X)


@pytest.mark.parametrize("how", ["GANFAST_TUNE=0", "deterministic", "cudnn.deterministic"])
def test_off(how, monkeypatch, told_times):
    candidates, ran = calls(default=0.002, fast=0.0)
    _tune.choose("q", candidates, X)
    ran.clear()
    if how == "GANFAST_TUNE=0":
        monkeypatch.setenv("GANFAST_TUNE", "0")
    elif how == "deterministic":
        torch.use_deterministic_algorithms(True)
    else:
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    try:
        assert _tune.off_reason()
        assert _tune.choose("q", candidates, X) == ("default", True)  # though the cache knows better
    finally:
        torch.use_deterministic_algorithms(False)
    assert not ran


def test_never_while_tracing_or_capturing(monkeypatch, told_times):
    candidates, ran = calls(default=0.002, fast=0.0)
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert _tune.choose("q", candidates, torch.zeros(3)) == ("default", False)
    with FlopCounterMode(display=False):
        assert _tune.choose("q", candidates, X) == ("default", False)
    capturing = type("T", (), {"is_cuda": True, "device": X.device})()
    monkeypatch.setattr(_tune._native, "is_plain", lambda x: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert _tune.choose("q", candidates, capturing) == ("default", False)
    assert not ran
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    _tune.choose("q", candidates, X)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert _tune.choose("q", candidates, capturing) == ("fast", True)  # what is known may be used


def test_a_choice_that_is_no_candidate_any_more_is_measured_again(told_times):
    _tune.choose("q", calls(a=0.002, gone=0.0)[0], X)
    assert _tune.choose("q", calls(a=0.002, new=0.0)[0], X) == ("new", True)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_auto_asks_for_every_pass_and_stays_right(dtype, channels_last):
    """Whatever is chosen, outputs and gradients keep to the oracle; and the three questions were asked."""
    leaves = [torch.randn(4, 16, 6, 5), torch.randn(16, 24, 4, 4) / 16, torch.randn(24)]
    if channels_last:
        leaves = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in leaves]
    leaves = [t.to(dtype).requires_grad_() for t in leaves]
    double = [t.detach().double().requires_grad_() for t in leaves]
    plain = lambda x, w, b: torch.conv_transpose2d(x, w, b, 2, 1).tanh()
    rows = []
    for call, own in ((lambda *t: GF.conv_transpose_act(*t, stride=2, padding=1, act="tanh"), leaves), (plain, leaves), (plain, double)):
        for _ in range(2):
            y = call(*own)
        rows.append([y, *torch.autograd.grad(y, own, torch.ones_like(y))])
    assert_close_to_reference(*zip(("y", "gx", "gweight", "gbias"), *rows, strict=True))
    asked = [question for question in _tune.chosen() if "torch" in _tune.chosen()[question].microseconds]
    assert sorted(q.split(" x (")[0] for q in asked) == [
        "conv_transpose_act", "data gradient of conv_transpose_act", "weight gradient of conv_transpose_act",
    ]  # fmt: skip
    other = "torch/nchw" if channels_last else "torch/nhwc"
    wider = {"torch/float32"} if torch_faults.emulates(leaves[0]) else set()
    assert all({"torch", "cpu", other} | wider == set(_tune.chosen()[q].microseconds) for q in asked)


def test_doctor_lists_the_choices(capsys):
    from ganfast import cli

    GF.conv_transpose_act(torch.randn(2, 8, 4, 4), torch.randn(8, 4, 4, 4), stride=2, padding=1)
    cli.main(["doctor", "--tuning"])
    said = capsys.readouterr().out
    assert "conv_transpose_act x (2, 8, 4, 4) w (8, 4, 4, 4)" in said and "->" in said and "microseconds" in said
