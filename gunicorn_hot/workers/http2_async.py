"""HTTP/2 connections of the asgi worker in a drain: as in http2.py, which says when GOAWAY is said, and why then.

On an event loop nobody else is in the midst of a frame, so GOAWAY is written by whoever notices that it is time: the
worker at its pause, the reader of a connection, or the last stream that ends. Some of gunicorn's versions serve the
streams of a connection beside each other (27), some one after the other (25, 26).

Imported only where HTTP/2 is configured."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import gunicorn.http2.async_connection as stock
from gunicorn.http2.stream import StreamState

from gunicorn_hot.workers import base
from gunicorn_hot.workers.http2 import goaway
from gunicorn_hot.workers.pipeline import is_waiting


def use() -> None:
    """Let this process's HTTP/2 connections be ours. gunicorn 25.3 to 27 look the class up for each of them."""
    stock.AsyncHTTP2Connection = Connection  # type: ignore[misc]


class Connection(stock.AsyncHTTP2Connection):
    reader: Any
    writer: Any

    if TYPE_CHECKING:
        _handle_event: Any
        _send_pending_data: Any

    def __init__(self, cfg: Any, reader: Any, writer: Any, client_addr: Any) -> None:
        super().__init__(cfg, reader, writer, client_addr)
        self._worker: Any = base.current
        #: The requests that the application is answering, by stream, and when each began, on the monotonic clock.
        self.begun: dict[int, tuple[Any, float]] = {}
        self.made_at = time.monotonic()
        #: In a drain: the highest stream that must be answered before GOAWAY.
        self._awaited: int | None = None
        #: Whether what was received until those of the pause had been answered is being read; or is among them.
        self._reads_on = self._has_read_on = False
        #: What our GOAWAY has said.
        self._last: int | None = None

    # --- what gunicorn's protocol calls

    async def receive_data(self, timeout: float | None = None) -> list[Any]:
        if self._closed:
            return []
        if deferred := getattr(self, "_deferred_events", None):
            # gunicorn 26 looks at what it has set aside when the client says more, and only then.
            events = list(deferred)
            deferred.clear()
            requests = [request for event in events if (request := self._handle_event(event)) is not None]
            await self._send_pending_data()
        else:
            requests = await super().receive_data(timeout)
        return self._begin(requests)

    async def initiate_upgrade(self, *args: Any, **kwargs: Any) -> Any:
        request = await super().initiate_upgrade(*args, **kwargs)
        self._begin([request])
        return request

    def cleanup_stream(self, stream_id: int) -> None:
        super().cleanup_stream(stream_id)
        self.begun.pop(stream_id, None)
        if not self._worker.drain.accepting:
            self.leave()

    async def close(self, error_code: int = 0, last_stream_id: int | None = None) -> None:
        if self._last is not None:
            self._end()
            return
        # gunicorn says 0 here, when nothing is under way: as if it had processed nothing at all.
        if last_stream_id is None:
            last_stream_id = self.h2_conn.highest_inbound_stream_id
        await super().close(error_code, last_stream_id)

    def _handle_request_received(self, event: Any) -> Any:
        if self._last is not None and event.stream_id > self._last:
            return None  # GOAWAY has said that it is not processed
        return super()._handle_request_received(event)  # type: ignore[misc]

    # --- what ours call

    def leave(self) -> None:
        """In a drain: go on towards GOAWAY and the end. On the loop, and whenever something has changed."""
        if self._closed or (self._last is None and not self.h2_conn.highest_inbound_stream_id):
            return  # the first stream may be under way to us: `idle_since` bounds that
        if self._last is None:
            if self._awaited is None:
                self._awaited = self.h2_conn.highest_inbound_stream_id
            if self._is_open(self._awaited):
                return
            if not self._has_read_on:
                if self._is_readable():
                    self._reads_on = True
                    return
                self._read_on()
                if self._is_open():
                    return
            self._say_goaway()
        if not self._is_open():
            self._end()

    def stay(self) -> None:
        """The worker has resumed. A GOAWAY cannot be taken back."""
        self._awaited = None
        self._reads_on = self._has_read_on = False

    def idle_since(self) -> float | None:
        """Since when the client has opened no stream; None: it has, or is about to."""
        if self.h2_conn.highest_inbound_stream_id or self._is_readable():
            return None
        return self.made_at

    def dismiss(self) -> None:
        """End a connection on which nothing is under way."""
        if not self._closed:
            self._say_goaway()
            self._end()

    def _read_on(self) -> None:
        """Await also what was received meanwhile. Only once: a client that never stops must not hold the drain."""
        self._has_read_on = True
        self._awaited = self.h2_conn.highest_inbound_stream_id

    def _say_goaway(self) -> None:
        if self._last is None:
            self._last = self.h2_conn.highest_inbound_stream_id
            self.writer.write(goaway(self._last))

    def _end(self) -> None:
        self._closed = True
        self.writer.close()

    def _begin(self, requests: list[Any]) -> list[Any]:
        for request in requests:
            self.begun[request.stream.stream_id] = request, time.monotonic()
        if not self._worker.drain.accepting:
            if self._reads_on:
                self._read_on()
            self.leave()
        return requests

    def _is_open(self, up_to: int | None = None) -> bool:
        """Whether a stream is under way, or the application is still busy with one."""
        numbers = [number for number, stream in self.streams.items() if stream.state is not StreamState.CLOSED]
        return any(up_to is None or number <= up_to for number in (*numbers, *self.begun))

    def _is_readable(self) -> bool:
        """Whether the client has said something that was not looked at yet."""
        unread = self.reader._buffer or getattr(self, "_deferred_events", None)
        return bool(unread) or is_waiting(self.writer.get_extra_info("socket"))
