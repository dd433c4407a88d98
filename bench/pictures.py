"""Pictures of what some of the benches have measured, drawn from their records.

Need matplotlib (extra "plot"), and import it only when something is drawn."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.tables import Result
from gunicorn_hot.cli.demo.plot import CannotDraw

_WIDTH = 9.0            # inches
_DPI = 110
#: They differ also in lightness.
_COLOURS = ("#4477aa", "#e6a532", "#228866", "#aa77bb", "#cc1133")

Records = list[dict[str, Any]]


def draw(result: Result, file: Path) -> None:
    """Draw the records of a bench that is in PICTURES. Raises CannotDraw; OSError when it cannot be written."""
    if not result.records:
        raise CannotDraw("nothing was measured")
    try:
        figures = importlib.import_module("matplotlib.figure")
        matplotlib = importlib.import_module("matplotlib")
    except ImportError as exc:
        raise CannotDraw(f"it needs matplotlib (pip install gunicorn_hot[plot]): {exc}") from exc
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = figures.Figure(dpi=_DPI, layout="constrained")
        PICTURES[result.name](result.records, figure)
        figure.savefig(file)


def _grid(figure: Any, rows: int, columns: int, row_height: float, **more: Any) -> Any:
    """Axes of a figure that is as high as its rows need; always two dimensions."""
    figure.set_size_inches(_WIDTH, max(row_height * rows, 1.8))
    return figure.subplots(rows, columns, squeeze=False, **more)


def _plain(axis: Any) -> None:
    """Numbers on a logarithmic axis as people write them, not as powers of ten; of the lesser ones 2 and 5."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")


def _endurance(records: Records, figure: Any) -> None:
    """Over the upgrades: how long each took, and what its processes had, by pid mode and type."""
    sides = sorted({(record["worker"], record["hot_pid"]) for record in records})
    axes = _grid(figure, 3, 1, 2.0, sharex=True)[:, 0]
    for number, side in enumerate(sides):
        mine = [record for record in records if (record["worker"], record["hot_pid"]) == side]
        upgrades = [record["upgrade"] for record in mine]
        colour, label = _COLOURS[number % len(_COLOURS)], " ".join(side)
        axes[0].plot(upgrades, [record["took_s"] for record in mine], ".", color=colour, label=label)
        styles = {"master": "-", "worker_mean": "--", "holder": ":"}
        for who, style in styles.items():
            some = [record for record in mine if record[who]]
            for each, key in ((axes[1], "descriptors"), (axes[2], "rss_mib")):
                if some:
                    each.plot([record["upgrade"] for record in some], [record[who][key] for record in some],
                              style, color=colour, label=f"{label}: {who.replace('_', ' ')}")
    axes[0].set_ylabel("one upgrade, s")
    axes[1].set_ylabel("descriptors")
    axes[2].set_ylabel("RSS, MiB")
    axes[2].set_xlabel("upgrade")
    for each in axes:
        each.set_ylim(bottom=0)
    axes[0].legend(frameon=False, ncols=2)
    axes[1].legend(frameon=False, fontsize=7, ncols=2)


def _cutover(records: Records, figure: Any) -> None:
    """How many of the upgrades had cut over in so many ms, by type: idle and loaded."""
    loads = sorted({record["load"] for record in records})
    axes = _grid(figure, 1, len(loads), 3.4, sharey=True, sharex=True)[0]
    for each, load in zip(axes, loads, strict=True):
        for number, worker in enumerate(dict.fromkeys(record["worker"] for record in records)):
            mine = sorted(
                record["total_s"] * 1000 for record in records if (record["worker"], record["load"]) == (worker, load))
            if mine:
                each.ecdf(mine, color=_COLOURS[number % len(_COLOURS)], label=f"{worker} ({len(mine)})")
        each.set_xscale("log")
        _plain(each.xaxis)
        each.set_title(load, loc="left", fontweight="bold")
        each.set_xlabel("READY received -> gate open, ms")
        each.grid(alpha=0.3)
        each.legend(frameon=False, loc="lower right")
    axes[0].set_ylabel("part of the upgrades")


def _cost(records: Records, figure: Any) -> None:
    """Each figure over the workers, and over the idle connections."""
    rows = (
        ("CPU, s", {"cpu_s": "SIGUSR2 -> old gone"}),
        ("memory, MiB", {"before_mib": "before", "peak_mib": "peak"}),
        ("time, s", {"ready_s": "SIGUSR2 -> ready", "answer_s": "-> first new answer", "gone_s": "-> old gone"}),
    )
    alone = [record for record in records if record["idle"] == 0]
    with_idle = {record["workers"] for record in records if record["idle"]}
    beside = [record for record in records if record["workers"] in with_idle]
    axes = _grid(figure, len(rows), 2, 2.3, sharex="col")
    types = list(dict.fromkeys(record["worker"] for record in records))
    for column, (key, mine, label) in enumerate((
        ("workers", alone, "workers, nobody idle"),
        ("idle", beside, f"idle connections, {', '.join(map(str, sorted(with_idle)))} workers"),
    )):
        for row, (title, figures) in enumerate(rows):
            each = axes[row][column]
            for number, (name, what) in enumerate(figures.items()):
                for worker, style in zip(types, ("o-", "s--", "^:", "v-.", "d-"), strict=False):
                    some = [record for record in mine if name in record and record["worker"] == worker]
                    points = sorted({record[key] for record in some})
                    each.plot(
                        points,
                        [statistics.median(record[name] for record in some if record[key] == at) for at in points],
                        style, color=_COLOURS[number], markersize=4,
                        label=what if len(types) == 1 else f"{worker}: {what}",
                    )
            each.set_ylim(bottom=0)
            each.set_ylabel(title)
            each.legend(frameon=False, fontsize=7)
        axes[-1][column].set_xlabel(label)


def _rivals(records: Records, figure: Any) -> None:
    """The longest wait of a new connection of each server: with an upgrade, and without one."""
    axes = _grid(figure, 1, 1, 0.42 * len(records) + 1.0)[0][0]
    names = []
    for place, record in enumerate(records):
        report = record["report"]
        names.append(f"{record['title']}\n{report['failed']} failed, {report['went_back']} went back")
        for side, shift, colour in ((True, -0.2, _COLOURS[1]), (False, 0.2, _COLOURS[0])):
            waits = [wait for window in record["windows"] if window["upgrade"] is side for wait in window["waits"]]
            if waits:
                axes.barh(place + shift, max(waits) * 1000, 0.38, color=colour)
    for label, colour in (("with an upgrade", _COLOURS[1]), ("without", _COLOURS[0])):
        axes.barh([0], [0], color=colour, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    _plain(axes.xaxis)
    axes.set_xlabel("longest wait of a new connection, ms")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


#: By the name of the bench.
PICTURES: dict[str, Callable[[Records, Any], None]] = {
    "cutover": _cutover,
    "cost": _cost,
    "endurance": _endurance,
    "rivals": _rivals,
}
