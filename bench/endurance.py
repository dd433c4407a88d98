"""Upgrades in a row under load: does anything fail, and does anything grow?

Every generation is a new process, so what would grow is what is handed on, and the time that it takes; and with hot_pid
"stable" the holder, which stays. After each upgrade, when the old master is gone, the new one, its workers and the
holder are looked at."""

from __future__ import annotations

import gc
import os
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.ceiling import Ceiling
from bench.load import Load
from bench.mix import mix
from bench.options import Options
from bench.service import BenchError, Service, children
from bench.tables import Result

_PIDS = ("follow", "stable")
_SLOW_MS = 300          # of a slow request: an upgrade takes as long as the slowest one it has to wait for
_END = 10               # upgrades; of the first so many, and the last, the medians are compared


def run(options: Options, ceiling: Ceiling) -> Result:
    result = Result(
        "endurance",
        f"upgrades in a row under load; a -> b: median of the first {_END}, and of the last {_END}",
        ("worker", "hot_pid", "upgrades", "requests", "failed", "went back", "one upgrade, s", "longest, s",
         "descriptors: master", "worker", "holder", "RSS, MiB: master", "worker", "holder"),
    )
    for worker in options.types(("gthread",)):
        for hot_pid in _PIDS:
            _measure(worker, hot_pid, options, result)
            options.save(result)
    result.notes += [
        "one upgrade: SIGUSR2 -> old master gone; no import, no probation",
        "descriptors: but for TCP connections to clients; worker: mean of the living ones",
    ]
    return result


def _measure(worker: str, hot_pid: str, options: Options, result: Result) -> None:
    clients, settings = mix(worker, options.workers or 2)
    records: list[dict[str, Any]] = []
    broke = None
    with Service(worker, True, **settings, hot_pid=hot_pid, hot_probation=0, hot_drain_timeout=30) as service:
        service.start()
        service.wait_ready()
        pid = service.master.pid
        load = Load(service.address, clients, slow_ms=options.slow_ms or _SLOW_MS)
        with load:
            load.wait_for(20 * sum(clients.values()), timeout=30)
            for number in range(1, options.upgrades_of("endurance") + 1):
                gc.freeze()     # as in `upgrade`
                try:
                    upgrade = service.upgrade()
                    gone = service.wait_gone(upgrade)
                    load.wait_for(1, gen=str(upgrade.new.pid))
                except (BenchError, TimeoutError) as exc:
                    broke = f"{worker}, {hot_pid}: upgrade {number}: {exc}"
                    break
                records.append({
                    "worker": worker, "hot_pid": hot_pid, "upgrade": number, "took_s": gone - upgrade.sent,
                    "master": _look([upgrade.new.pid], upgrade.new.pid),
                    "worker_mean": _look(children(upgrade.new.pid), upgrade.new.pid),
                    "holder": _look([pid], pid) if hot_pid == "stable" else None,
                })
            report = load.stop()
        gc.unfreeze()
    went_back = len(report.went_back)
    result.records += records
    result.failed += report.failed + went_back + (broke is not None)
    if broke:
        result.notes.append(broke)
    if report.failed or went_back:
        result.notes.append(report.summary().replace("\n", "\n  "))
    took = [record["took_s"] for record in records]
    result.add(
        worker, hot_pid, len(records), len(report.records), report.failed, went_back,
        _ends(took, 2), f"{max(took, default=0):.2f}",
        *(_ends([record[who][what] for record in records if record[who]], digits)
          for what, digits in (("descriptors", 0), ("rss_mib", 1)) for who in ("master", "worker_mean", "holder")),
    )


def _ends(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    return " -> ".join(f"{statistics.median(part):.{digits}f}" for part in (values[:_END], values[-_END:]))


def _look(pids: Iterable[int], master: int) -> dict[str, float] | None:
    """Means of these processes, as far as they live; None if none does."""
    seen = []
    for pid in pids:
        try:
            seen.append({"descriptors": _descriptors(pid, master), "rss_mib": _rss_mib(pid)})
        except OSError:
            continue        # it has ended
    return {key: statistics.mean(each[key] for each in seen) for key in seen[0]} if seen else None


def _rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _descriptors(pid: int, master: int) -> int:
    """How many it has, but for those that come and go with the load.

    A worker's socket is counted if it is a unix one, or one that the master has too: a listening one. The kernel's
    table of TCP sockets would say the same, but has every connection of the last minute in it, and takes its time."""
    lines = Path(f"/proc/{pid}/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    lasting = {f"socket:[{line.split()[6]}]" for line in lines}.union(_targets(master))
    return sum(not target.startswith("socket:") or target in lasting for target in _targets(pid))


def _targets(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    targets = []
    for fd in os.listdir(folder):
        try:
            targets.append(os.readlink(f"{folder}/{fd}"))
        except FileNotFoundError:
            continue        # closed meanwhile
    return targets
