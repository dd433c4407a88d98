"""The headers of uvicorn's responses: from the pause on they say `Connection: close`, in the last of a connection.

The list is the same for all connections, and a request holds on to it from its beginning: so a response that begins
after a pause says that it is the last, also if its request was there before, and in steady state nobody has to ask.

Two of uvicorn's parsers are known. httptools takes all requests that have come at once, and uvicorn queues what it will
answer later; h11 takes one after the other, and keeps the rest. With any other, the first response is the last one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from gunicorn_hot.workers.closing import last
from gunicorn_hot.workers.pipeline import Ahead, hidden, waiting

if TYPE_CHECKING:
    import asyncio

    _Mixin = asyncio.Protocol
else:
    _Mixin = object

#: uvicorn's two, by their full names: one whose parser is not installed cannot be imported.
H11_PROTOCOL = "uvicorn.protocols.http.h11_impl.H11Protocol"
HTTPTOOLS_PROTOCOL = "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol"

_Header = tuple[bytes, bytes]


class Headers(list[_Header]):
    """Those that uvicorn puts before the application's."""

    #: Whether the last response of a connection says that it is. With HTTP/2 it would be wrong.
    say_close = True


class LastHeaders(Headers):
    """What they become while the worker is paused."""

    def __add__(self, others: Any) -> list[_Header]:  # type: ignore[override]
        # Of all that could be told apart by the response, uvicorn asks only for this sum; in its cycle's method.
        cycle: Any = sys._getframe(1).f_locals.get("self")
        connection = getattr(getattr(cycle, "on_response", None), "__self__", None)
        if isinstance(connection, Pipelining) and connection.has_more(cycle):
            cycle.on_response = connection.on_kept
            return [*self, *others]
        return last([*self, *others]) if self.say_close else [*self, *others]


class Pipelining(_Mixin):
    """Mixed into uvicorn's protocol class: knows whether requests were received behind the one that is answered."""

    #: The class of those that have more.
    counting: type[Pipelining]
    #: Of those: what counts.
    ahead: Ahead | None = None

    if TYPE_CHECKING:
        flow: Any
        transport: Any
        on_response_complete: Any
        _unset_keepalive_if_required: Any

    def has_more(self, cycle: Any) -> bool:
        """Whether a request behind this one had been received when this was first asked; asked once for each."""
        return False

    def note(self) -> None:
        """Called when more was read."""

    def has_begun(self) -> bool:
        """Whether a part of a next request's head has come."""
        return False

    def on_kept(self) -> None:
        """The response is complete that was not the last."""
        self.on_response_complete()
        # uvicorn takes a connection for idle on which a request has begun to come behind another one.
        if self.has_begun():
            self._unset_keepalive_if_required()

    def _start(self) -> Ahead:
        """Count what is read from now on."""
        self.ahead = Ahead()
        self.__class__ = self.counting
        # uvloop keeps the method that it calls.
        self.transport.set_protocol(self)
        return self.ahead

    def _unread(self) -> tuple[int, int]:
        """What the loop has not read yet, and what it may keep to itself."""
        there = waiting(self.transport.get_extra_info("socket"))
        return there, hidden(self.transport, self.flow.read_paused)

    def forget(self) -> None:
        """The worker has resumed: in the next pause it will be asked anew."""
        self.ahead = None


class H11(Pipelining):
    if TYPE_CHECKING:
        conn: Any

    def has_begun(self) -> bool:
        return bool(self.conn.trailing_data[0])

    def has_more(self, cycle: Any) -> bool:
        if cycle.more_body:
            return False
        held = len(self.conn.trailing_data[0])
        there, hidden = self._unread()
        return bool(held + there) and (self.ahead or self._start()).has_more(held, there, hidden)


class HttpTools(Pipelining):
    #: The scope of the last request that counts, once it has begun to come.
    last: Any = None

    if TYPE_CHECKING:
        pipeline: Any
        scope: Any
        cycle: Any

    def has_more(self, cycle: Any) -> bool:
        there, hidden = self._unread()
        is_next_here = self.pipeline or self.has_begun()
        if not is_next_here and (cycle.more_body or not there):
            return False
        if self.ahead is None:
            self._start().ask(there + hidden)
            self.note()
        return cycle.scope is not self.last

    def has_begun(self) -> bool:
        # A scope is made with the first byte of a request, and a cycle with its whole head.
        return self.scope is not self.cycle.scope

    def note(self) -> None:
        if self.last is None and self.ahead is not None and self.ahead.is_beyond():
            self.last = self.scope

    def forget(self) -> None:
        self.ahead = self.last = None


def counting(base: type[Pipelining]) -> type[Pipelining]:
    """Return the subclass whose connections count what they read."""

    class Counting(base):  # type: ignore[valid-type,misc]
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.ahead is not None:
                self.ahead.read(len(data))
                self.note()

    return Counting


def full_name(protocol: type[Any]) -> str:
    return f"{protocol.__module__}.{protocol.__name__}"


def mixin(base: type[Any]) -> type[Pipelining]:
    """Return what is to be mixed into the protocol class `base`."""
    names = set(map(full_name, base.__mro__))
    if HTTPTOOLS_PROTOCOL in names:
        return HttpTools
    if H11_PROTOCOL in names:
        return H11
    return Pipelining
