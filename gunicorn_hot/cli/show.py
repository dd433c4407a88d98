"""`status` and `watch`: what a service is, as text. Pure, but for `rich`, which draws the same tables on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gunicorn_hot.cli.output import harmless
from gunicorn_hot.cli.progress import going_on
from gunicorn_hot.cli.service import moment
from gunicorn_hot.status import Master, Status

if TYPE_CHECKING:
    from rich.console import Group

_NONE = "-"
#: Characters of a reason in a table; --json has all of it.
_REASON = 80
_AGE = re.compile("^(old|new), ")


class Table(NamedTuple):
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def duration(seconds: float) -> str:
    """Return a time as an operator says it: "2d 3h", "4m 5s"."""
    left = max(0, int(seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number:
            parts.append(f"{number}{unit}")
    return " ".join(parts[:2]) or "0s"


def _text(value: object) -> str:
    return _NONE if value is None or value == "" else str(value)


def _cut(text: str) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= _REASON else f"{line[: _REASON - 1]}…"


def _role(master: Master) -> str:
    """Return what a master is; in an upgrade the status file says who is asked, and not who serves."""
    states = {worker.state for worker in master.workers}
    if master.role == "serving":
        return "old, paused" if "paused" in states else "serving"
    if master.role == "draining":
        return "old, draining"
    if master.role == "successor":
        return f"new, {next((state for state in ('booting', 'ready', 'serving') if state in states), 'booting')}"
    return master.role


def heading(status: Status, now: float) -> list[str]:
    """Return the lines above the tables. `now`: wall clock, seconds."""
    service = status.service
    lines = [
        f"{service.name}: {status.state}, generation {status.generation}, pid {service.pid} ({service.pid_mode})",
        f"  listening at {', '.join(service.listeners) or _NONE}",
        f"  folder {service.folder}, pid file {_text(service.pid_file)}",
    ]
    upgrade = status.upgrade
    if upgrade is not None:
        what = "check" if upgrade.check else "upgrade"
        began = duration(now - upgrade.started)
        lines.append(f"  {what} {upgrade.number} under way for {began}: {going_on(upgrade).at(now)}")
    return lines


def masters(status: Status, now: float) -> Table:
    return Table(
        ("MASTER", "ROLE", "GENERATION", "UP", "WORKERS", "GUNICORN", "PYTHON", "REVISION"),
        [
            (
                str(master.pid), _role(master), _text(master.generation or None), duration(now - master.since),
                str(len(master.workers)), _text(master.gunicorn), _text(master.python), _text(master.revision),
            )
            for master in status.masters
        ],
    )


def workers(status: Status, now: float) -> Table:
    return Table(
        ("WORKER", "MASTER", "STATE", "UP", "IN FLIGHT"),
        [
            (str(worker.pid), str(master.pid), worker.state, duration(now - worker.since), _text(worker.in_flight))
            for master in status.masters for worker in master.workers
        ],
    )


def upgrades(status: Status) -> Table:
    return Table(
        ("UPGRADE", "BEGAN", "TOOK", "GENERATION", "OUTCOME", "CUT", "REASON"),
        [
            (
                str(past.number), moment(past.started), f"{past.duration:.1f}s",
                f"{past.generation_from} > {past.generation_to}", past.outcome, str(past.cut),
                _cut(past.reason),
            )
            for past in status.history
        ],
    )


def tables(status: Status, now: float) -> list[Table]:
    """Return the tables that have something to say."""
    return [table for table in (masters(status, now), workers(status, now), upgrades(status)) if table.rows]


def _aligned(table: Table) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(table.headings, *table.rows, strict=True)]
    for row in (table.headings, *table.rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def plain(status: Status, now: float) -> list[str]:
    """Return a status as lines."""
    lines = heading(status, now)
    for table in tables(status, now):
        lines += ["", *_aligned(table)]
    return lines


def rich(status: Status, now: float) -> Group:
    """Return the same for rich to draw. Raises ImportError without it."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    colours = {"serving": "green", "done": "green", "checked": "green", "draining": "yellow", "paused": "yellow",
               "booting": "cyan", "ready": "cyan", "holder": "dim"}
    bad = ("failed", "check-failed", "rolled-back", "taken-back")
    first, *more = heading(status, now)
    parts: list[object] = [Text(harmless(first), style="bold"), *(Text(harmless(line)) for line in more)]
    for table in tables(status, now):
        drawn = RichTable(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for name in table.headings:
            drawn.add_column(name, no_wrap=name != "REASON")
        for row in table.rows:
            styles = ["red" if cell in bad else colours.get(_AGE.sub("", cell), "") for cell in row]
            cells = [Text(harmless(cell), style=style) for cell, style in zip(row, styles, strict=True)]
            drawn.add_row(*cells)
        parts += [Text(""), drawn]
    return Group(*parts)  # type: ignore[arg-type]
