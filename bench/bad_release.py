"""What a bad release does to clients, of ours and of each rival: does the service live, and can it be repaired?

A bad release is put on the disk and an upgrade ordered, under a small load; some seconds later the service is asked
whether it is up. Then a good release is put there, and an upgrade ordered in the same way."""

from __future__ import annotations

import time
from typing import Any

from bench.ceiling import Ceiling
from bench.load import Load, Report
from bench.options import Options
from bench.rivals import Rival, installed
from bench.service import BenchError
from bench.tables import Result

_CLIENTS = {"new": 4, "keep": 2}
_REQUEST = 5.0          # s; the patience of a client
_TRIES = 3
_WHAT = {
    "import": "cannot be imported",
    "hang": "hangs at import",
    "500": "answers 500",
    "first": "crashes at the first request",
    "later": "crashes after 3 s",
}


def run(options: Options, ceiling: Ceiling) -> Result:
    result = Result(
        "bad-release",
        f"failed requests of the first {options.after_s:g} s; whether it was up then; whether a good one then worked",
        ("server", "version", *(_WHAT[fault] for fault in options.faults)),
    )
    for rival, version in installed(options.rivals, result):
        cells = []
        for fault in options.faults:
            if fault not in rival.faults:
                cells.append("-")
                continue
            record = _try(rival, fault, options)
            result.records.append({"server": rival.name, "version": version, "fault": fault, **record})
            options.save(result)
            up = "up" if record["up"] else "DOWN"
            cells.append(f"{record['failed']} of {record['requests']}; {up}; {record['repaired']}")
        result.add(rival.title, version, *cells)
        options.save(result)
    result.notes += [
        f"a request that had no answer in {_REQUEST:g} s has failed",
        "up: one of three requests at that moment was answered with 200",
        "repaired: a good release answered after one more upgrade; gone: there was no process left to be told",
    ]
    return result


def _try(rival_class: type[Rival], fault: str, options: Options) -> dict[str, Any]:
    with rival_class(options.workers or 2, sum(_CLIENTS.values()) * 2, options.probation) as rival:
        rival.release("0", options.import_s)
        rival.start()
        load = Load(rival.address, _CLIENTS, timeout=_REQUEST)
        with load:
            load.wait_for(50, timeout=30)
            rival.release("1", options.import_s, fault)
            ordered = time.monotonic()
            rival.upgrade()
            time.sleep(max(0.0, ordered + options.after_s - time.monotonic()))      # it is the measurement
            up = any(rival.answers() for _ in range(_TRIES))
            checked = time.monotonic()
            report = load.stop()
        repaired = _repair(rival, options)
        log = rival.log()
    window = [record for record in report.records if ordered <= record.began <= checked]
    return {
        "requests": len(window),
        "failed": sum(not record.ok for record in window),
        "failures": dict(Report(window).failures),
        "up": up,
        "repaired": repaired,
        "log": log,
    }


def _repair(rival: Rival, options: Options) -> str:
    """Return "repaired", or why not."""
    if not rival.is_running:
        return "gone"
    rival.release("2", 0.0)
    try:
        rival.upgrade()
        rival.poll(lambda: rival.answers(gen="2"), options.repair_s, "release 2 does not answer")
    except (BenchError, OSError, ValueError):
        return "not repaired" if rival.is_running else "gone"
    return "repaired"
