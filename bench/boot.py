"""SIGUSR2 to the first answer of the new generation, against a cold start of stock gunicorn.

The cold start is the same command with the same configuration, without gunicorn_hot: from just before the
fork until the first 200. Both load the same application; the hot server is upgraded again and again, the
stock one is started anew each time. The sides take turns, and so does which of them is first.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

from bench.ceiling import Ceiling
from bench.options import Options
from bench.service import BenchError, Exchange, Service
from bench.tables import Result, spread, verdict

_RATIO = 1.1
_EVERY = 0.002          # s between two looks: the resolution of the measure
_PATIENCE = 60.0        # s


def run(options: Options, ceiling: Ceiling) -> Result:
    result = Result(
        "boot",
        f"SIGUSR2 -> first new answer / cold start of stock gunicorn (import: {options.import_s:g} s)",
        ("worker", "pairs", "upgrade, ms", "cold start, ms", "ratio", f"median <= {_RATIO:g}",
         "difference, ms"),
    )
    for worker in options.types():
        _measure(worker, options, result)
        options.save(result)
    return result


def _measure(worker: str, options: Options, result: Result) -> None:
    workers = options.workers or 2
    records = []
    # Nothing is in flight, so no drain: an upgrade is over when the new generation serves.
    with Service(worker, True, workers=workers, import_s=options.import_s, hot_probation=0) as service:
        service.start()
        service.wait_ready()
        _cold_start(worker, workers, 0.0)       # so that the first one that counts finds the same caches
        sides = {
            "upgrade_s": partial(_upgrade, service),
            "cold_start_s": partial(_cold_start, worker, workers, options.import_s),
        }
        for pair in range(options.pairs):
            record: dict[str, Any] = {"worker": worker, "pair": pair}
            for side in sides if pair % 2 == 0 else reversed(sides):
                record[side] = sides[side]()
            records.append(record)
    result.records += records
    ratios = [record["upgrade_s"] / record["cold_start_s"] for record in records]
    differences = [(record["upgrade_s"] - record["cold_start_s"]) * 1000 for record in records]
    result.add(
        worker, len(records), spread([record["upgrade_s"] * 1000 for record in records], 0),
        spread([record["cold_start_s"] * 1000 for record in records], 0), spread(ratios, 3),
        verdict(statistics.median(ratios) <= _RATIO), spread(differences, 0),
    )


def _cold_start(worker: str, workers: int, import_s: float) -> float:
    with Service(worker, False, workers=workers, import_s=import_s) as service:
        began = service.start()
        _first_answer(service.port, None)
        return time.monotonic() - began


def _upgrade(service: Service) -> float:
    old = str(service.master.pid)
    upgrade = service.upgrade()
    _first_answer(service.port, old)
    took = time.monotonic() - upgrade.sent
    service.wait_gone(upgrade)
    return took


def _first_answer(port: int, not_of: str | None) -> None:
    """Until there is an answer of another generation than `not_of`, one connection at a time."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            exchange = Exchange(port, timeout=_PATIENCE)
        except ConnectionRefusedError:      # of a cold start only: nothing else may refuse
            if not_of is not None:
                raise
        else:
            headers = exchange.get("/", close=True)
            exchange.close()
            if headers["x-gen"] != not_of:
                return
        time.sleep(_EVERY)
    raise BenchError(f"no answer of a new generation in {_PATIENCE:g}s")
