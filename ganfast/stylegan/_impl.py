"""What `impl=` means here."""

from ganfast import _checks


def backend(op: str, impl: str) -> str | None:
    """The backend for the published interface's `impl`: "cuda" is whatever ganfast chooses, on a CPU too; `use_backend` has its say."""
    if impl not in ("cuda", "ref"):
        _checks.nearest(op, "impl", impl, ("cuda", "ref"))
    return "reference" if impl == "ref" else None
