"""The picture of an upgrade that the README has: gunicorn_hot's above gunicorn's own, under the same load."""

from __future__ import annotations

import time
from pathlib import Path

from bench.load import Load
from bench.options import Options
from bench.rivals import RIVALS
from bench.rivals_upgrade import upgrade_once
from gunicorn_hot.cli.demo.plot import Side, draw_sides

_SIDES = ("hot", "gunicorn-usr2-sleep")
_CLIENTS = {"new": 3, "keep": 3, "idle": 4, "slow": 2}
_SLOW_MS = 400
_THREADS = 16
#: Requests before the upgrade is ordered; and how long it is looked at, in s, beyond what the new release needs to
#: load and the probation takes: to see what is normal.
_BEFORE, _AFTER = 800, 2.0


def run(options: Options, file: Path) -> str:
    """Draw it into `file`; returns what is to be seen there. Raises CannotDraw, BenchError, OSError."""
    sides, told = [], []
    for name in _SIDES:
        rival_class = RIVALS[name]
        with rival_class(options.workers or 2, _THREADS, options.probation) as rival:
            rival.release("1", options.import_s)
            rival.start()
            load = Load(rival.address, _CLIENTS, slow_ms=_SLOW_MS, think_s=1.0)
            with load:
                load.wait_for(_BEFORE, timeout=60)
                upgrade = upgrade_once(rival, load, "2", options.import_s)
                end = upgrade["start"] + options.import_s + options.probation + _AFTER
                time.sleep(max(0.0, end - time.monotonic()))    # it is the measurement
                report = load.stop()
        records = [(r.began, r.done, r.kind, r.outcome, r.gen) for r in report.records]
        sides.append(Side(rival_class.title, records, upgrade["phases"]))
        waits = report.waits("new")
        told.append(f"{rival_class.title}: {report.failed} of {len(report.records)} requests failed, "
                    f"the longest wait of a new connection {waits[-1] * 1000:.0f} ms")
    draw_sides(sides, file)
    return "\n".join(told)
