"""Since when a connection of uvicorn's is idle, or its request under way; and the timer that ends an idle one.

uvicorn asks its loop for a timer after each response and takes it back at the next request, which costs more than all
that this package adds to a request. Here a connection has one timer for many requests: when it is over, it finds that
the connection was in use meanwhile, and runs on for what is left. An idle one ends at the same time as with uvicorn."""

from __future__ import annotations

import asyncio
import time
from operator import attrgetter
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    _Mixin = asyncio.Protocol
else:
    _Mixin = object

_now = time.monotonic


class _Kept:
    """What uvicorn gets instead of a timer. To take it back, which is to forget it, is enough."""

    def cancel(self) -> None:
        pass


_KEPT = _Kept()


class IdleLoop:
    """What uvicorn's protocols have for their loop: it is the loop, but for the timers of idle connections.

    `patience`: s; how long they are kept. `end`: the method of the protocol class that ends one of them."""

    __slots__ = ("__weakref__", "_end", "_loop", "_patience", "create_task")

    def __init__(self, loop: Any, patience: float, end: Any) -> None:
        self._loop = loop
        self._patience = patience
        self._end = end
        self.create_task = loop.create_task

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        if type(callback) is not MethodType or callback.__func__ is not self._end or delay != self._patience:
            return self._loop.call_later(delay, callback, *args, context=context)
        connection: Any = callback.__self__
        connection.kept_since = _now()
        if connection.idle_timer is None:
            connection.idle_timer = self._loop.call_later(delay, self._look, connection)
        return _KEPT

    def _look(self, connection: Any) -> None:
        connection.idle_timer = None
        if connection.timeout_keep_alive_task is not _KEPT:
            return
        left = connection.kept_since + self._patience - _now()
        if left > 0:
            connection.idle_timer = self._loop.call_later(left, self._look, connection)
        else:
            self._end(connection)


# Not by __getattr__: CPython would look for every attribute the slow way, twice in a request.
for _name in dir(asyncio.AbstractEventLoop):
    if not hasattr(IdleLoop, _name):
        setattr(IdleLoop, _name, property(attrgetter(f"_loop.{_name}")))


class Timed(_Mixin):
    """Mixed into the protocol class of such connections."""

    #: To be slots of the class that this is mixed into; here they would exclude a protocol class that has slots of its
    #: own. CPython lays out a class's attributes by those that its first objects have. One more, when there are several
    #: connections, would find no place, and each of them would get a dictionary of its own, which is slower.
    SLOTS: ClassVar[tuple[str, ...]] = ("idle_timer", "kept_since", "since")

    #: When the request came that is, or was last, answered; None: nothing has come yet.
    since: float | None
    #: When the last response was complete; unknown before the first.
    kept_since: float
    idle_timer: asyncio.TimerHandle | None

    if TYPE_CHECKING:
        timeout_keep_alive_task: Any

    @classmethod
    def loop_for(cls, loop: Any, patience: float) -> Any:
        """Return what this class's connections are to have for their loop."""
        return IdleLoop(loop, patience, getattr(cls, "timeout_keep_alive_handler", None))

    def connection_made(self, transport: Any) -> None:
        self.since = self.idle_timer = None
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.idle_timer is not None:
            self.idle_timer.cancel()  # it would keep the memory of the connection
            self.idle_timer = None
        super().connection_lost(exc)

    # Called for each piece of data, and after each response; uvicorn's own does no more than what is done with the
    # timer here.
    def _unset_keepalive_if_required(self) -> None:
        timer = self.timeout_keep_alive_task
        if timer is not None:
            timer.cancel()
            self.timeout_keep_alive_task = None
            self.since = _now()
        elif self.since is None:
            self.since = _now()
