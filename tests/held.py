"""A service whose pid stays: the test harness where hot_pid is "stable"."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from server import Service, title, until, wait_gone


class Held(Service):
    """A service whose pid stays."""

    #: The service's.
    pid = 0

    def configure(self, *lines: str, **settings: Any) -> None:
        super().configure(*lines, **{"hot_pid": "stable", **settings})

    def start(self, *args: Any, **options: Any) -> None:
        super().start(*args, **options)
        self.pid = self.master

    def begin_upgrade(self) -> int:
        """Send SIGUSR2 to the service's pid; returns the pid of the successor."""
        mark = self.mark()
        self.signal(signal.SIGUSR2, self.pid)
        return int(self.wait_log(r"Upgrade: booting successor with pid: (\d+)", after=mark)[0][1])

    def upgrade(self, release: str | None = None) -> int:
        """Put the release on the disk, send SIGUSR2 to the service's pid, and wait until the old master has left."""
        if release is not None:
            self.release(release)
        mark, old = self.mark(), self.master
        new = self.begin_upgrade()
        assert self.wait_log(r"Upgrade: done|Upgrade failed.*", after=mark)[0][0] == "Upgrade: done"
        if old != self.pid:
            wait_gone(old)
        self.wait_held(new)
        return new

    def wait_held(self, master: int) -> None:
        """Wait until the service's pid is the holder's, for this master."""
        until(lambda: f" for master {master}, generation " in title(self.pid), f"a holder for {master}")
        self.master = master

    def ended(self) -> int:
        """Wait until nothing is left; returns the code with which the service's pid has ended."""
        until(self.is_empty, "the end of all processes")
        assert self._popen is not None
        return self._popen.wait()


#: For tests of what must be the same whether the pid stays or not.
EITHER_PID = [pytest.param(Service, id="follow"), pytest.param(Held, id="stable")]


def either(request: pytest.FixtureRequest, folder: Path, env: dict[str, str]) -> Service:
    """Return the service for one of EITHER_PID."""
    made: Service = request.param(folder, env)
    return made
