"""What `impl=` means here."""

from ganfast import _checks


def number(op: str, argument: str, value: object) -> float:
    """As the published interface reads one: whatever float() takes, NumPy's numbers and tensors of one element too."""
    try:
        return float(value if not isinstance(value, str) else None)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        _checks.fail(op, f"{argument} is {value!r}, wants a number", error=TypeError)


def backend(op: str, impl: str) -> str | None:
    """The backend for the published interface's `impl`: "cuda" is whatever ganfast chooses, on a CPU too; `use_backend` has its say."""
    if impl not in ("cuda", "ref"):
        _checks.nearest(op, "impl", impl, ("cuda", "ref"))
    return "reference" if impl == "ref" else None
