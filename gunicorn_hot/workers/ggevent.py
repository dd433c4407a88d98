"""The hot twin of gunicorn's gevent worker: a greenlet per connection."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.sock import ssl_context
from gunicorn.workers import base, ggevent

from gunicorn_hot.link import ACCEPTING
from gunicorn_hot.listeners import is_listening
from gunicorn_hot.workers.base import HotWorker

_TICK = 1.0


class _Server(StreamServer):
    """Asks the worker before each accept."""

    worker: GeventWorker

    def do_read(self) -> Any:
        worker = self.worker
        board = worker.board
        board[ACCEPTING] = 1
        try:
            if worker.alive and worker.may_accept():
                return super().do_read()
        finally:
            board[ACCEPTING] = 0
        # A pool that gets room starts to accept again by itself, and a readable listener would then spin.
        self.stop_accepting()
        return None


class _Pool(Pool):
    """Tells a draining worker that a connection has ended."""

    worker: GeventWorker

    def _discard(self, greenlet: Any) -> None:
        super()._discard(greenlet)  # type: ignore[misc]
        if not self.worker.drain.accepting:
            self.worker.changed.set()


class GeventWorker(HotWorker, ggevent.GeventWorker):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._servers: list[Any] = []
        self._link_watcher: Any = None

    def run(self) -> None:
        #: Something has happened that the main greenlet should look at.
        self.changed = Event()
        if not self.pass_gate():
            return
        loop = gevent.get_hub().loop
        # Signals write into PIPE: watched, they are noticed at once, and not at the next tick.
        signals = loop.io(self.PIPE[0], 1)
        signals.start(self._on_signal)
        link = self.link.worker_end
        if not link.closed:
            self._link_watcher = loop.io(link.fileno(), 1)
            self._link_watcher.start(self._on_link)
        for listener in self.sockets:
            listener.setblocking(True)
            server = self._server(listener)
            self._servers.append(server)
            server.start()
        while self.alive and not self.drain.done(self._connections()):
            self.notify()
            now = time.monotonic()
            if self.drain.overdue(now):
                break
            self.changed.clear()
            self.changed.wait(self.drain.wait(now, _TICK))
        # Not closed yet: a connection that was just accepted still asks its listener for a name.
        for server in self._servers:
            server.stop_accepting()
        if not self.alive:
            self._finish(self.cfg.graceful_timeout)
        if self._connections():
            self.report_cut()

    def close_listeners(self) -> None:
        """Left to the exit: a greenlet asks its listener for a name as late as after a TLS handshake."""

    def _server(self, listener: Any) -> Any:
        """As gunicorn's worker makes it, but for the class that accepts (gunicorn 25.3 to 27)."""
        pool = _Pool(self.worker_connections)
        pool.worker = self
        ssl_args: dict[str, Any] = {"ssl_context": ssl_context(self.cfg)} if self.cfg.is_ssl else {}
        server = _Server(listener, handle=partial(self.handle, listener), spawn=pool, **ssl_args)
        server.worker = self
        if self.cfg.workers > 1:
            server.max_accept = 1
        return server

    def _connections(self) -> int:
        return sum(len(server.pool) for server in self._servers)

    def _finish(self, timeout: float) -> None:
        """Wait for the open connections, as long as a SIGTERM's grace lasts."""
        deadline = time.monotonic() + timeout
        while self._connections() and (left := deadline - time.monotonic()) > 0:
            self.notify()
            self.changed.clear()
            self.changed.wait(min(left, _TICK))

    def _on_signal(self) -> None:
        os.read(self.PIPE[0], 4096)
        self.changed.set()

    def _on_link(self) -> None:
        self.read_link()

    def on_phase(self) -> None:
        self.changed.set()
        if self.link.worker_end.closed and self._link_watcher is not None:
            self._link_watcher.stop()
            self._link_watcher = None
        for server in self._servers:
            if self.drain.accepting and is_listening(server.socket):
                server.start_accepting()
            else:
                server.stop_accepting()

    def notify(self) -> None:
        # gunicorn's leaves at once when its parent has changed, and cuts what is in flight.
        base.Worker.notify(self)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        entry = self.begin_request(req)
        try:
            return super().handle_request(listener_name, req, sock, addr)
        finally:
            self.end_request(entry)
