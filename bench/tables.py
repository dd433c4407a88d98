"""The figures of a bench, as text for people and as data for programs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


def spread(values: Sequence[float], digits: int = 1) -> str:
    """"median (min-max)" of `values`, or "-" of none."""
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


@dataclass
class Result:
    """The end of one bench."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    #: Lines under the table.
    notes: list[str] = field(default_factory=list)
    #: Each single measurement, in the order in which they were made.
    records: list[dict[str, Any]] = field(default_factory=list)
    #: Requests that failed or were answered by the old generation after the new one. Anything but 0 is a bug.
    failed: int = 0

    def add(self, *cells: object) -> None:
        """Add a row. Raises ValueError if it does not have one cell per column."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells for {len(self.columns)} columns")
        self.rows.append(tuple(map(str, cells)))

    def text(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        rule = tuple("-" * width for width in widths)
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in (self.columns, rule, *self.rows)
        ]
        return "\n".join([f"{self.name}: {self.title}", "", *table, *(f"  {note}" for note in self.notes)])

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
            "notes": self.notes,
            "failed": self.failed,
            "records": self.records,
        }
