"""The hot twin of gunicorn's gevent worker: a greenlet per connection."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import gevent
from gevent import socket
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.http.wsgi import base_environ
from gunicorn.sock import ssl_context
from gunicorn.workers import base, ggevent

from gunicorn_hot import app
from gunicorn_hot.app import GENERATION_KEY, generation
from gunicorn_hot.link import ACCEPTING
from gunicorn_hot.listeners import is_listening
from gunicorn_hot.workers import linger
from gunicorn_hot.workers.base import HotWorker
from gunicorn_hot.workers.gevent_client import Client, TLSClient, Wait, at_most

_TICK = 1.0
#: s, beyond the keep-alive timeout: for a client's TLS handshake, or its first byte. As gunicorn's gthread has it.
_FIRST_BYTE = 5.0
#: s, at the end of a drain: for what crosses the end of an idle connection.
_LAST_LINGER = 0.1


class _Asking:
    """Mixed into a server's class: asks the worker before each accept."""

    worker: GeventWorker

    def do_read(self) -> Any:
        worker = self.worker
        board = worker.board
        board[ACCEPTING] = 1
        try:
            if worker.alive and worker.may_accept():
                return self.take()
        finally:
            board[ACCEPTING] = 0
        # A pool that gets room starts to accept again by itself, and a readable listener would then spin.
        self.stop_accepting()  # type: ignore[attr-defined]
        return None

    def take(self) -> Any:
        """Accept a connection; returns its socket and address, or None."""
        return super().do_read()  # type: ignore[misc]


class _Server(_Asking, StreamServer):
    def take(self) -> Any:
        """As gevent does it, but for the class of the client's socket (gevent 24.10 to 26)."""
        listener: Any = self.socket
        try:
            fd, address = listener._accept()
        except BlockingIOError:
            return None
        return Client(listener.family, listener.type, listener.proto, fileno=fd), address

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> Any:
        # gevent waits for a client's handshake for ever, and a drain would with it.
        server: Any = self
        with server.wrap_socket(client_socket, do_handshake_on_connect=False, **server.ssl_args) as client:
            shaken = False
            with at_most(_FIRST_BYTE + self.worker.cfg.keepalive):
                client.do_handshake()
                shaken = True
            return self.handle(client, address) if shaken else None


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
        Client.worker = self
        if "h2" in self.cfg.http_protocols:
            from gunicorn_hot.workers import http2

            http2.use()
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
                self._end_idle()
                break
            self.changed.clear()
            if self.drain.draining:
                self.begin_to_leave()
            if not self.drain.accepting:
                self._tell_idle()
            if self.drain.draining and not self.cfg.keepalive:
                self._end_silent()
            self.changed.wait(self.drain.wait(time.monotonic(), _TICK))
        self.begin_to_leave()
        # Not closed yet: a connection that was just accepted still asks its listener for a name.
        for server in self._servers:
            server.stop_accepting()
        if not self.alive:
            self._finish(self.cfg.graceful_timeout)
        if self._connections():
            self.report_cut()

    def begin_to_leave(self) -> None:
        if gevent.getcurrent() is gevent.get_hub():
            # The link is read here, and nothing may wait: the hook is the main greenlet's.
            app.announce()
            self.changed.set()
        else:
            super().begin_to_leave()

    def close_listeners(self) -> None:
        """Left to the exit: a greenlet asks its listener for a name as late as after a TLS handshake."""

    def _server(self, listener: Any) -> Any:
        """As gunicorn's worker makes it, but for the class that accepts (gunicorn 25.3 to 27)."""
        pool = _Pool(self.worker_connections)
        pool.worker = self
        ssl_args: dict[str, Any] = {}
        if self.cfg.is_ssl:
            context = ssl_args["ssl_context"] = ssl_context(self.cfg)
            context.sslsocket_class = TLSClient
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
            environ={
                **base_environ(self.cfg),
                "wsgi.multithread": True,
                "SERVER_SOFTWARE": ggevent.VERSION,
                GENERATION_KEY: generation(),
            },
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

    def _end_idle(self) -> None:
        """The drain is over: end the connections that are idle politely, and give them a moment for that."""
        ended = []
        for server in self._servers:
            for greenlet in server.pool:
                wait = getattr(greenlet, "hot_wait", None)
                if wait is not None and not wait.is_under_way:
                    wait.end()
                    ended.append(greenlet)
        gevent.joinall(ended, timeout=_LAST_LINGER)

    def _tell_idle(self) -> None:
        """End the idle HTTP/2 connections: with their word for that, it harms no request."""
        for server in self._servers:
            for greenlet in server.pool:
                client = getattr(greenlet, "hot_client", None)
                connection = getattr(client, "http2", None)
                if connection is None or not connection.is_idle:
                    continue
                if connection.may_be_dismissed():
                    gevent.spawn(self._dismiss, connection, client, greenlet)
                elif connection.is_fresh and not connection.is_timed:
                    # gunicorn before 27 has no end for it.
                    connection.is_timed = True
                    gevent.spawn_later(self.cfg.keepalive, self._dismiss_fresh, connection, client, greenlet)

    def _dismiss_fresh(self, connection: Any, client: Any, reader: Any) -> None:
        if connection.is_fresh and connection.is_idle and not self.drain.accepting:
            self._dismiss(connection, client, reader)

    def _dismiss(self, connection: Any, client: Any, reader: Any) -> None:
        connection.say_goaway()
        reader.join(linger.SECONDS)     # it ends when the client closes
        try:
            # Ends also the wait of the greenlet that reads from it.
            socket.socket.shutdown(client, socket.SHUT_RDWR)
        except OSError:
            pass  # the client was quicker

    def handle_quit(self, sig: int, frame: Any) -> None:
        # The signal has woken the main greenlet.
        if not self.end_drain_now():
            super().handle_quit(sig, frame)

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

    def _end_silent(self) -> None:
        """Without keep-alive gunicorn waits for a first byte as long as it takes; a drain does not."""
        late = time.monotonic() - _FIRST_BYTE
        for server in self._servers:
            for greenlet in server.pool:
                client = getattr(greenlet, "hot_client", None)
                if client is not None and not client.heard and greenlet.hot_since < late:
                    # Its reader takes it for the client's end.
                    socket.socket.shutdown(client, socket.SHUT_RD)

    def timeout_ctx(self) -> Any:
        greenlet = gevent.getcurrent()
        return Wait(self, greenlet, greenlet.hot_client)  # type: ignore[attr-defined]

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        greenlet: Any = gevent.getcurrent()
        greenlet.hot_client = client
        greenlet.hot_since = time.monotonic()
        super().handle(listener, client, addr)

    def handle_http2(self, listener: Any, client: Any, *args: Any, **kwargs: Any) -> None:
        try:
            super().handle_http2(listener, client, *args, **kwargs)
        finally:
            if client.http2 is not None:
                client.http2.end()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        entry = self.begin_request(req)
        try:
            return super().handle_request(listener_name, req, sock, addr)
        finally:
            self.end_request(entry)
