"""The master's one place to wait: signals, the channel and the workers' links, all at once."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable

from gunicorn_hot import private


class Wakeup:
    """Waits for signals and for watched descriptors, with no thread and no tick.

    gunicorn's master waits on its signal queue, for a second at a time. Here the interpreter writes a byte into a pipe
    for each signal (`signal.set_wakeup_fd`), and the pipe is polled with everything else."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        # epoll would be an open file that forked workers share; poll has no descriptor. If a configuration file has let
        # gevent patch the master, this is gevent's, which has to run for children to be noticed.
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        self._callbacks: dict[int, Callable[[], None]] = {}
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        private.register(self)

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` from `wait` whenever `fd` is readable or at its end."""
        self._poll.register(fd, select.POLLIN)
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
