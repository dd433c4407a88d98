"""The pid file through an upgrade: at every instant it names a live master.

gunicorn's own rename unlinks the file first and then writes a new one, with a moment between in which there is none."""

from __future__ import annotations

import os
import tempfile

_MODE = 0o644


def read(path: str) -> int | None:
    """Return the pid that the file names, or None when there is no file or no pid in it."""
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def replace(path: str, pid: int) -> None:
    """Make the file name `pid`, atomically. Raises OSError, with the old file in place."""
    fd, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=os.path.basename(path))
    try:
        with os.fdopen(fd, "w") as file:
            file.write(f"{pid}\n")
        os.chmod(temporary, _MODE)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def remove(path: str, pid: int) -> None:
    """Remove the file if it names `pid`."""
    if read(path) == pid:
        os.unlink(path)
