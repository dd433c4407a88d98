"""The hot twin of gunicorn's asgi worker."""

from __future__ import annotations

import time
from typing import Any

from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers.gasgi import ASGIWorker as StockASGIWorker

from gunicorn_hot.drain import InFlight
from gunicorn_hot.workers.aio import AioWorker
from gunicorn_hot.workers.lifespan import Lifespan

_SERVICE_RESTART = 1012
#: From 27 on the protocol decides in `_will_close`, once, and announces what it has decided.
_ANNOUNCES = hasattr(ASGIProtocol, "_will_close")


class _Protocol(ASGIProtocol):
    """Tells the worker of connections and requests, and announces the end of a connection in every response that is
    begun from the pause on (gunicorn 25.3 to 27)."""

    worker: ASGIWorker

    def __init__(self, worker: Any) -> None:
        super().__init__(worker)
        #: Something has come since the last request ended; when that was.
        self.heard = False
        self.quiet_since = time.monotonic()
        #: The request whose response has begun.
        self._begun: Any = None

    def connection_made(self, transport: Any) -> None:
        self.worker.connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.worker.connections.discard(self)
        self.worker.on_connection_lost(self, exc)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        super().data_received(data)

    async def _handle_http_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        entry = self.worker.begin(request)
        try:
            return await super()._handle_http_request(request, *args, **kwargs)
        finally:
            self.heard = False
            self.quiet_since = time.monotonic()
            self.worker.end_request(entry)

    async def _handle_websocket(self, request: Any, *args: Any) -> None:
        entry = self.worker.begin(request)
        try:
            await super()._handle_websocket(request, *args)
        finally:
            self.worker.end_request(entry)

    def _will_close(self, request: Any, *args: Any) -> bool:
        # Asked when the response's head is written, and perhaps again at its end: both must get one answer.
        if not self.worker.drain.accepting and self._begun is not request:
            request.must_close = True
        closes: bool = super()._will_close(request, *args)
        return closes

    def _send_response_start(self, status: int, headers: Any, request: Any, **kwargs: Any) -> None:
        if not _ANNOUNCES:
            if not self.worker.drain.accepting or self.worker.nr + 1 >= self.worker.max_requests:
                request.must_close = True
            if request.should_close() and not any(_lower(name) == b"connection" for name, _ in headers):
                headers = [*headers, (b"Connection", b"close")]
        self._begun = request
        super()._send_response_start(status, headers, request, **kwargs)


def _lower(name: Any) -> bytes:
    lowered: bytes = (name.encode("latin-1") if isinstance(name, str) else name).lower()
    return lowered


class ASGIWorker(AioWorker, StockASGIWorker):
    asgi: Any
    state: dict[str, Any]

    def make_loop(self) -> Any:
        return self.loop  # made by gunicorn's init_process

    def make_lifespan(self) -> Lifespan:
        asgi = {"version": "3.0", "spec_version": "2.4"}
        return Lifespan(self.asgi, getattr(self.cfg, "asgi_lifespan", "auto"), asgi, self.state)

    def make_tls(self) -> Any:
        return self._get_ssl_context()

    def make_protocol(self) -> Any:
        return _Protocol(self)

    def begin(self, request: Any) -> InFlight:
        """As `begin_request`; this worker's requests have slots, and the protocol decides what becomes of them."""
        entry = InFlight(request, self.drain, time.monotonic())
        self.in_flight.add(entry)
        if not self.drain.accepting:
            self.show_in_flight()
        return entry

    def keep_alive(self) -> float:
        return float(self.cfg.keepalive)

    def idle_since(self, connection: Any) -> float | None:
        # Also of those with a timer: that of gunicorn 25 and 26 is stopped as soon as it has been started.
        since: float | None = None if connection.heard else connection.quiet_since
        return since

    def close_idle(self, connection: Any) -> None:
        connection._close_transport()
        if connection._request_ready is not None:
            connection._request_ready.set()

    def restart_websocket(self, connection: Any) -> bool:
        websocket = connection._websocket
        if websocket is None:
            return False
        self.loop.create_task(_restart(websocket, connection.transport))
        return True


async def _restart(websocket: Any, transport: Any) -> None:
    websocket.close_code = _SERVICE_RESTART
    if websocket.accepted and not websocket.closed:
        await websocket._send_close(_SERVICE_RESTART, "Service Restart")
    transport.close()
