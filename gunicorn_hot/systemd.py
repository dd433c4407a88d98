"""What systemd, or whoever speaks its protocol (sd_notify), is told of a service and its upgrades.

READY=1 is said when the workers can serve, and once more at the end of each upgrade; RELOADING=1 when one begins;
STOPPING=1 only when the service stops. Only the main process is listened to (``NotifyAccess=main``).
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from gunicorn_hot import holder


class Phase(Enum):
    STARTING = ""
    READY = "READY=1"
    #: systemd 253 and later want to know since when.
    RELOADING = "RELOADING=1\nMONOTONIC_USEC={usec}"
    STOPPING = "STOPPING=1"


class Spokesman(Protocol):
    """Another process, which is the main one, and says what it is asked to say."""

    def notify(self, state: str) -> None: ...


class Manager:
    """The service manager, as this process sees it; one without an address hears nothing."""

    VARIABLE = "NOTIFY_SOCKET"

    def __init__(self, address: str | None) -> None:
        self.address = address
        self._phase = Phase.STARTING
        self._status = ""

    def tell(self, phase: Phase, status: str, now: float, spokesman: Spokesman | None = None) -> None:
        """Say what has changed since the last time. `now` is on the monotonic clock, in seconds."""
        if self.address is None:
            return
        state = self.news(phase, status, now)
        if not state:
            return
        if spokesman is not None:
            spokesman.notify(state)
        else:
            self.send(state)

    def news(self, phase: Phase, status: str, now: float) -> str:
        """Return the message about what has changed since the last call, or an empty one. Pure but for that memory."""
        lines = []
        if phase is not self._phase:
            self._phase = phase
            if phase.value:
                lines.append(phase.value.format(usec=int(now * 1_000_000)))
        if status != self._status:
            self._status = status
            lines.append(f"STATUS={' '.join(status.split())}")
        return "\n".join(lines)

    def send(self, state: str) -> None:
        """Send a message as it is. Nobody who does not listen, or not now, holds us up."""
        if self.address is None:
            return
        try:
            holder.notify(self.address, state)
        except OSError:
            pass
