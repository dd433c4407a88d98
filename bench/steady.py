"""What gunicorn_hot costs while nothing is upgraded: throughput, CPU time and instructions per request, hot / stock.

Each pair has two fresh servers, which are asked in short turns, one after the other: what else the machine does meets
both. Fresh ones for each pair, and each with a ballast of its own in its memory, because two processes of the same
program differ by a few percent for as long as they live, by the layout of their memory and the seed of their hashes.
Without a ballast one program would have nearly the same layout each time, and be lucky, or not, in each pair.
"""

from __future__ import annotations

import importlib.util
import random
import statistics
from typing import Any

from bench import hammer, instructions
from bench.ceiling import NEAR, Ceiling
from bench.options import Options
from bench.service import BenchError, Service
from bench.tables import Result, spread, verdict

_RATIO = 0.98
_TURNS = 10             # of each side, in a pair
_CONNECTIONS = 16
_WARMUP = 200           # requests
#: One worker, if nothing else is asked for: with two, they and the load would share the two cores of a small
#: machine, and the scheduler would decide the throughput.
_WORKERS = 1
#: In the configuration file: objects of all the sizes that the interpreter's allocator keeps apart.
_BALLAST = 10_000       # objects at most


def run(options: Options, ceiling: Ceiling) -> Result:
    result = Result(
        "steady",
        f"hot / stock without an upgrade ({options.workers or _WORKERS} workers, {_CONNECTIONS} connections, "
        f"{options.seconds:g} s a side)",
        ("worker", "connections", "pairs", "hot, requests/s", "stock, requests/s", "throughput ratio",
         f"median >= {_RATIO:g}", "hot, CPU us/request", "stock, CPU us/request", "CPU ratio",
         "hot, 1000 instructions/request", "stock", "ratio", "failed"),
    )
    for worker in options.types():
        for each in _on_each_loop(worker, result):
            _measure(each, options, ceiling, result)
            options.save(result)
    if options.reuse_port:
        result.notes.append("with reuse_port: a listening socket for each worker")
    if options.control:
        result.notes.append("A CONTROL: \"hot\" is stock, too. The ratios are the noise.")
    result.notes.append(f"throughput ratio: of each pair the median of {_TURNS} turns")
    result.notes.append(_how_counted(options))
    result.notes.append("CPU: user and system time of the master and its workers, / all requests answered")
    return result


def _on_each_loop(worker: str, result: Result) -> tuple[str, ...]:
    """gunicorn's asgi worker has two event loops; uvicorn's takes uvloop where there is one."""
    if worker != "asgi":
        return (worker,)
    if importlib.util.find_spec("uvloop"):
        return "asgi, asyncio", "asgi, uvloop"
    result.notes.append("asgi, uvloop: skipped: not installed")
    return ("asgi, asyncio",)


def _measure(worker: str, options: Options, ceiling: Ceiling, result: Result) -> None:
    keep = worker != "sync"         # a sync worker closes after each answer
    records: list[dict[str, Any]] = []
    for pair in range(options.pairs):
        record: dict[str, Any] = {"worker": worker, "pair": pair}
        with (_service(worker, options, not options.control) as hot,
              _service(worker, options, False) as stock):
            for service in (hot, stock):
                service.start()
            for service in (hot, stock):
                service.wait_ready()
            sides = [("hot", hot), ("stock", stock)]
            turns: dict[str, list[dict[str, Any]]] = {"hot": [], "stock": []}
            for turn in range(_TURNS):
                for side, service in sides if (pair + turn) % 2 == 0 else reversed(sides):
                    turns[side].append(_ask(service, keep, options))
        for side, parts in turns.items():
            record[side] = _sum(parts)
        record["ratio"] = statistics.median(
            ours["rate"] / theirs["rate"] for ours, theirs in zip(turns["hot"], turns["stock"], strict=True))
        records.append(record)
    counts = _instructions(worker, keep, options, result)
    for record in records:
        record["instructions"] = counts
    result.records += records
    hots, stocks = ([record[side] for record in records] for side in ("hot", "stock"))
    ratios = [record["ratio"] for record in records]
    cpu_ratios = [hot["cpu_us"] / stock["cpu_us"] for hot, stock in zip(hots, stocks, strict=True)
                  if stock["cpu_us"]]
    failed = sum(side["failed"] for side in (*hots, *stocks))
    result.failed += failed
    result.add(
        worker, "kept" if keep else "new", len(records),
        spread([side["rate"] for side in hots], 0), spread([side["rate"] for side in stocks], 0),
        spread(ratios, 3), verdict(statistics.median(ratios) >= _RATIO),
        spread([side["cpu_us"] for side in hots], 0), spread([side["cpu_us"] for side in stocks], 0),
        spread(cpu_ratios, 3), *_cells(counts), failed,
    )
    limit = ceiling.keep_rate if keep else ceiling.new_rate
    best = max(side["rate"] for side in (*hots, *stocks))
    if best > NEAR * limit:
        result.notes.append(
            f"{worker}: {best:.0f}/s is near the load's own ceiling ({limit:.0f}/s): trust the CPU ratio")


def _instructions(worker: str, keep: bool, options: Options, result: Result) -> dict[str, float] | None:
    """Of each side, for one request; None if nobody can say."""
    if not options.instructions or instructions.counter() is None:
        return None
    try:
        return instructions.per_request(
            worker, {"hot": not options.control, "stock": False}, keep, options.instructions)
    except (BenchError, OSError) as exc:
        result.notes.append(f"{worker}: instructions: not available: {exc}")
        return None


def _cells(counts: dict[str, float] | None) -> tuple[str, str, str]:
    if counts is None:
        return "-", "-", "-"
    hot, stock = counts["hot"], counts["stock"]
    return f"{hot / 1000:.1f}", f"{stock / 1000:.1f}", f"{hot / stock:.4f}"


def _how_counted(options: Options) -> str:
    how = {
        "perf": "counted by the processor (perf stat -e instructions:u)",
        "callgrind": "counted by callgrind, in servers of their own",
        None: "not available: no processor that counts (perf), and no valgrind",
    }[instructions.counter()] if options.instructions else "not asked for"
    return f"instructions: of the program, not of the kernel; {how}"


def _service(worker: str, options: Options, hot: bool) -> Service:
    return Service(
        worker, hot, workers=options.workers or _WORKERS, reuse_port=options.reuse_port,
        ballast=random.randrange(_BALLAST),
    )


def _ask(service: Service, keep: bool, options: Options) -> dict[str, Any]:
    """One turn: `rate` in requests/s, `cpu` in seconds."""
    before = service.cpu_seconds()
    figures = hammer.run(
        service.port, keep, _CONNECTIONS, _WARMUP, options.seconds / _TURNS, options.processes)
    return {
        "rate": figures.rate,
        "cpu": service.cpu_seconds() - before,
        "requests": figures.requests,
        "failed": figures.failed,
    }


def _sum(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """All turns of one side: `rate` in requests/s, their median; `cpu_us` in microseconds per request."""
    requests = sum(turn["requests"] for turn in turns)
    return {
        "rate": statistics.median(turn["rate"] for turn in turns),
        "cpu_us": sum(turn["cpu"] for turn in turns) / requests * 1e6,
        "requests": requests,
        "failed": sum(turn["failed"] for turn in turns),
    }
