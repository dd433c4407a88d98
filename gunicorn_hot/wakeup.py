"""The master's one place to wait: signals, the channel and the workers' links, all at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from gunicorn_hot import private


def _poll() -> Any:
    """Return a `select.poll` object of the kernel's, also when a configuration file has let gevent patch the master.

    epoll would be an open file that forked workers share; poll has no descriptor."""
    if "gevent.monkey" in sys.modules:
        return sys.modules["gevent.monkey"].get_original("select", "poll")()
    import select

    return select.poll()


class Wakeup:
    """Waits for signals and for watched descriptors, with no thread and no tick.

    gunicorn's master waits on its signal queue, for a second at a time. Here the interpreter writes a byte into a pipe
    for each signal (`signal.set_wakeup_fd`), and the pipe is polled with everything else."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._poll = _poll()
        self._poll.register(self._read, 1)
        self._callbacks: dict[int, Callable[[], None]] = {}
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        private.register(self)

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` from `wait` whenever `fd` is readable or at its end."""
        self._poll.register(fd, 1)
        self._callbacks[fd] = callback

    def forget(self, fd: int) -> None:
        """Stop watching `fd`; must come before it is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def wake(self) -> None:
        """End the current or the next `wait`; from any thread."""
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass  # the pipe is full: the wait will end anyway

    def wait(self, timeout: float) -> None:
        """Wait up to `timeout` seconds, then run the callbacks of all that is readable."""
        for fd, _ in self._poll.poll(max(0, timeout) * 1000):
            if fd == self._read:
                self._empty()
            elif callback := self._callbacks.get(fd):
                callback()

    def _empty(self) -> None:
        try:
            while os.read(self._read, 4096):
                pass
        except BlockingIOError:
            pass
