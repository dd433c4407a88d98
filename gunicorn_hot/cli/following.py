"""Waiting until a service has done something, by the events of its status file."""

from __future__ import annotations

import time
from collections.abc import Callable

from gunicorn_hot.cli.errors import Gone, Refused, TimeOver
from gunicorn_hot.cli.output import Output
from gunicorn_hot.cli.progress import Step, refusal, step
from gunicorn_hot.cli.service import Service
from gunicorn_hot.cli.watching import Watch
from gunicorn_hot.status import Status

#: s for a master to read a request; it does so at once, unless it is stopped or the machine is.
ANSWER = 30.0
#: s for the status to name a request that has been read, while nothing else is under way.
_MENTION = 5.0


def wait(
    service: Service, watch: Watch, look: Callable[[Status], bool], tick: float, end: float | None = None
) -> None:
    """Read the status now, at each change, and every `tick` seconds, until `look` is content with it.

    Raises TimeOver after `end` (`time.monotonic()`), and Gone when the service has ended meanwhile."""
    while not look(service.read(watch)):
        left = tick if end is None else min(tick, end - time.monotonic())
        if left <= 0:
            raise TimeOver()
        watch.wait(left)


def follow(
    service: Service,
    watch: Watch,
    request: str,
    output: Output,
    *,
    upgrade: str | None = None,
    is_over: Callable[[Step], bool] = lambda found: bool(found.outcome),
    end: float | None = None,
) -> Step:
    """Show how an upgrade goes on until it is over; returns its last step, which is not shown.

    `request`: the id of what was asked for; `upgrade`: that of the upgrade, if it is another one. Raises TimeOver
    after `end` (`time.monotonic()`), Refused when the master will not do it, and Gone when there is no service any
    more, or it does not answer."""
    last: Step | None = None
    asked = idle_since = time.monotonic()
    read_at = time.time()

    def look(status: Status) -> bool:
        nonlocal last, idle_since, read_at
        if (reason := refusal(status, request)) is not None:
            raise Refused(f"refused: {reason}")
        is_unread = service.is_unread(request)
        if is_unread:
            read_at = time.time()
            if time.monotonic() > asked + ANSWER:
                service.withdraw()
                raise Gone(f"the master has not read the request in {ANSWER:g}s; it is withdrawn")
        found = step(status, upgrade or request)
        if found is None:
            if status.upgrade is not None or is_unread:
                idle_since = time.monotonic()  # it is behind that one, or still drains beside it, or is not known yet
            elif time.monotonic() > idle_since + _MENTION:
                if last is None and status.written.at > read_at:
                    raise Refused("it was overtaken by another request; nothing was done")
                if last is None:
                    # Nothing that was overtaken leaves the status as it was: it may be that it cannot be written.
                    raise Gone("the request is gone, and the service says nothing of it since; its log may")
                raise Gone(f"the service cannot say any more how this went; it is of generation {status.generation}")
            return False
        last = found
        if is_over(found):
            return True
        if not found.outcome:
            output.progress(found)
        return False

    wait(service, watch, look, output.tick, end)
    assert last is not None
    return last
