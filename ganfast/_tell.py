"""A word to the user, on stderr."""

import sys

_told: set[str] = set()


def tell(message: str, about: str = "") -> None:
    """Once a process for each message, or for each `about`: what may come at every call is no news the second time."""
    if (about or message) not in _told:
        _told.add(about or message)
        print(f"ganfast: {message}", file=sys.stderr)
