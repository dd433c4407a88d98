"""How many instructions a worker needs for one request.

Counted by the processor (`perf stat`) where it lets us, or else by valgrind's callgrind, which runs the whole server in
a simulated processor: slowly, but the same count each time. Counts say nothing of waits; they show a cost of a percent
that the noise of a time would hide."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.service import BenchError, Exchange, Service

_EVENT = "instructions:u"
_WARM = 200             # requests that do not count
_PATIENCE = 120         # s; a simulated server is slow
_LISTED = re.compile(r"^(\d+),[^,]*," + _EVENT, re.MULTILINE)
_TOTALS = re.compile(r"^totals: (\d+)", re.MULTILINE)


@functools.cache
def counter() -> str | None:
    """"perf" or "callgrind"; None if neither works here."""
    if shutil.which("perf"):
        trial = ["perf", "stat", "-x,", "-e", _EVENT, "true"]
        done = subprocess.run(trial, capture_output=True, text=True, check=False)
        if _LISTED.search(done.stderr):
            return "perf"
    return "callgrind" if shutil.which("valgrind") else None


def per_request(worker: str, sides: dict[str, bool], keep: bool, requests: int) -> dict[str, float]:
    """Of each side (hot or not), instructions of its one worker for each of `requests` requests.

    Raises BenchError, OSError; ValueError if `counter()` is None."""
    how = {"perf": _by_perf, "callgrind": _by_callgrind}.get(counter() or "")
    if how is None:
        raise ValueError("nothing counts instructions here")
    # At once: how long it takes has no influence on a count.
    with ThreadPoolExecutor() as pool:
        running = {side: pool.submit(how, worker, hot, keep, requests) for side, hot in sides.items()}
        return {side: future.result() for side, future in running.items()}


def _ask(port: int, keep: bool, requests: int) -> int:
    """Ask one request after the other; returns the pid of the worker."""
    exchange = None
    for _ in range(requests):
        exchange = exchange or Exchange(port, _PATIENCE)
        headers = exchange.get("/", close=not keep)
        if not keep or headers.get("connection") == "close":
            exchange.close()
            exchange = None
    if exchange:
        exchange.close()
    return int(headers["x-pid"])


def _by_perf(worker: str, hot: bool, keep: bool, requests: int) -> float:
    with Service(worker, hot, workers=1) as service, tempfile.TemporaryDirectory() as folder:
        service.start()
        service.wait_ready()
        pid = _ask(service.port, keep, _WARM)
        return _perf_stat(pid, Path(folder), _EVENT, lambda: _ask(service.port, keep, requests)) / requests


def _perf_stat(pid: int, folder: Path, event: str, ask: Callable[[], object]) -> float:
    """What perf has counted in that process while `ask` ran."""
    control_read, control = os.pipe()
    acks, acks_write = os.pipe()
    listed = folder / "perf"
    command = ["perf", "stat", "-x,", "-e", event, "-p", str(pid), "-o", str(listed),
               "-D", "-1", "--control", f"fd:{control_read},{acks_write}"]
    try:
        perf = subprocess.Popen(command, pass_fds=(control_read, acks_write), stderr=subprocess.DEVNULL)
    finally:
        os.close(control_read)
        os.close(acks_write)
    try:
        # Answered when it is done; an end of the file is the end of perf.
        for order in (b"enable\n", b"disable\n"):
            os.write(control, order)
            if not os.read(acks, 64):
                raise BenchError("perf has ended")
            if order == b"enable\n":
                ask()
        perf.send_signal(signal.SIGINT)
        perf.wait(_PATIENCE)
    finally:
        os.close(control)
        os.close(acks)
        perf.kill()
        perf.wait()
    found = re.search(rf"^([\d.]+),[^,]*,{event}", listed.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise BenchError("perf has not counted")
    return float(found[1])


def _by_callgrind(worker: str, hot: bool, keep: bool, requests: int) -> float:
    """The difference between a worker of many requests and one of few: what a start and an end take is in both."""
    few, many = (_simulated(worker, hot, keep, _WARM + more) for more in (0, requests))
    return (many - few) / requests


def _simulated(worker: str, hot: bool, keep: bool, requests: int) -> int:
    """Instructions in the life of a worker that answers so many requests."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = ["valgrind", "--tool=callgrind", "--quiet", f"--callgrind-out-file={folder}/%p"]
        service = Service(
            worker, hot, workers=1, prefix=prefix, env={"PYTHONHASHSEED": "0"},
            timeout=_PATIENCE, graceful_timeout=_PATIENCE,
        )
        with service:
            service.start()
            service.wait_ready(_PATIENCE)
            pid = _ask(service.port, keep, requests)
            service.stop(_PATIENCE)
        found = _TOTALS.search(Path(folder, str(pid)).read_text(encoding="utf-8", errors="replace"))
    if not found:
        raise BenchError("callgrind has not counted")
    return int(found[1])
