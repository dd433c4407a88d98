"""What the new master knows of the old one."""

from __future__ import annotations

import os
import signal

from gunicorn_hot import inheritance, private
from gunicorn_hot.channel import Channel


class Predecessor:
    """The master that has executed this one. Without a channel it is a stock gunicorn."""

    def __init__(self, pid: int, channel: Channel | None) -> None:
        self.pid = pid
        self.channel = channel
        self._death: int | None = None
        if channel is None and self.is_parent and hasattr(os, "pidfd_open"):
            try:
                self._death = os.pidfd_open(pid)
            except OSError:
                pass  # gone already, or no such call in this kernel
        private.register(self)

    @classmethod
    def of_this_process(cls, pid: int) -> Predecessor | None:
        """Return the predecessor `pid`, as gunicorn has read it from the environment; None: this is a first start.

        Raises OSError when the channel that the environment named is none."""
        return cls(pid, inheritance.channel()) if pid else None

    def death(self) -> int | None:
        """Return a descriptor that is readable once a predecessor without a channel has died, where there is such."""
        return self._death

    @property
    def is_parent(self) -> bool:
        return os.getppid() == self.pid

    def terminate(self) -> None:
        """Send SIGTERM, if it is still our parent: its pid may be another process's otherwise."""
        if self.is_parent:
            os.kill(self.pid, signal.SIGTERM)

    def close(self) -> None:
        """Close what belongs to it; may be called twice. In this process `private.forget` is the way to it."""
        if self.channel is not None:
            private.forget(self.channel)
        if self._death is not None:
            os.close(self._death)
            self._death = None
