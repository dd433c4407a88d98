"""What clients see of upgrades: failures, answers of the old generation after the new one's, waits.

One server and one load per worker type. Windows with an upgrade, [SIGUSR2, old master gone], and windows
without one of the same length follow each other in turn.
"""

from __future__ import annotations

import gc
import re
import time
from typing import Any

from bench.ceiling import Ceiling
from bench.load import Load, percentile
from bench.mix import SLOW_MS, mix
from bench.options import Options
from bench.service import Service
from bench.tables import Result, spread, verdict

#: Clients whose requests take no time by themselves, and all need a connection.
_NEW = "new"
_RATIO = 2.0
_LONGEST = 0.020        # s
_FEW = 10               # of the longest waits of a window are saved with all that is known of them
#: Lines of the log with which a phase of an upgrade begins. Before the first, "exec": the new master starts.
_PHASES = {
    "application": r"Booting worker with pid",
    "cut-over": r"successor with pid: \d+ is ready",
    "probation": r"Upgrade: cut over",
    "drain": r"Upgrade: committed to successor",
}
_DRAINED = r"draining (\d+) requests"


def run(options: Options, ceiling: Ceiling) -> Result:
    result = Result(
        "upgrade",
        "failures and waits of new connections, with an upgrade / without one",
        ("worker", "upgrades", "requests/s", "failed", "went back", "drained", "longest wait, ms", "ratio",
         "p99, ms", "ratio per pair", "longest was in", f"<= {_RATIO:g}x or {_LONGEST * 1000:g} ms",
         "window, s"),
    )
    for worker in options.types():
        _measure(worker, options, ceiling, result)
        options.save(result)
    result.notes.append("waits: from connect() to the whole answer, clients of the kind \"new\", ok answers")
    result.notes.append("drained: requests in flight in the old workers when the drain began, per upgrade")
    result.notes.append("a / b: with an upgrade / without one, windows of the same length; pair: one of each")
    return result


def _measure(worker: str, options: Options, ceiling: Ceiling, result: Result) -> None:
    clients, settings = mix(worker, options.workers or 2)
    service = Service(
        worker, True, **settings, import_s=options.import_s, hot_probation=options.probation,
        hot_drain_timeout=30,
    )
    windows: list[dict[str, Any]] = []
    with service:
        service.start()
        service.wait_ready()
        load = Load(service.address, clients, slow_ms=options.slow_ms or SLOW_MS)
        with load:
            load.wait_for(20 * sum(clients.values()), timeout=30)
            for _ in range(options.upgrades_of("upgrade")):
                # What has been recorded so far is not to be looked at again: the load's own collections of
                # garbage would take longer and longer, and be taken for waits.
                gc.freeze()
                upgrade = service.upgrade()
                gone = service.wait_gone(upgrade)
                load.wait_for(1, gen=str(upgrade.new.pid))
                lines = service.log.find(_PHASES, upgrade.mark)
                windows.append({
                    "start": upgrade.sent, "end": gone, "upgrade": True,
                    "phases": {name: line.at for name, line in lines.items()},
                    "drained": int(re.findall(_DRAINED, lines["drain"].text)[0]),
                })
                gc.freeze()
                start = time.monotonic()
                time.sleep(gone - upgrade.sent)     # not for something to happen: it is the measurement
                windows.append({"start": start, "end": time.monotonic(), "upgrade": False})
            report = load.stop()
        gc.unfreeze()
    uncovered = set()
    for window in windows:
        window["waits"] = report.waits(_NEW, window["start"], window["end"])
        window["reconnect_waits"] = sorted(
            wait for kind in ("keep", "idle") for wait in report.waits(kind, window["start"], window["end"])
        )
        window["longest"] = [
            {"opened": record.opened, "wait": record.done - record.opened,
             "gen": record.gen, "pid": record.pid}
            for record in sorted(
                (record for record in report.records if record.kind == _NEW and record.ok
                 and window["start"] <= record.opened <= window["end"]),
                key=lambda record: record.done - record.opened, reverse=True,
            )[:_FEW]
        ]
        window["not_covered"] = report.overlapped(window["start"], window["end"])
        uncovered.update(window["not_covered"])
    with_upgrade = sorted(wait for window in windows if window["upgrade"] for wait in window["waits"])
    without = sorted(wait for window in windows if not window["upgrade"] for wait in window["waits"])
    pairs = [
        with_one["waits"][-1] / without_one["waits"][-1]
        for with_one, without_one in zip(windows[::2], windows[1::2], strict=True)
        if with_one["waits"] and without_one["waits"]
    ]
    drained = [window["drained"] for window in windows if window["upgrade"]]
    longest, quiet = with_upgrade[-1], without[-1]
    seconds = windows[-1]["end"] - windows[0]["start"]
    went_back = len(report.went_back)
    result.failed += report.failed + went_back
    result.records.append({
        "worker": worker, "windows": windows, "report": report.as_dict(), "summary": report.summary(),
    })
    result.add(
        worker, options.upgrades_of("upgrade"), f"{len(report.records) / seconds:.0f}", report.failed, went_back,
        spread(drained, 0),
        f"{longest * 1000:.1f} / {quiet * 1000:.1f}", f"{longest / quiet:.2f}",
        f"{percentile(with_upgrade, 99) * 1000:.1f} / {percentile(without, 99) * 1000:.1f}",
        spread(pairs, 2), _phase(windows), verdict(longest <= _RATIO * quiet or longest <= _LONGEST),
        spread([window["end"] - window["start"] for window in windows if window["upgrade"]]),
    )
    if longest <= 2 * ceiling.load_wait:
        own = ceiling.load_wait * 1000
        result.notes.append(f"{worker}: the longest wait is near the load's own ({own:.1f} ms)")
    if not max(drained):
        result.notes.append(f"{worker}: no request was in flight when a drain began: --slow-ms > --probation")
    if uncovered:
        result.notes.append(f"{worker}: windows without a request of: {', '.join(sorted(uncovered))}")
    if report.failed or went_back:
        result.notes.append(report.summary().replace("\n", "\n  "))


def _phase(windows: list[dict[str, Any]]) -> str:
    """In which phase of its upgrade the longest wait began."""
    window = max((window for window in windows if window["upgrade"] and window["longest"]),
                 key=lambda window: window["longest"][0]["wait"])
    opened = window["longest"][0]["opened"]
    begun = [(at, name) for name, at in window["phases"].items() if at <= opened]
    return max(begun, default=(0.0, "exec"))[1]
