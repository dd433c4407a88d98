"""Holds: the application keeps its worker from being ready, until it says otherwise.

Imported by applications, so it works in any process: where nobody waits for readiness a hold delays nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import TracebackType

from gunicorn_hot.app import call_soon


class NotReady(Exception):
    """Why a worker cannot become ready, in words for the operator."""


class Hold:
    """What `hold_ready` returns. A context manager too: its end is `ready`, and an exception in it is `fail`."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.failure: str | None = None

    def ready(self) -> None:
        """Release the hold; from any thread, greenlet or task. A second call does nothing."""
        if self.failure is None and _holds.pop(id(self), None) is not None:
            _changed()

    def fail(self, reason: object) -> None:
        """This worker can never be ready: its boot fails, and an upgrade with it, for this reason."""
        if self.failure is None and id(self) in _holds:
            self.failure = str(reason)
            _changed()

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.ready()
        else:
            self.fail(f"{type(error).__name__}: {error}")

    def __repr__(self) -> str:
        return f"<hold_ready() at {self.where}>"


#: Holds that were not released, by identity, in the order in which they were taken.
_holds: dict[int, Hold] = {}
#: Whether a hold could still delay anything.
_counts = True
#: Ends the wait of whoever waits for the holds.
_wake: Callable[[], object] | None = None


def hold_ready() -> Hold:
    """Keep this worker from being ready until the returned handle's `ready` is called. Several may be taken.

    To be called while the application is loaded (ASGI: up to the end of lifespan startup). Later, and outside of a hot
    worker, it delays nothing. In a master that preloads the application it delays the fork of the workers, which then
    have what was warmed up. A hold that nobody releases fails the boot after `hot_ready_timeout`."""
    caller = sys._getframe(1)
    hold = Hold(f"{caller.f_code.co_filename}:{caller.f_lineno}")
    if _counts:
        _holds[id(hold)] = hold
    return hold


# --- for the workers, and for a master that preloads


def held_by() -> str | None:
    """Say what keeps this process from being ready, or None. Raises NotReady when a hold has failed."""
    holds = list(_holds.values())
    for hold in holds:
        if hold.failure is not None:
            raise NotReady(f"{hold.failure} (said to hold_ready() at {hold.where})")
    return "held by " + ", ".join(f"hold_ready() at {hold.where}" for hold in holds) if holds else None


def wake_with(wake: Callable[[], object]) -> None:
    """Call `wake` when a hold is released or has failed, in whatever thread that happens."""
    global _wake
    _wake = wake


async def released(say: Callable[[str], object]) -> None:
    """Wait until no hold is left; `say` is told which ones are. Raises NotReady when one has failed."""
    import asyncio  # not in a master: see `app`

    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    wake_with(lambda: call_soon(loop, changed.set))
    while (held := held_by()) is not None:
        say(held)
        await changed.wait()
        changed.clear()


def end() -> None:
    """This process is ready: a hold that is taken from now on delays nothing."""
    global _counts, _wake
    _counts, _wake = False, None


def _changed() -> None:
    if (wake := _wake) is not None:
        wake()


def _forget() -> None:
    # No thread comes along with a fork: nobody could release in the child what was taken before it.
    global _counts, _wake
    _counts, _wake = True, None
    _holds.clear()


os.register_at_fork(after_in_child=_forget)
