"""What those who are served feel of a new generation that loads: p99 of new connections, meanwhile / before.

The application's import keeps a processor busy, in each of four workers. Four servers take turns: workers that load
all at once; with hot_boot_concurrency; with that and with the lower priority; and only with the latter."""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

from bench.ceiling import Ceiling
from bench.load import Load, percentile
from bench.options import Options
from bench.service import Service
from bench.tables import Result, spread

_WORKERS = 4
_CLIENTS = 4
#: Of the thread that asks, where that is allowed: or its own wait for a processor is taken for the server's.
_NICE = -10
_SIDES: dict[str, dict[str, Any]] = {
    "all at once": {"hot_boot_concurrency": 0, "may_raise_priority": False},
    "one at a time": {"hot_boot_concurrency": 1, "may_raise_priority": False},
    "all at once, lower priority": {"hot_boot_concurrency": 99, "may_raise_priority": True},
    "one at a time, lower priority": {"hot_boot_concurrency": 1, "may_raise_priority": True},
}


def run(options: Options, ceiling: Ceiling) -> Result:
    result = Result(
        "boot-load",
        f"waits of new connections while {options.workers or _WORKERS} workers import "
        f"{options.cpu_s:g} s of CPU each / before",
        ("worker", "loading", "upgrades", "p99, ms", "p99 before, ms", "ratio", "longest, ms", "boot, s", "failed"),
    )
    for worker in options.types(("gthread",)):
        _measure(worker, options, result)
        options.save(result)
    result.notes.append(f"{_CLIENTS} clients, a connection for each request; a window is [SIGUSR2, READY], and one "
                        "of the same length before it")
    if os.geteuid():
        result.notes.append("not root: nobody can raise a priority again, so nobody lowers it")
    return result


def _measure(worker: str, options: Options, result: Result) -> None:
    records: list[dict[str, Any]] = []
    for turn in range(options.pairs):
        for side in _SIDES if turn % 2 == 0 else reversed(_SIDES):
            records.append({"worker": worker, "side": side, **_upgrade(worker, options, _SIDES[side])})
    result.records += records
    for side in _SIDES:
        mine = [record for record in records if record["side"] == side]
        failed = sum(record["failed"] for record in mine)
        result.failed += failed
        during, before = ([percentile(record[window], 99) * 1000 for record in mine] for window in ("during", "before"))
        result.add(
            worker, side, len(mine), spread(during), spread(before),
            f"{statistics.median(during) / statistics.median(before):.2f}",
            spread([record["during"][-1] * 1000 for record in mine]),
            spread([record["boot_s"] for record in mine]), failed,
        )


def _upgrade(worker: str, options: Options, side: dict[str, Any]) -> dict[str, Any]:
    """Waits in s, sorted: `before` and `during` the boot of a new generation."""
    settings = {**side, "workers": options.workers or _WORKERS, "hot_probation": 0, "hot_drain_timeout": 30}
    # The first generation is booted from the same application.
    with Service(worker, True, **settings, import_cpu_s=options.cpu_s) as service:
        service.start()
        service.wait_ready(timeout=60 + 4 * options.cpu_s)
        with Load(service.address, {"new": _CLIENTS}) as load:
            _prefer(load.native_id)
            load.wait_for(50 * _CLIENTS, timeout=30)
            # As long as the boot will take, at least: a percentile of fewer requests says less.
            before = time.monotonic()
            time.sleep(2 * options.cpu_s)       # not for something to happen: it is the measurement
            upgrade = service.upgrade()
            ready, _ = service.log.wait(r"successor with pid: \d+ is ready", upgrade.mark, 60 + 8 * options.cpu_s)
            service.wait_gone(upgrade)
            report = load.stop()
    return {
        "before": report.waits("new", before, upgrade.sent),
        "during": report.waits("new", upgrade.sent, ready.at),
        "boot_s": ready.at - upgrade.sent,
        "failed": report.failed + len(report.went_back),
    }


def _prefer(thread: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, thread, _NICE)
    except OSError:
        pass
