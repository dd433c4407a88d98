"""What clients see of an upgrade of ours, and of each rival: the same application, the same clients, in turn.

A window with an upgrade is [ordered, every process that has answered for the old release gone]; one of the same length
without an upgrade follows it."""

from __future__ import annotations

import gc
import time
from dataclasses import asdict
from typing import Any

from bench.ceiling import Ceiling
from bench.load import Load, Record, Report, percentile
from bench.mix import SLOW_MS, mix
from bench.options import Options
from bench.rivals import Rival, installed
from bench.service import BenchError
from bench.tables import Result, spread

_NEW = "new"
#: s; the worst that is waited for: the new release to answer, and then the old processes to go.
_ANSWER = 60.0
_GONE = 60.0


def run(options: Options, ceiling: Ceiling) -> Result:
    result = Result(
        "rivals",
        "an upgrade under load, of each server that is installed",
        ("server", "version", "upgrades", "failed", "of", "longest wait, ms", "p99, ms", "new release after, s",
         "mixed, ms", "went back", "old gone after, s"),
    )
    for rival, version in installed(options.rivals, result):
        try:
            _measure(rival, version, options, result)
        except (BenchError, OSError, TimeoutError) as exc:
            result.add(rival.title, version, "broke", *["-"] * 8)
            result.notes.append(f"{rival.title}: {exc}")
        options.save(result)
    result.notes += [
        "longest wait, p99: of new connections, connect() to the whole answer; with an upgrade / without one",
        f"new release after: from the order to its first answer, without the {options.import_s:g} s of its import",
        "mixed: from the first answer of the new release to the last new connection that the old one has accepted",
        "went back: answers of the old release on connections that were opened after the new one had answered",
        "old gone: every process that had answered for the old release",
    ]
    return result


def _measure(rival_class: type[Rival], version: str, options: Options, result: Result) -> None:
    clients, settings = mix(rival_class.like, options.workers or 2)
    windows: list[dict[str, Any]] = []
    import_s = options.import_s if rival_class.loads else 0.0
    with rival_class(settings["workers"], settings.get("threads", 1), options.probation) as rival:
        rival.release("0", import_s)
        rival.start()
        load = Load(rival.address, clients, slow_ms=options.slow_ms or SLOW_MS)
        with load:
            load.wait_for(20 * sum(clients.values()), timeout=60)
            for number in range(1, options.upgrades_of("rivals") + 1):
                gc.freeze()
                windows.append(upgrade_once(rival, load, str(number), import_s))
                gc.freeze()
                start = time.monotonic()
                time.sleep(windows[-1]["end"] - windows[-1]["start"])   # it is the measurement
                windows.append({"start": start, "end": time.monotonic(), "upgrade": False})
            report = load.stop()
        gc.unfreeze()
    for window in windows:
        window["waits"] = report.waits(_NEW, window["start"], window["end"])
    with_one, without = (
        sorted(wait for window in windows if window["upgrade"] is side for wait in window["waits"])
        for side in (True, False)
    )
    upgrades = [window for window in windows if window["upgrade"]]
    for window in upgrades:
        window["mixed"] = mixed(report, window["release"])
    result.records.append({
        "server": rival_class.name, "title": rival_class.title, "version": version,
        "windows": windows, "report": report.as_dict(),
        "failures": [asdict(record) for record in report.records if not record.ok],
    })
    result.add(
        rival_class.title, version, len(upgrades), report.failed, len(report.records),
        _both(with_one[-1:], without[-1:]),
        _both([percentile(with_one, 99)] if with_one else [], [percentile(without, 99)] if without else []),
        spread([window["answered"] - window["start"] - import_s for window in upgrades], 2),
        spread([window["mixed"] * 1000 for window in upgrades], 0), len(report.went_back),
        spread([window["end"] - window["start"] for window in upgrades]),
    )
    if report.failed:
        kinds = ", ".join(f"{name} {count}" for name, count in report.failures.most_common())
        result.notes.append(f"{rival_class.title}: failed: {kinds}")
    if remained := sum(window["remained"] for window in upgrades):
        result.notes.append(f"{rival_class.title}: {remained} old processes were left after {_GONE:g} s")
    if rival_class.name.startswith("hot"):
        result.failed += report.failed + len(report.went_back)


def _both(with_one: list[float], without: list[float]) -> str:
    return " / ".join(f"{values[0] * 1000:.1f}" if values else "-" for values in (with_one, without))


def upgrade_once(rival: Rival, load: Load, release: str, import_s: float) -> dict[str, Any]:
    """One upgrade to `release`, under the load that runs. Raises TimeoutError when it never answers."""
    seen = {record.pid for record in load.report().records if record.ok}
    rival.release(release, import_s)
    start = time.monotonic()
    rival.upgrade()
    load.wait_for(1, gen=release, timeout=_ANSWER)
    answered = next(record.done for record in load.report().records if record.ok and record.gen == release)
    remaining, until = seen, time.monotonic() + _GONE
    while (remaining := remaining & rival.pids()) and time.monotonic() < until:
        # Some rivals keep the process and load the new release into it.
        remaining -= {record.pid for record in load.report().records if record.gen == release}
        time.sleep(0.02)
    end = time.monotonic()
    load.wait_for(1, gen=release, timeout=_ANSWER)
    phases = [list(phase) for phase in rival.phases(start, end)]
    return {
        "start": start, "answered": answered, "end": end, "release": release, "upgrade": True,
        "remained": len(remaining), "phases": phases,
    }


def mixed(report: Report, release: str) -> float:
    """For how long, in s, new connections got either release."""
    mine = [record for record in report.records if record.ok and record.gen == release]
    first = min(record.done for record in mine)

    def is_late(record: Record) -> bool:
        return record.ok and int(record.gen) < int(release) and record.fresh and record.opened > first

    return max((record.opened - first for record in report.records if is_late(record)), default=0.0)
