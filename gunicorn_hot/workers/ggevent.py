"""The hot twin of gunicorn's gevent worker: a greenlet per connection."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.http.wsgi import base_environ
from gunicorn.sock import ssl_context
from gunicorn.workers import base, ggevent

from gunicorn_hot.link import ACCEPTING
from gunicorn_hot.listeners import is_listening
from gunicorn_hot.workers.base import HotWorker

_TICK = 1.0


class _Asking:
    """Mixed into a server's class: asks the worker before each accept."""

    worker: GeventWorker

    def do_read(self) -> Any:
        worker = self.worker
        board = worker.board
        board[ACCEPTING] = 1
        try:
            if worker.alive and worker.may_accept():
                return super().do_read()  # type: ignore[misc]
        finally:
            board[ACCEPTING] = 0
        # A pool that gets room starts to accept again by itself, and a readable listener would then spin.
        self.stop_accepting()  # type: ignore[attr-defined]
        return None


class _Server(_Asking, StreamServer):
    pass


class _Noted:
    """Mixed into a handler's class of `gevent.pywsgi`, which reads its requests itself: the worker hears of them.

    To the worker the handler is the request that it is handling."""

    worker: GeventWorker
    should_close: Any = None

    if TYPE_CHECKING:
        code: int
        response_length: int
        close_connection: bool
        response_headers: list[tuple[bytes, bytes]]

    def handle_one_response(self) -> None:
        entry = self.worker.begin_request(self)
        try:
            super().handle_one_response()  # type: ignore[misc]
        finally:
            self.worker.end_request(entry)
            self.should_close = None

    def finalize_headers(self) -> None:
        if self.code != 101 and self.should_close is not None and self.should_close():
            self.close_connection = True
            others = [header for header in self.response_headers if header[0].lower() != b"connection"]
            self.response_headers = [*others, (b"Connection", b"close")]
        super().finalize_headers()  # type: ignore[misc]

    @property
    def method(self) -> Any:
        return self.command  # type: ignore[attr-defined]

    @property
    def uri(self) -> Any:
        return self.path  # type: ignore[attr-defined]


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
        if self.server_class is not None:
            return self._pywsgi_server(listener, pool, ssl_args)
        server = _Server(listener, handle=partial(self.handle, listener), spawn=pool, **ssl_args)
        server.worker = self
        if self.cfg.workers > 1:
            server.max_accept = 1
        return server

    def _pywsgi_server(self, listener: Any, pool: Any, ssl_args: dict[str, Any]) -> Any:
        """The same for a subclass with a server of its own (`gevent_pywsgi`, gevent-websocket)."""
        mine = {"worker": self}
        server_class: Any = self.server_class
        handler_class: Any = self.wsgi_handler or server_class.handler_class
        server = type("Server", (_Asking, server_class), mine)(
            listener,
            application=self.wsgi,
            spawn=pool,
            log=self.log,
            handler_class=type("Handler", (_Noted, handler_class), mine),
            environ={**base_environ(self.cfg), "wsgi.multithread": True, "SERVER_SOFTWARE": ggevent.VERSION},
            **ssl_args,
        )
        return server

    def bytes_sent(self, requests: list[Any]) -> dict[int, int]:
        # gevent counts the head, too.
        noted = {id(handler): handler.response_length for handler in requests if isinstance(handler, _Noted)}
        return {**super().bytes_sent(requests), **noted}

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
