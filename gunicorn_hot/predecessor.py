"""What the new master knows of the old one."""

from __future__ import annotations

import os
import signal
from collections.abc import MutableMapping

from gunicorn_hot import private
from gunicorn_hot.channel import Channel
from gunicorn_hot.successor import CHANNEL_VARIABLE


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
    def of_this_process(cls, environ: MutableMapping[str, str], pid: int) -> Predecessor | None:
        """Return the predecessor `pid`, as gunicorn has read it from `environ`, or None when this is a first start.

        Takes our variable out of `environ`: neither workers nor the application have a use for it. Raises OSError
        when it does not name our channel."""
        fd = environ.pop(CHANNEL_VARIABLE, None)
        if not pid:
            return None
        if fd is None:
            return cls(pid, None)
        try:
            channel = Channel.from_fd(int(fd))
        except (OSError, ValueError) as exc:
            raise OSError(f"{CHANNEL_VARIABLE}={fd} is not the channel to a predecessor: {exc}") from None
        return cls(pid, channel)

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
            self.channel.close()
        if self._death is not None:
            os.close(self._death)
            self._death = None
