"""`python -m ganfast` is the command `ganfast`."""

from ganfast.cli import main

main()
