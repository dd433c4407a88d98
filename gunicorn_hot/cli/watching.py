"""Waiting for what a service does next: its status file is replaced or removed, or one of its processes ends.

Linux tells both at once, by inotify and pidfds. Where there is neither, the file is looked at ten times a second.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import time
from collections.abc import Iterable
from pathlib import Path

#: s between two looks, where nothing tells.
LOOK = 0.1

_IN_CLOSE_WRITE, _IN_MOVED_FROM, _IN_MOVED_TO, _IN_DELETE = 0x8, 0x40, 0x80, 0x200
_IN_DELETE_SELF, _IN_MOVE_SELF, _IN_IGNORED, _IN_Q_OVERFLOW = 0x400, 0x800, 0x8000, 0x4000
_CHANGES = _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_DELETE | _IN_DELETE_SELF | _IN_MOVE_SELF
#: About the folder, or about events that were lost: no name to compare.
_NAMELESS = _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_IGNORED | _IN_Q_OVERFLOW
_EVENT = struct.Struct("iIII")


def _inotify(folder: Path) -> int:
    """Return a descriptor that is readable after a change in `folder`. Raises OSError where that cannot be had."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        raise OSError(errno.ENOSYS, "no inotify")
    fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    if libc.inotify_add_watch(fd, os.fsencode(folder), ctypes.c_uint32(_CHANGES)) < 0:
        number = ctypes.get_errno()
        os.close(fd)
        raise OSError(number, "inotify_add_watch")
    return fd


class Watch:
    """Waits for changes of one file, and for the end of processes; begins to look out when it is made.

    So whoever makes it first and reads the file afterwards misses nothing."""

    def __init__(self, path: Path) -> None:
        self._name = os.fsencode(path.name)
        self._poll = select.poll()
        #: The pidfd of each watched process that has not ended; None where there are no pidfds.
        self._processes: dict[int, int | None] = {}
        self._inotify: int | None
        try:
            self._inotify = _inotify(path.parent)
            self._poll.register(self._inotify, select.POLLIN)
        except OSError:  # another system, or too many watches on this one
            self._inotify = None

    def close(self) -> None:
        self.watch(())
        if self._inotify is not None:
            os.close(self._inotify)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def watch(self, pids: Iterable[int]) -> None:
        """From now on `wait` also ends when one of these processes does, once for each; no others.

        A caller makes sure afterwards that a pid still means what it did: it is held from now on."""
        wanted = set(pids)
        for pid in self._processes.keys() - wanted:
            self._forget(pid)
        for pid in wanted - self._processes.keys():
            self._add(pid)

    def _add(self, pid: int) -> None:
        fd = None
        if hasattr(os, "pidfd_open"):
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                return
            except OSError:  # forbidden, or an old kernel
                pass
        if fd is not None:
            self._poll.register(fd, select.POLLIN)
        self._processes[pid] = fd

    def _forget(self, pid: int) -> None:
        fd = self._processes.pop(pid)
        if fd is not None:
            self._poll.unregister(fd)
            os.close(fd)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until something has changed, or for `timeout` seconds. It may also end without a reason."""
        blind = self._inotify is None or None in self._processes.values()
        if blind:
            timeout = LOOK if timeout is None else min(timeout, LOOK)
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            ready = dict(self._poll.poll(None if left is None else left * 1000 + 1))
            if not ready or self._has_ended(ready) or self._has_changed(ready):
                return

    def _has_ended(self, ready: dict[int, int]) -> bool:
        ended = [pid for pid, fd in self._processes.items() if fd in ready]
        for pid in ended:
            fd = self._processes[pid]
            assert fd is not None
            # Stays ended, and would end every wait.
            self._poll.unregister(fd)
            os.close(fd)
            del self._processes[pid]
        return bool(ended)

    def _has_changed(self, ready: dict[int, int]) -> bool:
        if self._inotify not in ready:
            return False
        assert self._inotify is not None
        changed = False
        try:
            while True:
                data = os.read(self._inotify, 64 * 1024)
                while data:
                    _, mask, _, length = _EVENT.unpack_from(data)
                    name = data[_EVENT.size:_EVENT.size + length].rstrip(b"\0")
                    changed = changed or name == self._name or bool(mask & _NAMELESS)
                    data = data[_EVENT.size + length:]
        except BlockingIOError:
            return changed
