"""From the end of the last request in flight to the end of the old master.

One request is held by the application until everything else is over: the successor has committed, and the
idle workers are gone. The measured time begins when the client has read the whole answer; it closes at once.
The reference is a SIGTERM to a stock gunicorn that holds such a request. The sides take turns.
"""

from __future__ import annotations

import signal
import socket
import statistics
import time

from bench.ceiling import Ceiling
from bench.load import percentile
from bench.options import Options
from bench.service import BenchError, Exchange, Process, Service, children
from bench.tables import Result, spread, verdict

_LONGEST = 0.100        # s
_PATIENCE = 30          # s


def run(options: Options, ceiling: Ceiling) -> Result:
    result = Result(
        "leave",
        "last answer read -> old master gone, ms",
        ("worker", "times", "upgrade: median (min-max)", "p99", f"longest <= {_LONGEST * 1000:g}",
         "SIGTERM to stock: median (min-max)", "ratio of the medians"),
    )
    for worker in options.types():
        _measure(worker, options, result)
        options.save(result)
    return result


def _measure(worker: str, options: Options, result: Result) -> None:
    workers = options.workers or 2
    hot: list[float] = []
    stock: list[float] = []
    with Service(worker, True, workers=workers, hot_probation=0, hot_drain_timeout=_PATIENCE) as service:
        service.start()
        service.wait_ready()
        for turn in range(options.upgrades_of("leave")):
            for side in (hot, stock) if turn % 2 == 0 else (stock, hot):
                side.append(_leave_by_upgrade(service) if side is hot else _leave_by_term(worker, workers))
    result.records += [
        {"worker": worker, "turn": turn, "upgrade_s": one, "stock_term_s": other}
        for turn, (one, other) in enumerate(zip(hot, stock, strict=True))
    ]
    hot_ms, stock_ms = (sorted(seconds * 1000 for seconds in side) for side in (hot, stock))
    result.add(
        worker, len(hot), spread(hot_ms), f"{percentile(hot_ms, 99):.1f}",
        verdict(hot_ms[-1] <= _LONGEST * 1000), spread(stock_ms),
        f"{statistics.median(hot_ms) / statistics.median(stock_ms):.3f}",
    )


class _Held:
    """A request that the application holds until `finish`."""

    def __init__(self, port: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as gate:
            gate.settimeout(_PATIENCE)
            self._exchange = Exchange(port, _PATIENCE)
            self._exchange.send(f"/hold?port={gate.getsockname()[1]}")
            self._holder, _ = gate.accept()     # the application is in it now
        self._holder.settimeout(_PATIENCE)
        #: The pid of the worker that holds it.
        self.worker = int(self._holder.recv(64))

    def finish(self, master: Process) -> float:
        """Let it end, read the answer, and return in how many s from then on the master was gone."""
        self._holder.close()
        self._exchange.read()
        read = time.monotonic()
        self._exchange.close()
        gone = master.wait(_PATIENCE)
        if gone is None:
            raise BenchError(f"pid {master.pid} is not gone in {_PATIENCE:g}s")
        return gone - read


def _leave_by_upgrade(service: Service) -> float:
    held = _Held(service.port)
    upgrade = service.upgrade()
    service.log.wait("committed to successor", upgrade.mark, _PATIENCE)
    _wait_for_others(upgrade.old, held, upgrade.new.pid)
    took = held.finish(upgrade.old)
    service.wait_gone(upgrade)
    return took


def _leave_by_term(worker: str, workers: int) -> float:
    with Service(worker, False, workers=workers, graceful_timeout=_PATIENCE) as service:
        service.start()
        service.wait_ready()
        held = _Held(service.port)
        mark = service.log.mark()
        service.master.signal(signal.SIGTERM)
        service.log.wait("Handling signal: term", mark, _PATIENCE)
        _wait_for_others(service.master, held)
        return held.finish(service.master)


def _wait_for_others(master: Process, held: _Held, *stay: int) -> None:
    """Until the worker that holds the request, and `stay`, are the only children of `master`."""
    for pid in children(master.pid) - {held.worker, *stay}:
        try:
            worker = Process(pid)
        except ProcessLookupError:
            continue
        try:
            if worker.wait(_PATIENCE) is None:
                raise BenchError(f"the idle worker {pid} is not gone in {_PATIENCE:g}s")
        finally:
            worker.close()
