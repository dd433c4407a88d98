"""The timers that end uvicorn's idle connections, at a price that a request does not notice.

uvicorn asks its loop for a timer after each response and takes it back at the next request, which costs more than all
that this package adds to a request. Here a connection has one timer for many requests: when it is over, it finds that
the connection was in use meanwhile, and runs on for what is left. An idle one ends at the same time as with uvicorn.

Only for uvicorn's own two classes, of which it is known what they do with their timer and their loop."""

from __future__ import annotations

import asyncio
import contextvars
import time
from operator import attrgetter
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar

from gunicorn_hot.workers.uvicorn_leaving import H11_PROTOCOL, HTTPTOOLS_PROTOCOL, full_name

if TYPE_CHECKING:
    _Mixin = asyncio.Protocol
else:
    _Mixin = object

#: A connection has this instead of uvicorn's timer while it is idle.
_IDLE = object()
_now = time.monotonic


def is_known(protocol: type[Any]) -> bool:
    """Whether `Timed` may be mixed into this class. Not into a subclass, which may ask for timers of its own."""
    return full_name(protocol) in (H11_PROTOCOL, HTTPTOOLS_PROTOCOL)


class IdleLoop:
    """What the protocols have for their loop: all that they ask for is the loop's, but for the timers of idle ones.

    `patience`: s; how long they are kept. `end`: the method of the protocol class that ends one of them."""

    __slots__ = ("_context", "_end", "_loop", "_patience", "create_task")

    def __init__(self, loop: Any, patience: float, end: Any) -> None:
        self._loop = loop
        self._patience = patience
        self._end = end
        # The timer outlives the request after which it was asked for, and must not keep what belongs to that.
        self._context = contextvars.copy_context()
        self.create_task = loop.create_task

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        if type(callback) is not MethodType or callback.__func__ is not self._end or delay != self._patience:
            return self._loop.call_later(delay, callback, *args, context=context)
        connection: Any = callback.__self__
        connection.kept_since = _now()
        if connection.idle_timer is None:
            self._start(connection, delay)
        return _IDLE

    def _start(self, connection: Any, delay: float) -> None:
        connection.idle_timer = self._loop.call_later(delay, self._look, connection, context=self._context)

    def _look(self, connection: Any) -> None:
        connection.idle_timer = None
        if connection.timeout_keep_alive_task is not _IDLE:
            return
        left = connection.kept_since + self._patience - _now()
        if left > 0:
            self._start(connection, left)
        else:
            self._end(connection)


# Not by __getattr__: CPython would look for every attribute the slow way, twice in a request.
for _name in dir(asyncio.AbstractEventLoop):
    if not hasattr(IdleLoop, _name):
        setattr(IdleLoop, _name, property(attrgetter(f"_loop.{_name}")))


class Timed(_Mixin):
    """Mixed into the protocol class of such connections."""

    #: To be slots of the class that this is mixed into.
    SLOTS: ClassVar[tuple[str, ...]] = ("idle_timer", "kept_since")

    #: When the last response was complete; unknown before the first.
    kept_since: float
    idle_timer: asyncio.TimerHandle | None

    if TYPE_CHECKING:
        since: float | None
        timeout_keep_alive_task: Any
        timeout_keep_alive_handler: Any

    @classmethod
    def loop_for(cls, loop: Any, patience: float) -> Any:
        """Return what this class's connections are to have for their loop."""
        return IdleLoop(loop, patience, cls.timeout_keep_alive_handler)

    def connection_made(self, transport: Any) -> None:
        self.idle_timer = None
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, *args: Any) -> None:
        # Another protocol has the connection from now on.
        self._stop_timer()
        super().handle_websocket_upgrade(*args)  # type: ignore[misc]

    def _stop_timer(self) -> None:
        if self.idle_timer is not None:
            self.idle_timer.cancel()  # it would keep this object in memory
            self.idle_timer = None

    def _unset_keepalive_if_required(self) -> None:
        # uvicorn's own does no more than to stop its timer.
        if self.timeout_keep_alive_task is not None or self.since is None:
            self.timeout_keep_alive_task = None
            self.since = _now()
