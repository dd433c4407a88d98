"""What a worker may do with connections: accept one, keep one, be done.

Pure: time is an argument, and each worker module asks in its own way of waiting. One object per worker process.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any


class Phase(Enum):
    ACCEPTING = "accepting"
    #: Accepts nothing new, serves what it has, can resume.
    PAUSED = "paused"
    #: Leaves as soon as it holds no connection; can still resume, if its master takes back.
    DRAINING = "draining"


def _nothing(request: Any) -> bool:
    return False


class Drain:
    """The phase of a worker, and the decisions that follow from it."""

    def __init__(self, more_received: Callable[[Any], bool] = _nothing) -> None:
        self.phase = Phase.ACCEPTING
        #: Whether the client has sent more requests behind this one, which have to be answered too.
        self.more_received = more_received
        #: Whether the phase is ACCEPTING, or DRAINING: plain attributes, since every accept and every request asks.
        self.accepting = True
        self.draining = False
        #: DRAINING: when the worker's patience ends, on the clock of `now`.
        self.deadline: float | None = None

    def pause(self) -> None:
        """Stop accepting. A worker that is draining already goes on with that."""
        if self.phase is Phase.ACCEPTING:
            self._enter(Phase.PAUSED)

    def resume(self) -> None:
        """Accept again, from any phase."""
        self._enter(Phase.ACCEPTING)
        self.deadline = None

    def drain(self, now: float, timeout: float) -> None:
        """Finish what is held within `timeout` seconds. A second call cannot move the deadline."""
        if self.phase is not Phase.DRAINING:
            self._enter(Phase.DRAINING)
            self.deadline = now + timeout

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.accepting = phase is Phase.ACCEPTING
        self.draining = phase is Phase.DRAINING

    def done(self, connections: int) -> bool:
        """Whether a worker that holds this many connections may leave.

        An idle kept-alive connection counts: closing it could meet a request that is already under way to us
        (RFC 9112 9.6), so it ends by its own keep-alive timeout, by a response that says so, or at the deadline."""
        return self.draining and not connections

    def overdue(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline

    def wait(self, now: float, tick: float) -> float:
        """Return how long to wait for events: `tick` seconds, or less if the deadline is nearer."""
        if self.deadline is None:
            return tick
        return max(0.0, min(tick, self.deadline - now))


class InFlight:
    """A request that is being answered; it stands in for the request's ``should_close`` meanwhile.

    The answer is the client's wish, or the worker's phase when it is first asked: one that accepts no more closes,
    after the last of the requests that it has received.

    gunicorn asks twice: when it writes the response's head, and when it decides what becomes of the connection. Both
    must get one answer. A pause between them would otherwise close a connection that was announced as kept, which is
    the one thing that a client cannot defend itself against."""

    __slots__ = ("_answer", "_ask", "_drain", "request", "started")

    def __init__(self, request: Any, drain: Drain, now: float) -> None:
        self.request = request
        self.started = now
        self._ask: Callable[[], bool] | None = request.should_close
        self._drain = drain
        self._answer: bool | None = None

    def __call__(self) -> bool:
        if self._answer is None:
            drain = self._drain
            self._answer = (self._ask is not None and self._ask()) or (
                not drain.accepting and not drain.more_received(self.request)
            )
        return self._answer

    def end(self) -> None:
        """The request has been answered. It has this object, which must not keep it: a cycle would hold its body."""
        self.request = self._ask = None
