"""What calls decided is remembered, and forgotten."""

from ganfast._memo import Memo


def test_a_memo_does_not_grow_for_ever(monkeypatch):
    monkeypatch.setattr(Memo, "MOST", 3)
    memo = Memo()
    for i in range(10):
        memo[i] = i
        assert len(memo) <= 3 and memo[i] == i
