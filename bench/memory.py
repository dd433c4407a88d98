"""What gunicorn_hot adds to the memory of an idle worker: hot - stock.

Private memory (USS): what the kernel would get back if the worker ended. Pages that it still shares with its master are
not its own. The package is measured with its bytecode, as pip installs it: a master that has to compile it keeps some
2 MB of heap that it will never use again."""

from __future__ import annotations

import compileall
import statistics
from pathlib import Path
from typing import Any

from bench.ceiling import Ceiling
from bench.options import Options
from bench.service import BenchError, Exchange, Service, children
from bench.tables import Result, spread, verdict

_MOST = 1.0             # MiB
_REQUESTS = 20          # to each worker, so that it has done what it does once
_ENOUGH = 20_000        # requests, after which each worker should have had these


def run(options: Options, ceiling: Ceiling) -> Result:
    result = Result(
        "memory",
        f"private memory of an idle worker, hot - stock ({options.workers or 2} workers)",
        ("worker", "pairs", "hot, KiB", "stock, KiB", "difference, KiB", f"median <= {_MOST:g} MiB",
         "proportional, difference, KiB"),
    )
    compileall.compile_dir(Path(__file__).resolve().parents[1] / "gunicorn_hot", quiet=1)
    for worker in options.types():
        _measure(worker, options, result)
        options.save(result)
    result.notes.append("proportional: PSS, in which a shared page counts as its part of one")
    return result


def _measure(worker: str, options: Options, result: Result) -> None:
    records: list[dict[str, Any]] = []
    for pair in range(options.pairs):
        sides = [("hot", True), ("stock", False)]
        record: dict[str, Any] = {"worker": worker, "pair": pair}
        for side, hot in sides if pair % 2 == 0 else reversed(sides):
            record[side] = _idle(worker, options, hot)
        records.append(record)
    result.records += records
    hots, stocks = ([record[side] for record in records] for side in ("hot", "stock"))
    private = [hot["private_kib"] - stock["private_kib"] for hot, stock in zip(hots, stocks, strict=True)]
    shared = [hot["proportional_kib"] - stock["proportional_kib"] for hot, stock in zip(hots, stocks, strict=True)]
    result.add(
        worker, len(records), spread([hot["private_kib"] for hot in hots], 0),
        spread([stock["private_kib"] for stock in stocks], 0), spread(private, 0),
        verdict(statistics.median(private) <= _MOST * 1024), spread(shared, 0),
    )


def _idle(worker: str, options: Options, hot: bool) -> dict[str, float]:
    """Means of the workers of a fresh server, in KiB."""
    with Service(worker, hot, workers=options.workers or 2) as service:
        service.start()
        service.wait_ready()
        pids = children(service.master.pid)
        _occupy(service.port, pids)
        workers = [_memory(pid) for pid in pids]
    return {key: statistics.mean(memory[key] for memory in workers) for key in workers[0]}


def _occupy(port: int, pids: list[int]) -> None:
    """Ask until each of the workers has answered often enough: one that has not has up to 2 MiB less."""
    left = dict.fromkeys(map(str, pids), _REQUESTS)
    for _ in range(_ENOUGH):
        exchange = Exchange(port)
        pid = exchange.get("/", close=True)["x-pid"]
        exchange.close()
        if pid not in left:
            raise BenchError(f"a worker with pid {pid} has taken the place of one of {pids}")
        left[pid] -= 1
        if max(left.values()) <= 0:
            return
    raise BenchError(f"after {_ENOUGH} requests these workers had still to answer so many: {left}")


def _memory(pid: int) -> dict[str, float]:
    fields = dict.fromkeys(("Private_Clean", "Private_Dirty", "Private_Hugetlb", "Pss"), 0)
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name in fields:
            fields[name] = int(value.split()[0])
    proportional = fields.pop("Pss")
    return {"private_kib": sum(fields.values()), "proportional_kib": proportional}
