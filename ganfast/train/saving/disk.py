"""Files that are written whole or not at all, and the lock by which one process at a time holds a run's folder."""

import contextlib
import errno
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ganfast._tell import tell

WRITING = ".writing"  # end of a name: not whole yet


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes `path`'s place only when all of it is on the disk: the new one or the old, never a half.

    Raises: OSError where the disk refuses it, also where the writer (torch.save) covers that with an error of its own.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{WRITING}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Forces a file's content, or a folder's names, to the disk. A rename is on the disk once its folder is."""
    if os.name == "nt":  # no folder can be opened there, and no file that is not open for writing can be forced
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems see to their folders by themselves
            raise
    finally:
        os.close(descriptor)


_held: set[int] = set()  # descriptors of the locks this process holds


def _drop_inherited() -> None:
    """Closes the locks in a forked child (a data worker), whose copy would hold them after its parent has died."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_inherited)


def take_lock(path: Path) -> int:
    """A descriptor that holds the lock until it is closed or its process dies, however it dies."""
    mine = f"process {os.getpid()} on {socket.gethostname()}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass  # this system has no such lock, and nothing keeps two runs apart
    except BlockingIOError:
        other = os.read(descriptor, 200).decode(errors="replace")
        os.close(descriptor)
        who = "this very process, whose earlier trainer is still open" if other == mine else other or "another process"
        how = "del that trainer" if other == mine else "stop it"
        raise ValueError(f"train: run_dir {path.parent} is in use by {who}; {how}, or choose another folder.") from None
    except OSError as error:
        tell(f"{path.parent} takes no lock ({error.strerror}); two runs in it at once would spoil it")
    _held.add(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, mine.encode())
    except OSError:
        release(descriptor)
        raise
    return descriptor


def release(descriptor: int) -> None:
    if descriptor in _held:  # not in a forked child, where the number may be another file's
        _held.remove(descriptor)
        os.close(descriptor)
