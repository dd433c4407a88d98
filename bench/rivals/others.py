"""Servers for Python that pip can install."""

from __future__ import annotations

import os
import signal
from typing import ClassVar

from bench.rivals.base import Rival, beside_python, installed


class Uwsgi(Rival):
    """By its master's fifo, as its manual has it. It closes each connection after one answer, and says so here."""

    order: ClassVar[str]
    more: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def version(cls) -> str | None:
        return installed("uwsgi") if beside_python("uwsgi") else None

    def command(self) -> list[str]:
        return [
            str(beside_python("uwsgi")), "--master", "--http-socket", self.address, "--need-app",
            "--processes", str(self.workers), "--threads", str(self.threads), "--enable-threads",
            "--master-fifo", "fifo", "--wsgi", "bench.apps.release:app", "--add-header", "Connection: close",
            "--die-on-term", "--disable-logging", *self.more,
        ]

    def upgrade(self) -> None:
        # Not to wait for a reader: a master that hangs in the import of a release has none.
        fifo = os.open(self.folder / "fifo", os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(fifo, self.order.encode())
        finally:
            os.close(fifo)


class UwsgiGraceful(Uwsgi):
    name = "uwsgi-reload"
    title = "uWSGI: graceful reload"
    order = "r"


class UwsgiChain(Uwsgi):
    name = "uwsgi-chain"
    title = "uWSGI: chain reload, lazy-apps"
    order = "c"
    more = ("--lazy-apps",)


class Granian(Rival):
    name = "granian"
    title = "granian: SIGHUP"

    @classmethod
    def version(cls) -> str | None:
        return installed("granian") if beside_python("granian") else None

    def command(self) -> list[str]:
        return [
            str(beside_python("granian")), "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(self.port),
            "--workers", str(self.workers), "--blocking-threads", str(self.threads), "bench.apps.release:app",
        ]

    def upgrade(self) -> None:
        self.signal(signal.SIGHUP)


class Uvicorn(Rival):
    name = "uvicorn"
    title = "uvicorn --workers: SIGHUP"

    @classmethod
    def version(cls) -> str | None:
        return installed("uvicorn") if beside_python("uvicorn") else None

    def command(self) -> list[str]:
        return [
            str(beside_python("uvicorn")), "--host", "127.0.0.1", "--port", str(self.port),
            "--workers", str(self.workers), "--no-access-log", "bench.apps.release:asgi_app",
        ]

    def upgrade(self) -> None:
        self.signal(signal.SIGHUP)
