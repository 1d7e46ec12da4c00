"""A word to the user, on stderr."""

import sys

_told: set[str] = set()


def tell(message: str) -> None:
    """Once a process: what may come at every call is no news the second time."""
    if message not in _told:
        _told.add(message)
        print(f"ganfast: {message}", file=sys.stderr)
