"""What makes hot twins of uvicorn's workers for gunicorn, wherever they are found: see uvicorn.py."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from random import randint
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.utils import get_path_with_query_string
from uvicorn.server import ServerState

from gunicorn_hot.app import generation
from gunicorn_hot.link import IN_FLIGHT
from gunicorn_hot.workers import sent
from gunicorn_hot.workers.aio import AioWorker
from gunicorn_hot.workers.lifespan import Lifespan
from gunicorn_hot.workers.numbering import numbered_asgi
from gunicorn_hot.workers.uvicorn_idle import Timed, is_known
from gunicorn_hot.workers.uvicorn_leaving import Headers, LastHeaders, counting, mixin

if TYPE_CHECKING:
    _Mixin = asyncio.Protocol
else:
    _Mixin = object


def _http(base: Any, worker: UvicornMixin) -> Any:
    """Return a subclass of the protocol class that uvicorn was told to use."""
    namespace: dict[str, Any] = {"worker": worker}
    if _speaks_http2(base):
        return type("Http2", (_Connection, base), namespace)
    timed = (Timed,) if is_known(base) else ()
    noted = _Noted if hasattr(base, "_unset_keepalive_if_required") else _NotedByData
    # CPython lays out a class's attributes by those that its first objects have. One more, when there are several
    # connections, would find no place, and each of them would get a dictionary of its own, which is slower. The slots
    # are not the mixins' because a protocol class may have some, too.
    namespace["__slots__"] = ("since", *(name for c in timed for name in c.SLOTS))
    http: Any = type("Http", (mixin(base), *timed, noted, base), namespace)
    http.counting = counting(http)
    return http


def _speaks_http2(protocol: Any) -> bool:
    return bool(getattr(protocol, "alpn_protocols", None))


class _Connection(_Mixin):
    worker: UvicornMixin
    #: When the request came that is, or was last, answered; None: nothing has come yet.
    since: float | None = 0.0

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.worker.on_connection_lost(self, exc)


class _Http(_Connection):
    """Mixed into a protocol class for HTTP/1.1: knows when its request has come."""

    def connection_made(self, transport: Any) -> None:
        self.since = None
        super().connection_made(transport)


class _Noted(_Http):
    """Without a call more for each piece of data, which would be seen in a benchmark: where uvicorn stops the timer of
    an idle connection."""

    if TYPE_CHECKING:
        timeout_keep_alive_task: Any

    # Called for each piece of data, and after each response.
    def _unset_keepalive_if_required(self) -> None:
        if self.since is None or self.timeout_keep_alive_task is not None:
            self.since = time.monotonic()
        super()._unset_keepalive_if_required()  # type: ignore[misc]


class _NotedByData(_Http):
    """For a class that has no such timer."""

    if TYPE_CHECKING:
        cycle: Any

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.since = time.monotonic()
        super().data_received(data)


class _Websocket(_Connection):
    """Mixed into the websocket protocol class, which takes a connection over from one of the other kind."""

    def connection_made(self, transport: Any) -> None:
        self.since = time.monotonic()
        super().connection_made(transport)


class _Tasks(set[Any]):
    """uvicorn's tasks, one for each request and each websocket."""

    worker: UvicornMixin


class _WatchedTasks(_Tasks):
    """What they become when it matters that one ends."""

    def discard(self, task: Any) -> None:
        # Tasks call this that began while it was watched, and end when it is not any more.
        set.discard(self, task)
        self.worker.on_task_done()


class UvicornMixin(AioWorker):
    """Mixed into uvicorn's worker, or a subclass of it.

    What uvicorn's own `Server` does is done here: it accepts without asking, and its shutdown closes idle connections
    at once. The configuration, the protocols and the loop are uvicorn's, and so is CONFIG_KWARGS."""

    # For the reason that the base has.
    __slots__ = (
        "_dated", "_headers", "_is_limited", "_notified", "_notifying", "_protocol", "_state", "_tasks",
        "_websocket_headers", "_websocket_state", "server_state",
    )

    #: uvicorn's, made in the master from gunicorn's settings and CONFIG_KWARGS.
    config: Any
    callback_notify: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        limit = self.config.limit_max_requests
        if limit is not None and limit != self.max_requests:  # CONFIG_KWARGS wins over gunicorn's max_requests
            self.max_requests = limit + randint(0, getattr(self.config, "limit_max_requests_jitter", 0))
        self._is_limited = self.max_requests != sys.maxsize
        self.server_state = ServerState()
        self._websocket_state = ServerState()
        #: Sent with each response.
        self._headers = Headers()
        self._websocket_headers: list[tuple[bytes, bytes]] = []
        self._tasks = _Tasks()
        self._tasks.worker = self
        self._state: dict[str, Any] = {}
        self._dated = self._notified = 0.0

    # --- booting

    def make_loop(self) -> Any:
        factory = self.config.get_loop_factory()
        return asyncio.new_event_loop() if factory is None else factory()

    def prepare(self) -> None:
        config = self.config
        config.app = self.wsgi
        config.load()
        config.loaded_app = numbered_asgi(config.loaded_app, generation())
        for state in self.server_state, self._websocket_state:
            state.connections = self.connections
            state.tasks = self._tasks
        self.server_state.default_headers = self._headers
        self._websocket_state.default_headers = self._websocket_headers
        protocol: Any = config.http_protocol_class
        if _speaks_http2(protocol):
            self._headers.say_close = False
        self._protocol = _http(protocol, self)
        if config.ws_protocol_class is not None:
            websocket = type("Websocket", (_Websocket, config.ws_protocol_class), {"worker": self})

            def make(config: Any, server_state: Any, app_state: Any) -> Any:
                return websocket(config=config, server_state=self._websocket_state, app_state=app_state)

            config.ws_protocol_class = make
        self.on_tick()

    def make_lifespan(self) -> Lifespan:
        config = self.config
        asgi = {"version": config.asgi_version, "spec_version": "2.0"}
        mode = "off" if config.interface == "wsgi" else config.lifespan
        return Lifespan(config.loaded_app, mode, asgi, self._state)

    def root_path(self) -> str:
        return str(self.config.root_path)

    def make_tls(self) -> Any:
        return self.config.ssl

    def protocol_factory(self) -> Callable[[], Any]:
        protocol = self._protocol
        loop = protocol.loop_for(self.loop, self.keep_alive()) if issubclass(protocol, Timed) else self.loop
        return partial(
            protocol, config=self.config, server_state=self.server_state, app_state=self._state, _loop=loop
        )

    # --- once a second

    def on_tick(self) -> None:
        config = self.config
        now = time.time()
        if now - self._dated >= 1:
            self._dated = now
            date = [(b"date", formatdate(now, usegmt=True).encode())] if config.date_header else []
            self._headers[:] = self._websocket_headers[:] = date + config.encoded_headers
        notify = config.callback_notify
        if notify is not None and notify != self.callback_notify and now - self._notified > config.timeout_notify:
            self._notified = now
            self._notifying = self.loop.create_task(notify())
        if self._is_limited and self.alive and self.server_state.total_requests >= self.max_requests:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False

    def _follow(self) -> None:
        self._headers.__class__ = Headers if self.drain.accepting else LastHeaders
        if self.drain.accepting:
            for connection in self.connections:
                if getattr(connection, "ahead", None) is not None:
                    connection.forget()
        if self.drain.accepting and not self._is_limited:
            self._tasks.__class__ = _Tasks
        elif not isinstance(self._tasks, _WatchedTasks):
            self._tasks.__class__ = _WatchedTasks
            for task in self._tasks:
                task.add_done_callback(self.on_task_done)
        super()._follow()

    # --- connections and requests

    def keep_alive(self) -> float:
        return float(self.config.timeout_keep_alive)

    def idle_since(self, connection: Any) -> float | None:
        # A connection that was kept has a timer; one on which nothing has ever come has none.
        return self.drains_since if connection.since is None else None

    def close_idle(self, connection: Any) -> None:
        connection.shutdown()

    def stop_connection(self, connection: Any) -> None:
        connection.shutdown()

    def restart_websocket(self, connection: Any) -> bool:
        is_websocket = isinstance(connection, _Websocket)
        if is_websocket:
            connection.shutdown()  # with 1012
        return is_websocket

    def abandon(self, connection: Any) -> None:
        # uvicorn answers a request whose task is cancelled with 500, as if the application were to blame.
        cycle = getattr(connection, "cycle", None)
        if cycle is not None and not cycle.response_complete:
            connection.transport.abort()

    def is_idle(self) -> bool:
        return not self._tasks

    def on_task_done(self, _task: Any = None) -> None:
        # With `max_requests` the tasks are watched in steady state too.
        if self.drain.accepting and self.alive and self.server_state.total_requests < self.max_requests:
            return
        self.show_in_flight()
        self._on_done(None)

    def show_in_flight(self) -> None:
        self.board[IN_FLIGHT] = min(len(self._tasks), 255)

    def under_way(self) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for connection in list(self.connections):
            cycle = getattr(connection, "cycle", None)
            if isinstance(connection, _Websocket) or (cycle is not None and not cycle.response_complete):
                # None: a websocket in its handshake.
                scope: Any = getattr(connection if cycle is None else cycle, "scope", None)
                path = get_path_with_query_string(scope) if scope else "?"
                method = scope.get("method", "GET") if scope else "GET"
                found.append((method, path, connection.since, *sent.on_connection(connection.transport)))
        return found
