"""HTTP/2 connections in a worker that leaves: GOAWAY, the streams under way finish, and nothing after them begins.

Imported only where HTTP/2 is configured. When, and with which number, GOAWAY is said (RFC 9113 6.8)::

    idle                        at the pause; one that has had no stream yet: after its first, like an HTTP/1.1 one
    with streams under way      when they, and the requests received meanwhile, have been answered
    last stream                 the highest that was received: what the client opens after it was not processed, and can
                                be sent again elsewhere, whatever its method

The other way, GOAWAY at once with the highest number there is and a second one later, saves a well-made client some of
the new attempts. But a client built on the Python library h2 takes any GOAWAY for the end of the streams under way, and
httpx tries again only what has a higher number than one that is not 0 (httpcore 1.0, h2 4.4).

gunicorn serves the streams of a connection one after the other, so each GOAWAY is written by whoever serves it, or
while nobody does. By hand, because after h2's own nothing else can be sent."""

from __future__ import annotations

import select
import struct
import time
from typing import Any

import gunicorn.http2.connection as stock
from gunicorn.http2.errors import HTTP2ErrorCode
from gunicorn.http2.stream import StreamState

from gunicorn_hot.drain import InFlight
from gunicorn_hot.workers import base
from gunicorn_hot.workers.pipeline import is_waiting

_GOAWAY = struct.Struct(">BHBBLLL")
_GOAWAY_TYPE = 0x7
_BODY_BYTES = 8
_MAX_STREAM = 2**31 - 1
#: A near client's next request comes within this time: to park and wake the connection costs more than that.
_MOMENT_MS = 1


def goaway(last: int) -> bytes:
    """Return a GOAWAY frame that says which stream is the last to be processed, and that nothing is wrong."""
    return _GOAWAY.pack(0, _BODY_BYTES, _GOAWAY_TYPE, 0, 0, last, HTTP2ErrorCode.NO_ERROR)


def use() -> None:
    """Let this process's HTTP/2 connections be ours. gunicorn 25.3 to 27 look the class up for each of them."""
    stock.HTTP2ServerConnection = Connection  # type: ignore[misc]


class Connection(stock.HTTP2ServerConnection):
    sock: Any

    def __init__(self, cfg: Any, sock: Any, client_addr: Any) -> None:
        super().__init__(cfg, sock, client_addr)
        if hasattr(sock, "http2"):
            sock.http2 = self
        self._worker: Any = base.current
        #: The streams that have become requests, as begun requests.
        self._begun: dict[int, InFlight] = {}
        #: In a drain: the highest stream that must be answered before GOAWAY; whether that was read for once more.
        self._awaited: int | None = None
        self._has_read_on = False
        #: What our GOAWAY has said.
        self._last: int | None = None
        #: Whether a wait with nothing under way is left to the worker's poller.
        self.parks = False
        self.is_parked = False
        #: Whether somebody waits for the client, with nothing under way.
        self.is_idle = False
        #: Whether somebody will look after it when it stays as it is.
        self.is_timed = False

    # --- what gunicorn's workers call

    def receive_data(self, data: bytes | None = None) -> list[Any]:
        if data is not None:
            return self._begin(super().receive_data(data))
        if (not self._worker.drain.accepting or self._last is not None) and self._leave():
            self._closed = True
            return []
        if not (self._has_set_aside() or self._open()):
            if self.parks and not self._is_readable():
                # Ends the loop in which gunicorn serves a connection; `unpark` lets it go on later.
                self.is_parked = self._closed = True
                return []
            self.is_idle = True
        try:
            return self._begin(super().receive_data())
        finally:
            self.is_idle = False

    def initiate_upgrade(self, *args: Any, **kwargs: Any) -> Any:
        request = super().initiate_upgrade(*args, **kwargs)
        self._begin([request])
        return request

    def cleanup_stream(self, stream_id: int) -> None:
        super().cleanup_stream(stream_id)
        entry = self._begun.pop(stream_id, None)
        if entry is not None:
            self._worker.end_request(entry)

    def close(self, error_code: int = 0, last_stream_id: int | None = None) -> None:
        # gunicorn says 0 here, when nothing is under way: as if it had processed nothing at all.
        if last_stream_id is None:
            last_stream_id = self.h2_conn.highest_inbound_stream_id
        super().close(error_code, last_stream_id)

    def _handle_request_received(self, event: Any) -> Any:
        if self._last is not None and event.stream_id > self._last:
            return None  # GOAWAY has said that it is not processed; h2 takes an RST_STREAM after that for an error
        return super()._handle_request_received(event)  # type: ignore[misc]

    # --- what ours call

    def unpark(self) -> bool:
        """Return whether the connection was parked, and can go on whenever the client says something."""
        if not self.is_parked:
            return False
        self.is_parked = self._closed = False
        return True

    def may_be_dismissed(self) -> bool:
        """Whether it could be told to go now: nothing is under way, and nothing has come that waits to be read."""
        return not self.is_fresh and self._last is None and not self._open() and not is_waiting(self.sock)

    @property
    def is_fresh(self) -> bool:
        """Whether the client has opened no stream yet."""
        return not self.h2_conn.highest_inbound_stream_id

    def say_goaway(self) -> None:
        """Tell the client to open no more streams. Not while somebody else may be writing."""
        if self._closed or self._last is not None:
            return
        self._last = self.h2_conn.highest_inbound_stream_id
        try:
            self.sock.sendall(goaway(self._last))
        except OSError:
            pass  # it has gone, or reads nothing

    def end(self) -> None:
        """The connection is over: whatever of it was under way is not any more."""
        while self._begun:
            self._worker.end_request(self._begun.popitem()[1])

    def _begin(self, requests: list[Any]) -> list[Any]:
        worker = self._worker
        for request in requests:
            entry = self._begun[request.stream.stream_id] = InFlight(request, worker.drain, time.monotonic())
            worker.in_flight.add(entry)
        if requests and not worker.drain.accepting:
            worker.show_in_flight()
        return requests

    def _leave(self) -> bool:
        """In a drain: go on towards GOAWAY and the end; returns whether nothing is left to do."""
        if self._has_set_aside() or (self.is_fresh and self._last is None):
            return False
        if self._last is None:
            if self._awaited is None:
                if is_waiting(self.sock) and not self._has_read_on:
                    # Received before we could say it: once more, but not for ever.
                    self._has_read_on = True
                    return False
                self._awaited = self.h2_conn.highest_inbound_stream_id
            if self._open(self._awaited):
                return False
            self.say_goaway()
        return not self._open()

    def _open(self, up_to: int = _MAX_STREAM) -> bool:
        """Whether a stream is under way."""
        return any(
            stream.state is not StreamState.CLOSED and number <= up_to for number, stream in self.streams.items()
        )

    def _has_set_aside(self) -> bool:
        """Whether requests were read while something else was (gunicorn 26.2 on)."""
        return bool(getattr(self, "pending_requests", None) or getattr(self, "_deferred_events", None))

    def _is_readable(self) -> bool:
        """Whether the client has said something, or has left; a client that is quick to go on is given a moment."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(_MOMENT_MS if self._worker.drain.accepting else 0))
