"""What the clients saw, drawn in characters: time goes to the right. Pure: records in, lines out."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gunicorn_hot.cli.demo.load import OK, Record

#: s; no column is shorter.
_FINEST = 0.1
#: Heights of a column, the lowest first; none of them stands for nothing.
_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = ".:-=+*#%"
#: Their waits are what the application takes, not what an upgrade costs.
SLOW_KINDS = frozenset({"slow"})


class Phase(NamedTuple):
    """A step of an upgrade. Times are `time.monotonic()` seconds."""

    name: str
    begun: float
    ended: float


class _Columns:
    """Which column an instant belongs to."""

    def __init__(self, start: float, end: float, most: int) -> None:
        self.start = start
        self.step = _FINEST * max(1, math.ceil((end - start) / _FINEST / most))
        self.count = int((end - start) / self.step) + 1

    def __call__(self, instant: float) -> int:
        return min(max(int((instant - self.start) / self.step), 0), self.count - 1)


def longest_wait(records: Sequence[Record]) -> float:
    """Return the longest time, in seconds, that a client waited for an answer that should come at once."""
    return max((r.ended - r.begun for r in records if r.outcome == OK and r.kind not in SLOW_KINDS), default=0.0)


def draw(records: Sequence[Record], phases: Sequence[Phase], width: int = 80, unicode: bool = True) -> list[str]:
    """Return the picture, a line each: the phases, the answers of each generation, the failures, the waits, the time.

    `width`: characters in a line, at most. Without `unicode` it is drawn in ASCII."""
    if not records:
        return ["no requests"]
    answered = Counter(record.generation for record in records if record.outcome == OK)
    first = {name: min(r.ended for r in records if r.generation == name) for name in answered}
    generations = sorted(answered, key=lambda name: first[name])
    labels = ["longest wait", *(f"release {name}" for name in generations)]
    margin = max(map(len, labels)) + 2
    notes = 10
    columns = _Columns(min(r.begun for r in records), max(r.ended for r in records), max(10, width - margin - notes))
    heights = _BLOCKS if unicode else _ASCII

    def row(label: str, cells: str, note: str = "") -> str:
        return f"{label:<{margin}}{cells}  {note}".rstrip()

    lines = [row("", _lane(phases, columns))]
    counts = {name: Counter(columns(r.ended) for r in records if r.generation == name and r.outcome == OK)
              for name in generations}
    most = max(itertools.chain.from_iterable(c.values() for c in counts.values()), default=1)
    for name in generations:
        lines.append(row(f"release {name}", _bars(counts[name], most, columns.count, heights), f"{answered[name]} ok"))
    failed = Counter(columns(r.ended) for r in records if r.outcome != OK)
    marks = "".join(_digit(failed[at]) for at in range(columns.count))
    lines.append(row("failed", marks, str(sum(failed.values()))))
    waits: dict[int, float] = {}
    for r in records:
        if r.outcome == OK and r.kind not in SLOW_KINDS:
            at = columns(r.ended)
            waits[at] = max(waits.get(at, 0.0), r.ended - r.begun)
    longest = max(waits.values(), default=0.0)
    lines.append(row("longest wait", _bars(waits, longest, columns.count, heights), f"{longest * 1000:.0f} ms"))
    lines.append(row("seconds", _axis(columns)))
    lines.append(f"One column is {columns.step * 1000:.0f} ms.")
    return lines


def _bars(values: Mapping[int, float], most: float, count: int, heights: str) -> str:
    return "".join(
        heights[min(int(values[at] / most * len(heights)), len(heights) - 1)] if values.get(at) and most else " "
        for at in range(count)
    )


def _digit(count: int) -> str:
    return "." if count == 0 else str(count) if count < 10 else "+"


def _lane(phases: Sequence[Phase], columns: _Columns) -> str:
    """Draw each phase as far as it lasts, with its name, as far as there is room before the next one begins."""
    cells = [" "] * (columns.count + 1)
    for phase, after in itertools.zip_longest(phases, phases[1:]):
        begin, end = columns(phase.begun), columns(phase.ended)
        following = columns.count if after is None else columns(after.begun)
        text = f"|{phase.name}".ljust(end - begin, "-")[:following - begin]
        cells[begin:begin + len(text)] = text
        if begin + len(text) <= end < following:
            cells[end] = "|"
    return "".join(cells)


def _axis(columns: _Columns) -> str:
    cells = [" "] * columns.count
    second = 0
    while (at := round(second / columns.step)) < columns.count:
        text = str(second)
        if at + len(text) <= columns.count:
            cells[at:at + len(text)] = text
        second += 1
    return "".join(cells)
