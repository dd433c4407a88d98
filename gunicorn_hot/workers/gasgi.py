"""The hot twin of gunicorn's asgi worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gunicorn
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers.gasgi import ASGIWorker as StockASGIWorker

from gunicorn_hot.app import GENERATION_KEY, generation
from gunicorn_hot.link import IN_FLIGHT
from gunicorn_hot.workers import sent
from gunicorn_hot.workers.aio import AioWorker
from gunicorn_hot.workers.closing import last
from gunicorn_hot.workers.lifespan import Lifespan
from gunicorn_hot.workers.numbering import numbered_asgi
from gunicorn_hot.workers.pipeline import Ahead, hidden, waiting

_SERVICE_RESTART = 1012
#: From 27 on gunicorn's protocol announces an end that it knows of.
_ANNOUNCES = hasattr(ASGIProtocol, "_will_close")
#: Until then it forgets what has come behind a request.
_PIPELINES = gunicorn.version_info >= (27,)


class _Protocol(ASGIProtocol):
    """Tells the worker of connections. Here a Python call for each request would be seen in a benchmark, so this class
    has but one, where a request's scope is made, and what is only wanted from the pause on is in the next one (gunicorn
    25.3 to 27)."""

    # Beside the attributes of gunicorn's class, which are as many as the dictionary of an instance holds in its size.
    __slots__ = ("quiet_since", "since")

    worker: ASGIWorker
    #: When the application was called for the request that is, or was last, answered; 0.0: for none.
    since: float
    #: While paused: since when nothing has come; None: unknown, or something has.
    quiet_since: float | None

    if TYPE_CHECKING:
        _request_ready: Any
        _current_request: Any
        _callback_parser: Any
        _reading_paused: bool
        _closed: bool
        transport: Any

    def connection_made(self, transport: Any) -> None:
        self.since, self.quiet_since = 0.0, None
        worker = self.worker
        worker.connections.add(self)
        ASGIProtocol.connection_made(self, transport)
        if not worker.drain.accepting:
            self.pause()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.worker.connections.discard(self)
        self.worker.on_connection_lost(self, exc)

    def _build_http_scope(self, request: Any, sockname: Any, peername: Any) -> dict[str, Any]:
        self.since = time.monotonic()
        scope: dict[str, Any] = ASGIProtocol._build_http_scope(  # type: ignore[attr-defined]
            self, request, sockname, peername)
        scope[GENERATION_KEY] = self.worker.generation_number
        return scope

    def _build_websocket_scope(self, *args: Any) -> dict[str, Any]:
        self.since = time.monotonic()
        return {**super()._build_websocket_scope(*args), GENERATION_KEY: generation()}  # type: ignore[misc]

    def _build_http2_scope(self, *args: Any) -> dict[str, Any]:
        return {**super()._build_http2_scope(*args), GENERATION_KEY: generation()}  # type: ignore[misc]

    def pause(self) -> None:
        self.__class__ = _PausedProtocol
        self.quiet_since = None if self.request_under_way() else time.monotonic()
        # uvloop keeps the method that it calls.
        self.transport.set_protocol(self)

    def _keepalive_timeout(self) -> None:
        # The next request may have been read in this turn of the loop: gunicorn's task, which stops the timer, is next.
        if not self._request_ready.is_set():
            super()._keepalive_timeout()  # type: ignore[misc]

    @property
    def http2(self) -> Any:
        """What speaks HTTP/2 on it, if anything does."""
        return getattr(self, "_h2_conn", None)

    # Asked for only where there is an access log. gunicorn has no environ here but what it makes for that.

    def _build_environ(self, *args: Any) -> dict[str, Any]:
        return {**super()._build_environ(*args), GENERATION_KEY: generation()}  # type: ignore[misc]

    def _build_http2_environ(self, *args: Any) -> dict[str, Any]:
        return {**super()._build_http2_environ(*args), GENERATION_KEY: generation()}  # type: ignore[misc]

    def request_under_way(self) -> Any:
        """Return the request that is being answered, or the one that has become a websocket, or None."""
        ready = self._request_ready
        return self._current_request if ready is not None and ready.is_set() and not self._closed else None


class _PausedProtocol(_Protocol):
    """What each connection becomes with the pause, until the worker resumes: it announces its end in every response
    that is begun, or in the last of those whose requests had been received. One that has begun has said that the
    connection is kept, and so it is."""

    __slots__ = ()

    _ahead: Ahead | None = None
    #: Whether a part of a request's head has come.
    _is_begun = False

    def data_received(self, data: bytes) -> None:
        self.quiet_since = None
        if self._ahead is not None:
            self._ahead.read(len(data))
        super().data_received(data)

    def _feed_callback_parser(self, data: bytes) -> Any:
        # gunicorn gives what has come behind a request to the parser once more when that is answered.
        if self.request_under_way() is None:
            self._is_begun = True
            self._cancel_keepalive_timer()  # type: ignore[attr-defined]
        return super()._feed_callback_parser(data)  # type: ignore[misc]

    def _on_headers_complete(self) -> Any:
        self._is_begun = False
        return super()._on_headers_complete()  # type: ignore[misc]

    def _arm_keepalive_timer(self) -> None:
        # gunicorn 27 takes a connection for idle on which a request has begun to come behind another one.
        if not self._is_begun:
            self.quiet_since = time.monotonic()
            super()._arm_keepalive_timer()  # type: ignore[misc]

    def resume(self) -> None:
        self._is_begun = False
        self.__class__ = _Protocol  # type: ignore[assignment]
        self._ahead = None
        self.transport.set_protocol(self)

    def _has_more(self) -> bool:
        """Whether a request behind this one had been received when this was first asked; asked once for each."""
        parser = self._callback_parser
        if not _PIPELINES or parser is None or not parser.is_complete:
            return False
        held, there = len(parser.remaining()), waiting(self.transport.get_extra_info("socket"))
        if not held + there:
            return False
        if self._ahead is None:
            self._ahead = Ahead()
        return self._ahead.has_more(held, there, hidden(self.transport, self._reading_paused))

    def _send_response_start(self, status: int, headers: Any, request: Any, **kwargs: Any) -> None:
        if not kwargs.get("close") and self._has_more():
            super()._send_response_start(status, headers, request, **kwargs)  # type: ignore[misc]
            return
        request.must_close = True
        if _ANNOUNCES:
            # Once somebody has read them, gunicorn asks the request again when its response has ended.
            _ = request.headers
            kwargs["close"] = True
        super()._send_response_start(status, last(headers), request, **kwargs)  # type: ignore[misc]


class ASGIWorker(AioWorker, StockASGIWorker):
    __slots__ = ("generation_number",)

    asgi: Any
    state: dict[str, Any]
    #: Of the generation: the value of a call that a request need not make.
    generation_number: int

    def make_loop(self) -> Any:
        return self.loop  # made by gunicorn's init_process

    def prepare(self) -> None:
        self.generation_number = generation()
        if "h2" in self.cfg.http_protocols:
            from gunicorn_hot.workers import http2_async

            http2_async.use()

    def make_lifespan(self) -> Lifespan:
        asgi = {"version": "3.0", "spec_version": "2.4"}
        # The protocols number their scopes; the lifespan and the check do not.
        application = numbered_asgi(self.asgi, self.generation_number)
        return Lifespan(application, getattr(self.cfg, "asgi_lifespan", "auto"), asgi, self.state)

    def root_path(self) -> str:
        return getattr(self.cfg, "root_path", "") or ""

    def make_tls(self) -> Any:
        return self._get_ssl_context()  # type: ignore[attr-defined]

    def protocol_factory(self) -> Callable[[], Any]:
        return partial(_Protocol, self)

    def _follow(self) -> None:
        accepting = self.drain.accepting
        for connection in self.connections:
            if (connection.__class__ is _Protocol) != accepting:
                connection.resume() if accepting else connection.pause()
            if connection.http2 is not None:
                connection.http2.stay() if accepting else connection.http2.leave()
        super()._follow()

    # --- connections and requests

    def keep_alive(self) -> float:
        return float(self.cfg.keepalive)

    def idle_since(self, connection: Any) -> float | None:
        # Also of those with a timer: that of gunicorn 25 and 26 is stopped as soon as it has been started.
        if connection.http2 is not None:
            return connection.http2.idle_since()  # type: ignore[no-any-return]
        # uWSGI's protocol and websockets have no such parser, and their own ideas of being idle.
        if connection._callback_parser is None or connection.request_under_way() is not None:
            return None
        since: float | None = connection.quiet_since
        return since

    def has_asked(self, connection: Any) -> bool:
        # HTTP/2 is idle only until its client's first stream.
        return connection.http2 is None and connection.since > 0

    def close_idle(self, connection: Any) -> None:
        if connection.http2 is not None:
            connection.http2.dismiss()
            return
        connection._close_transport()
        if connection._request_ready is not None:
            connection._request_ready.set()

    def under_way(self) -> list[tuple[Any, ...]]:
        return [
            (request.method, request.uri, began, *sent.on_connection(connection.transport))
            for connection, request, began in self._begun()
        ]

    def _begun(self) -> list[tuple[Any, Any, float]]:
        found: list[tuple[Any, Any, float]] = []
        for connection in list(self.connections):
            if connection.http2 is not None:
                found += [(connection, request, began) for request, began in connection.http2.begun.values()]
            elif (request := connection.request_under_way()) is not None:
                found.append((connection, request, connection.since or time.monotonic()))
        return found

    def show_in_flight(self) -> None:
        self.board[IN_FLIGHT] = min(len(self._begun()), 255)

    def restart_websocket(self, connection: Any) -> bool:
        websocket = connection._websocket
        if websocket is None:
            return False
        connection._task.add_done_callback(self._on_done)
        self.loop.create_task(_restart(websocket, connection.transport))
        return True

    def has_left(self, connection: Any) -> bool:
        return super().has_left(connection) and connection._task.done()


async def _restart(websocket: Any, transport: Any) -> None:
    websocket.close_code = _SERVICE_RESTART
    if websocket.accepted and not websocket.closed:
        await websocket._send_close(_SERVICE_RESTART, "Service Restart")
    # gunicorn 25 does not say it to the application.
    websocket._receive_queue.put_nowait({"type": "websocket.disconnect", "code": _SERVICE_RESTART})
    transport.close()
