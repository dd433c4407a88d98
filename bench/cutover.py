"""How long nobody accepts: from READY in the old master to the gate, by the masters' own debug logs.

Upgrades of a server without any load and of one under the mixed load take turns. Each line has the time at
which it was logged, on a clock that all processes share. Lines of the level debug are not written at once
(`apps.logger`): to read them would take the cores that the masters need.

With `--idle` that many kept-alive connections to the old workers are open meanwhile, and say nothing.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any

from bench.ceiling import Ceiling
from bench.idle import waiting as idle_connections
from bench.load import Load, percentile
from bench.mix import mix
from bench.options import Options
from bench.service import Service
from bench.tables import Result, spread, verdict

_MEDIAN = 0.002         # s
_MEDIAN_IDLE = 0.010    # s, with idle connections
_LINE_TIMEOUT = 60.0    # s
_SIDES = ("idle", "loaded")
_SLOW_MS = 300          # of a slow request: an upgrade takes as long as the slowest one it has to wait for


def run(options: Options, ceiling: Ceiling) -> Result:
    target = _MEDIAN_IDLE if options.idle else _MEDIAN
    result = Result(
        "cutover",
        "READY received -> gate open, ms",
        ("worker", "load", "upgrades", "median (min-max)", "p99", f"median <= {target * 1000:g}",
         "READY -> paused", "paused -> new master opens", "-> old master knows", "READY -> first new answer",
         "failed"),
    )
    for worker in options.types():
        _measure(worker, options, target, result)
        options.save(result)
    if options.idle:
        result.notes.append(f"{options.idle} kept-alive connections wait meanwhile (sync: none, it keeps none)")
    result.notes += [
        "gate open: the new master has told its workers, and the old one has read that it has",
        "first new answer: seen by one of the clients, so only under load",
    ]
    return result


def _measure(worker: str, options: Options, target: float, result: Result) -> None:
    workers = options.workers or 2
    clients, settings = mix(worker, workers)
    idle_settings: dict[str, int] = {"workers": workers}
    if options.idle:
        for some in (settings, idle_settings):
            # Longer than any upgrade here takes.
            some.update(keepalive=600, worker_connections=options.idle + 1000)
    records: list[dict[str, Any]] = []
    with _service(worker, **idle_settings) as idle, _service(worker, **settings) as loaded:
        for service in (idle, loaded):
            service.start()
        for service in (idle, loaded):
            service.wait_ready()
        for turn in range((options.upgrades_of("cutover") + 1) // 2):
            for side in _SIDES if turn % 2 == 0 else reversed(_SIDES):
                if side == "idle":
                    record = _upgrade(worker, idle, None, options)
                else:
                    record = _upgrade(worker, loaded, clients, options)
                records.append({"worker": worker, "load": side, **record})
    result.records += records
    for side in _SIDES:
        mine = [record for record in records if record["load"] == side]
        total = sorted(record["total_s"] * 1000 for record in mine)
        failed = sum(record["failed"] for record in mine)
        result.failed += failed
        result.add(
            worker, side, len(mine), spread(total, 2), f"{percentile(total, 99):.2f}",
            verdict(statistics.median(total) <= target * 1000),
            *(spread([record[key] * 1000 for record in mine if record[key] is not None], 2)
              for key in ("pause_s", "open_s", "answer_s", "first_answer_s")),
            failed,
        )


def _service(worker: str, **settings: int) -> Service:
    return Service(worker, True, **settings, hot_probation=0, hot_drain_timeout=30, loglevel="debug")


def _upgrade(worker: str, service: Service, clients: dict[str, int] | None, options: Options) -> dict[str, Any]:
    """One upgrade; times in s, `first_answer_s` None without clients. `worker`: its type."""
    with ExitStack() as stack:
        waiting = stack.enter_context(ExitStack())
        if options.idle and worker != "sync":
            waiting.enter_context(idle_connections(service.address, options.idle))
        load = None
        if clients is not None:
            load = stack.enter_context(Load(service.address, clients, slow_ms=options.slow_ms or _SLOW_MS))
            load.wait_for(5 * sum(clients.values()), timeout=30)
        upgrade = service.upgrade()
        # With no worker to wait for, PAUSING is passed over.
        ready, match = service.log.wait(r"BOOTING -> (PAUSING|OPENING) ", upgrade.mark, _LINE_TIMEOUT)
        paused = ready
        if match[1] == "PAUSING":
            paused, _ = service.log.wait(r"PAUSING -> OPENING ", upgrade.mark, _LINE_TIMEOUT)
        opened, _ = service.log.wait(r"READY -> OPEN ", upgrade.mark, _LINE_TIMEOUT)
        known, _ = service.log.wait(r"OPENING -> (PROBATION|COMMITTING) ", upgrade.mark, _LINE_TIMEOUT)
        # The old workers would keep them to the end of the drain.
        waiting.close()
        service.wait_gone(upgrade)
        first = None
        failed = 0
        if load is not None:
            name = str(upgrade.new.pid)
            load.wait_for(1, gen=name)
            report = load.stop()
            failed = report.failed + len(report.went_back)
            first = next(gen.first_done for gen in report.generations if gen.name == name) - ready.at
    return {
        "boot_s": ready.at - upgrade.sent,
        "pause_s": paused.at - ready.at,
        "open_s": opened.at - paused.at,
        "answer_s": known.at - opened.at,
        "total_s": known.at - ready.at,
        "first_answer_s": first,
        "failed": failed,
    }
