"""Why a new master could not even begin: what it has written to its standard error before it could speak.

A configuration file with a syntax error, a script that is gone, a failing ``preload_app``: gunicorn prints such things
and exits, to wherever the standard error goes, which may be nowhere. So the new master writes into a temporary file
until it is up; then it copies what is there to the real standard error, and goes on with that. If it never gets so far,
the old master finds the reason in the file.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import MutableMapping

#: "<descriptor of the real standard error>:<inode of the temporary file>".
VARIABLE = "GUNICORN_HOT_STDERR"
_STDERR = 2
_TAIL_BYTES = 8192


class Capture:
    """The temporary file, in the old master. Raises OSError when there is no room for it."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the successor

    def redirect(self) -> str:
        """In the forked child: write the standard error into the file from now on; return the variable's value."""
        real = os.dup(_STDERR)
        os.set_inheritable(real, True)
        os.dup2(self._file.fileno(), _STDERR)
        return f"{real}:{os.fstat(_STDERR).st_ino}"

    def text(self) -> str:
        """Return the end of what is in the file."""
        fd = self._file.fileno()
        size = os.fstat(fd).st_size
        return os.pread(fd, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace").strip()

    def close(self) -> None:
        self._file.close()


def release(environ: MutableMapping[str, str]) -> None:
    """In the new master, once it is up: take back the real standard error, with all that was written meanwhile."""
    value = environ.pop(VARIABLE, None)
    if value is None:
        return
    real, inode = map(int, value.split(":"))
    if os.fstat(_STDERR).st_ino == inode:
        sys.stderr.flush()
        offset = 0
        while data := os.pread(_STDERR, _TAIL_BYTES, offset):
            try:
                offset += os.write(real, data)
            except OSError:
                break  # nobody reads it, or not now
        os.dup2(real, _STDERR)
    os.close(real)
