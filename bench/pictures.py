"""Pictures of what some of the benches have measured, drawn from their records.

Need matplotlib (extra "plot"), and import it only when something is drawn."""

from __future__ import annotations

import importlib
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
    """Numbers as people write them, not as powers of ten."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")


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


#: By the name of the bench.
PICTURES: dict[str, Callable[[Records, Any], None]] = {
    "endurance": _endurance,
}
