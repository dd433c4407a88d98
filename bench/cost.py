"""What one upgrade costs, and how that grows with the workers, and with idle connections.

CPU time is that of every process of the service, of those that end too. The upgrades of which the memory is sampled are
not those that are timed: to look at the memory of many processes takes its time. The application is imported at once,
so what is left is what gunicorn and this plugin do."""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.ceiling import Ceiling
from bench.idle import most_descriptors, waiting
from bench.options import Options
from bench.service import BenchError, Exchange, Service
from bench.tables import Result, spread

_IDLE_WORKERS = 2
_DRAIN = 5              # s; hot_drain_timeout: so long idle connections may hold the old generation
_PATIENCE = 300.0       # s; 64 workers are many for two cores
_EVERY = 0.02           # s between two looks at the memory
_READY = r"successor with pid: \d+ is ready"
_COMMITTED = r"committed to successor"
_SPARE = 200            # descriptors, beyond those of connections


def run(options: Options, ceiling: Ceiling) -> Result:
    result = Result(
        "cost",
        "one upgrade, without an import and without requests",
        ("worker", "workers", "idle connections", "upgrades", "CPU, s", "memory before, MiB", "peak, MiB",
         "SIGUSR2 -> ready, s", "-> first new answer, s", "-> old gone, s", "past what holds it, ms"),
    )
    cases = [(workers, 0) for workers in options.cost_workers] + [
        (_IDLE_WORKERS, idle) for idle in options.cost_idle if idle or _IDLE_WORKERS not in options.cost_workers]
    for worker in options.types(("gthread",)):
        for workers, idle in cases:
            if worker == "sync" and idle:
                continue        # it keeps none
            if idle + _SPARE > most_descriptors():
                result.add(worker, workers, idle, "skipped: ulimit -n", *["-"] * 7)
                continue
            _measure(worker, workers, idle, options, result)
            options.save(result)
        result.notes += growth(worker, result.records)
    result.notes += [
        f"hot_probation {options.probation:g} s, hot_drain_timeout {_DRAIN} s; no idle connection ends by its own "
        "keepalive, so they hold the old generation to the end of the drain",
        "CPU: user and system, of all processes of both generations, from SIGUSR2 to old gone",
        f"memory: sum of PSS of all processes of both generations; peak: of looks {_EVERY * 1000:g} ms apart, and when",
        "past what holds it: old gone, since the end of the probation, or of the drain if somebody is idle",
    ]
    return result


def _measure(worker: str, workers: int, idle: int, options: Options, result: Result) -> None:
    records = []
    with Service(
        worker, True, workers=workers, hot_probation=options.probation, hot_drain_timeout=_DRAIN,
        hot_ready_timeout=int(_PATIENCE), timeout=int(_PATIENCE), keepalive=600, worker_connections=idle + 1000,
    ) as service:
        service.start()
        service.wait_ready(_PATIENCE)
        # One more than is timed: the memory is that one's.
        for number in range(options.upgrades_of("cost") + 1):
            with waiting(service.address, idle):
                record = {"worker": worker, "workers": workers, "idle": idle, "upgrade": number}
                if number:
                    record |= _timed(service, bool(idle), options)
                else:
                    record |= _sampled(service)
            records.append(record)
    result.records += records
    sampled, *timed = records

    def column(key: str, digits: int, factor: float = 1) -> str:
        return spread([record[key] * factor for record in timed], digits)

    result.add(
        worker, workers, idle, len(timed), column("cpu_s", 2),
        f"{sampled['before_mib']:.0f}", f"{sampled['peak_mib']:.0f} ({sampled['peak_in']})",
        column("ready_s", 2), column("answer_s", 2), column("gone_s", 2), column("late_s", 0, 1000),
    )


def _timed(service: Service, has_idle: bool, options: Options) -> dict[str, float]:
    """CPU seconds, and times since SIGUSR2 in s."""
    before = service.total_cpu_seconds()
    old = str(service.master.pid)
    upgrade = service.upgrade(_PATIENCE)
    ready, _ = service.log.wait(_READY, upgrade.mark, _PATIENCE)
    answered = _first_answer(service.port, old)
    committed, _ = service.log.wait(_COMMITTED, upgrade.mark, _PATIENCE)
    gone = service.wait_gone(upgrade, _PATIENCE)
    held_until = committed.at + (_DRAIN if has_idle else 0)
    return {
        "cpu_s": service.total_cpu_seconds() - before,
        "ready_s": ready.at - upgrade.sent,
        "answer_s": answered - upgrade.sent,
        "gone_s": gone - upgrade.sent,
        "late_s": gone - held_until,
    }


def _first_answer(port: int, old: str) -> float:
    """Ask without a pause, from READY on, until the new generation answers; returns when, `time.monotonic()` s.

    Not before READY: to be asked meanwhile would be a cost of its own."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        exchange = Exchange(port, _PATIENCE)
        headers = exchange.get("/", close=True)
        now = time.monotonic()
        exchange.close()
        if headers["x-gen"] != old:
            return now
    raise BenchError(f"no answer of a new generation in {_PATIENCE:g}s")


def _sampled(service: Service) -> dict[str, Any]:
    """Memory in MiB, and in which part of the upgrade it was highest."""
    before = _memory(service)
    with _Sampler(service) as sampler:
        upgrade = service.upgrade(_PATIENCE)
        service.wait_gone(upgrade, _PATIENCE)
    lines = service.log.find({"probation": _READY, "drain": _COMMITTED}, upgrade.mark)
    peaks = dict.fromkeys(("boot", "probation", "drain"), 0.0)
    for at, mib in sampler.seen:
        part = max(((line.at, name) for name, line in lines.items() if line.at <= at), default=(0.0, "boot"))[1]
        peaks[part] = max(peaks[part], mib)
    peak_in = max(peaks, key=lambda part: peaks[part])
    return {"before_mib": before, "peak_mib": peaks[peak_in], "peak_in": peak_in, "peaks_mib": peaks}


def _memory(service: Service) -> float:
    """Sum of the proportional memory (PSS) of all its processes, MiB."""
    kib = 0
    for pid in service.pids():
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            continue        # it has ended
        kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


class _Sampler:
    """Looks at the memory of a service again and again, in a thread."""

    def __init__(self, service: Service) -> None:
        #: When (`time.monotonic()` s), and MiB.
        self.seen: list[tuple[float, float]] = []
        self._service = service
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory", daemon=True)

    def _look(self) -> None:
        while not self._end.is_set():
            at = time.monotonic()
            self.seen.append((at, _memory(self._service)))
            self._end.wait(_EVERY)      # sampling is what it does

    def __enter__(self) -> _Sampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()


def growth(worker: str, records: list[dict[str, Any]]) -> list[str]:
    """How each figure grows, as straight lines through the measurements (least squares)."""
    told = []
    for key, per, what in (
        ("workers", 1, "at 0 workers, and for each one more"),
        ("idle", 1000, "without idle connections, and for each 1,000"),
    ):
        mine = [record for record in records if record["worker"] == worker and (
            record["idle"] == 0 if key == "workers" else record["workers"] == _IDLE_WORKERS)]
        if len({record[key] for record in mine}) < 2:
            continue
        parts = []
        for figure, name, digits in (("cpu_s", "CPU s", 3), ("peak_mib", "MiB at the peak", 1),
                                     ("ready_s", "s to ready", 3), ("answer_s", "s to the first new answer", 3),
                                     ("late_s", "s past what holds the old generation", 3)):
            some = [record for record in mine if figure in record]
            slope, at_zero = statistics.linear_regression(
                [record[key] for record in some], [record[figure] for record in some])
            parts.append(f"{at_zero:.{digits}f} {slope * per:+.{digits}f} {name}")
        told.append(f"{worker}, {what}: {'; '.join(parts)}")
    return told
