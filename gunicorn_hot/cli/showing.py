"""status and watch."""

from __future__ import annotations

import time
from dataclasses import asdict

from gunicorn_hot.cli import show
from gunicorn_hot.cli.errors import OK
from gunicorn_hot.cli.following import wait
from gunicorn_hot.cli.output import Json, Live, Output
from gunicorn_hot.cli.progress import GOOD, ended, going_on
from gunicorn_hot.cli.service import Service, moment
from gunicorn_hot.cli.watching import Watch
from gunicorn_hot.status import Status


def show_status(service: Service, output: Output) -> int:
    """Show what the service is now. Raises Gone."""
    status = service.read()
    if doubt := service.doubt:
        output.line(f"{doubt}; it is of {moment(status.written.at)}", event="doubt", reason=doubt)
    _show(status, output)
    return OK


def _show(status: Status, output: Output) -> None:
    now = time.time()
    if isinstance(output, Live):
        output.draw(show.rich(status, now))
    else:
        output.line("\n".join(show.plain(status, now)), event="status", **asdict(status))


def watch(service: Service, output: Output) -> int:
    """Show what the service is, and each change, until Ctrl-C. Raises Gone when it ends."""
    with Watch(service.path) as changes:
        try:
            if isinstance(output, Live):
                _watch_live(service, changes, output)
            elif isinstance(output, Json):
                _watch_each(service, changes, output)
            else:
                _watch_plain(service, changes, output)
        except KeyboardInterrupt:
            pass
    return OK


def _watch_live(service: Service, changes: Watch, output: Live) -> None:
    with output.screen() as screen:
        def look(status: Status) -> bool:
            screen.update(show.rich(status, time.time()), refresh=True)
            return False

        wait(service, changes, look, output.tick)


def _watch_each(service: Service, changes: Watch, output: Output) -> None:
    last: Status | None = None

    def look(status: Status) -> bool:
        nonlocal last
        if status != last:
            last = status
            _show(status, output)
        return False

    wait(service, changes, look, output.tick)


def _watch_plain(service: Service, changes: Watch, output: Output) -> None:
    """Show all once, and then what is new, a line each."""
    first = service.read(changes)
    _show(first, output)
    known = {past.id for past in first.history}
    said = (first.state, first.generation)

    def look(status: Status) -> bool:
        nonlocal said
        for past in reversed(status.history):
            if past.id not in known:
                known.add(past.id)
                output.end(ended(past, status), past.outcome in GOOD)
        if status.upgrade is not None:
            output.progress(going_on(status.upgrade))
        if status.upgrade is None and (status.state, status.generation) != said:
            said = (status.state, status.generation)
            output.line(f"{status.state}, generation {status.generation}")
        return False

    wait(service, changes, look, output.tick)
