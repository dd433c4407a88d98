"""A picture of an upgrade, as its clients have seen it: requests per second, and how long each of them took.

Needs matplotlib (extra ``plot``), and imports it only when something is drawn."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Sequence
from os import PathLike, fspath
from typing import Any, NamedTuple

OK = "ok"

#: Generations in the order in which they answered; what failed has a colour of its own. All differ also in lightness.
_COLOURS = ("#4477aa", "#e6a532", "#228866", "#aa77bb")
_FAILED = "#cc1133"
_BANDS = ("#f4f4f4", "#e4e4e4")
#: Pieces of time into which a picture of N seconds is cut: enough to see a gap, few enough to see a rate.
_PIECES = 80
#: Of the picture's width: what a letter of a phase's name takes.
_LETTER = 0.0075
#: Points of a scatter are drawn as pixels: as shapes they would be most of a file.
_DPI = 90
_WIDTH, _HEIGHT = 9.0, 3.4


class CannotDraw(Exception):
    """There is no matplotlib, nothing to be drawn, or no such format. The message says what to do."""


class Record(NamedTuple):
    """The end of one request. Times are seconds on one monotonic clock, that of the phases."""

    begun: float
    ended: float
    kind: str
    #: "ok", or a kind of failure.
    outcome: str
    #: Who answered; of no meaning where nobody did.
    generation: str | int


class Phase(NamedTuple):
    """A part of the upgrade: what happened from when to when."""

    name: str
    begun: float
    ended: float


class Side(NamedTuple):
    """One of several upgrades in a picture."""

    title: str
    records: Iterable[Sequence[Any]]
    phases: Iterable[Sequence[Any]] = ()


def draw(records: Iterable[Sequence[Any]], phases: Iterable[Sequence[Any]], path: str | PathLike[str]) -> None:
    """Draw one upgrade into the file `path`, of the format that its suffix names (svg, png, pdf).

    `records` are (begun, ended, kind, outcome, generation), `phases` (name, begun, ended). 0 on the time axis is where
    the first phase begins. Raises CannotDraw; OSError when the file cannot be written."""
    draw_sides([Side("", records, phases)], path)


def draw_sides(sides: Sequence[Side], path: str | PathLike[str]) -> None:
    """Draw several, one above the other, with the same scales. As `draw`."""
    made = [_Side(side) for side in sides]
    try:
        figures = importlib.import_module("matplotlib.figure")
        matplotlib = importlib.import_module("matplotlib")
    except ImportError as exc:
        raise CannotDraw(f"a picture needs matplotlib (pip install gunicorn_hot[plot]): {exc}") from exc
    first, last = min(side.first for side in made), max(side.last for side in made)
    # The same file for the same figures; and letters as letters.
    with matplotlib.rc_context({"svg.hashsalt": "gunicorn_hot", "svg.fonttype": "none", "font.size": 9}):
        figure: Any = figures.Figure(figsize=(_WIDTH, _HEIGHT * len(made)), dpi=_DPI, layout="constrained")
        axes = figure.subplots(2 * len(made), 1, sharex=True, height_ratios=[3, 4] * len(made))
        rates, times = axes[0::2], axes[1::2]
        width = max((last - first) / _PIECES, 0.01)
        for side, rate, time in zip(made, rates, times, strict=True):
            side.draw_rate(rate, first, last, width)
            side.draw_times(time)
            for one in (rate, time):
                side.draw_phases(one, one is rate, (last - first) * _LETTER)
        _scale(rates, linear=True)
        _scale(times, linear=False)
        axes[-1].set_xlim(first, last)
        axes[-1].set_xlabel("seconds since the upgrade was ordered")
        suffix = fspath(path).rpartition(".")[2].lower()
        try:
            figure.savefig(path, metadata={"Date": None} if suffix == "svg" else None)
        except ValueError as exc:
            raise CannotDraw(f"{fspath(path)}: {exc}") from exc


def _scale(axes: Any, linear: bool) -> None:
    """Give these axes one scale, so that they can be compared."""
    low, high = min(one.get_ylim()[0] for one in axes), max(one.get_ylim()[1] for one in axes)
    for one in axes:
        one.set_ylim(0 if linear else low, high)


class _Side:
    """What is drawn of one upgrade; times are seconds since its first phase began."""

    def __init__(self, side: Side) -> None:
        self.title = side.title
        records = sorted(Record(*record) for record in side.records)
        if not records:
            raise CannotDraw("there is no request to be drawn")
        phases = [Phase(*phase) for phase in side.phases]
        origin = min(phase.begun for phase in phases) if phases else records[0].begun
        self.records = [r._replace(begun=r.begun - origin, ended=r.ended - origin) for r in records]
        self.phases = [p._replace(begun=p.begun - origin, ended=p.ended - origin) for p in phases]
        self.first = self.records[0].begun
        self.last = max(record.ended for record in self.records)
        answers = sorted((r for r in self.records if r.outcome == OK), key=lambda r: r.ended)
        self.generations = list(dict.fromkeys(record.generation for record in answers))
        self.failed = [record for record in self.records if record.outcome != OK]

    def _answered_by(self, generation: str | int) -> list[Record]:
        return [r for r in self.records if r.outcome == OK and r.generation == generation]

    def _colour(self, generation: str | int) -> str:
        return _COLOURS[self.generations.index(generation) % len(_COLOURS)]

    def draw_rate(self, axes: Any, first: float, last: float, width: float) -> None:
        """Answers per second by generation, failures on top, in pieces of `width` seconds."""
        pieces = math.ceil((last - first) / width)
        edges = [first + width * i for i in range(pieces + 1)]
        below = [0.0] * pieces
        stacked = [
            (self._answered_by(generation), f"generation {generation}", self._colour(generation))
            for generation in self.generations
        ]
        for records, label, colour in [*stacked, (self.failed, f"failed: {len(self.failed)}", _FAILED)]:
            counts = [0] * pieces
            for record in records:
                counts[min(int((record.ended - first) / width), pieces - 1)] += 1
            above = [low + count / width for low, count in zip(below, counts, strict=True)]
            # Only where there is something: steps of no height would be a third of the file.
            some = [piece for piece, count in enumerate(counts) if count] or [0]
            part = slice(some[0], some[-1] + 1)
            axes.stairs(
                above[part], edges[some[0] : some[-1] + 2],
                baseline=below[part], fill=True, color=colour, label=label, zorder=2,
            )
            below = above
        axes.set_ylabel("requests/s")
        axes.set_title(self.title, loc="left", fontweight="bold", pad=16)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1.07), ncols=4, frameon=False, borderaxespad=0)

    def draw_times(self, axes: Any) -> None:
        """Each request where it began, as high as it took long."""
        axes.set_yscale("log")
        for generation in self.generations:
            answered = self._answered_by(generation)
            axes.scatter(
                [r.begun for r in answered], [_ms(r) for r in answered],
                s=4, color=self._colour(generation), linewidths=0, rasterized=True, zorder=2,
            )
        axes.scatter(
            [r.begun for r in self.failed], [_ms(r) for r in self.failed],
            s=22, color=_FAILED, marker="x", linewidths=1.2, zorder=3,
        )
        axes.set_ylabel("duration, ms")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")

    def draw_phases(self, axes: Any, named: bool, letter: float) -> None:
        """The phases as bands, named above; where there is no room for a name (`letter` seconds for each letter) it is
        written together with the next one's."""
        waiting: list[Phase] = []
        for number, phase in enumerate(self.phases):
            waiting.append(phase)
            axes.axvspan(phase.begun, phase.ended, color=_BANDS[number % len(_BANDS)], linewidth=0, zorder=0)
            axes.axvline(phase.begun, color="#999999", linewidth=0.6, zorder=1)
            text, begun = ", ".join(one.name for one in waiting), waiting[0].begun
            if named and (phase.ended - begun >= len(text) * letter or phase is self.phases[-1]):
                axes.annotate(
                    text, (begun, 1), xycoords=("data", "axes fraction"),
                    xytext=(2, 2), textcoords="offset points", fontsize=8, color="#555555",
                )
                waiting.clear()
        for edge in ("top", "right"):
            axes.spines[edge].set_visible(False)


def _ms(record: Record) -> float:
    """Its duration; not less than what a logarithmic scale should show."""
    return max((record.ended - record.begun) * 1000, 0.1)
