"""gunicorn: with this plugin, and alone, in the ways in which it can be given a new release."""

from __future__ import annotations

import re
import signal
import sys
import time
from typing import Any, ClassVar

import gunicorn_hot
from bench.rivals.base import Phase, Rival, installed

#: s; what a recipe waits that everybody copies.
_COPIED_SLEEP = 2.0
_LINE = re.compile(r"(\d+) (\d+) (\w+) (.*)")


class Gunicorn(Rival):
    """gthread: with a thread for each client, a wait is not for a busy worker."""

    lines: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def version(cls) -> str | None:
        return installed("gunicorn")

    def settings(self) -> dict[str, Any]:
        return {
            "bind": self.address,
            "workers": self.workers,
            "worker_class": "gthread",
            "threads": self.threads,
            "pidfile": "pid",
            "logger_class": "bench.apps.logger.Logger",
            "control_socket_disable": True,
        }

    def command(self) -> list[str]:
        lines = [*self.lines, *(f"{name} = {value!r}" for name, value in self.settings().items())]
        (self.folder / "gunicorn.conf.py").write_text("\n".join([*lines, ""]), encoding="utf-8")
        return [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "bench.apps.release:app"]

    def current(self) -> int:
        """The master that serves, as whoever wants to signal it would look it up."""
        return int((self.folder / "pid").read_text(encoding="ascii"))

    def logged(self, pattern: str, since: float) -> float | None:
        """When a line that matches was first logged, `time.monotonic()` s; None: never since then."""
        for text in (self.folder / "log").read_text(encoding="utf-8", errors="replace").splitlines():
            line = _LINE.fullmatch(text)
            if line and int(line[1]) / 1e9 >= since and re.search(pattern, line[4]):
                return int(line[1]) / 1e9
        return None


class Hot(Gunicorn):
    name = "hot"
    title = "gunicorn_hot: SIGUSR2"
    lines = ("from gunicorn_hot import on_starting",)

    @classmethod
    def version(cls) -> str | None:
        gunicorn = super().version()
        return None if gunicorn is None else f"{gunicorn_hot.__version__} on {gunicorn}"

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "hot_pid": "follow", "hot_probation": self.probation}

    def upgrade(self) -> None:
        self.signal(signal.SIGUSR2, self.current())

    def phases(self, ordered: float, gone: float) -> list[Phase]:
        ends = [
            ("the new release boots", self.logged(r"is ready after", ordered)),
            ("cut-over", self.logged(r"cut over, in probation|committed to successor", ordered)),
            ("probation", self.logged(r"committed to successor", ordered)),
            ("drain", gone),
        ]
        phases, begun = [], ordered
        for name, ended in ends:
            if ended is not None:
                phases.append(Phase(name, begun, ended))
                begun = ended
        return phases


class HotWithCheck(Hot):
    name = "hot-check"
    title = "gunicorn_hot: SIGUSR2, with hot_check"

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "hot_check": "/"}


class Hup(Gunicorn):
    name = "gunicorn-hup"
    title = "gunicorn: SIGHUP"

    def upgrade(self) -> None:
        self.signal(signal.SIGHUP, self.current())


class Usr2Sleep(Gunicorn):
    name = "gunicorn-usr2-sleep"
    title = f"gunicorn: SIGUSR2, sleep {_COPIED_SLEEP:g}, SIGTERM"

    def upgrade(self) -> None:
        old = self.current()
        self.signal(signal.SIGUSR2, old)
        time.sleep(_COPIED_SLEEP)       # not for something to happen: this is the recipe
        self._termed = time.monotonic()
        self.signal(signal.SIGTERM, old)

    def phases(self, ordered: float, gone: float) -> list[Phase]:
        return [
            Phase(f"SIGUSR2, sleep {_COPIED_SLEEP:g}", ordered, self._termed),
            Phase("SIGTERM to the old master", self._termed, max(gone, self._termed)),
        ]


class Usr2ParentKill(Gunicorn):
    name = "gunicorn-usr2-kill"
    title = "gunicorn: SIGUSR2, when_ready ends the parent"
    # As many copy it. The hook comes before the workers have loaded anything. Its master_pid is 0 in the first one.
    lines = (
        "import os, signal",
        "def when_ready(server):",
        "    if server.master_pid: os.kill(server.master_pid, signal.SIGTERM)",
    )

    def upgrade(self) -> None:
        self.signal(signal.SIGUSR2, self.current())
