"""What monitoring is told: statsd through gunicorn's logger, and Prometheus from the status file."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.instrument.statsd import Statsd
from server import Connection, Service, until

from gunicorn_hot import processes, statsd, statusfile
from gunicorn_hot import status as status_module
from gunicorn_hot.mirror import Mirror
from gunicorn_hot.status import Durations, Master, Past, Phases, Status, Totals, Upgrade, Worker, Written

prometheus = pytest.importorskip("prometheus_client", reason="for Prometheus: gunicorn_hot[prometheus]")


# --- statsd


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)
        yield sock


def past(outcome: str, **fields: Any) -> Past:
    return Past("id", 1, 1, 2, time.time(), 6.25, outcome, **fields)


def received(sock: socket.socket, count: int) -> list[str]:
    return [sock.recv(4096).decode() for _ in range(count)]


def test_statsd_is_told_of_an_upgrade_in_gunicorns_way(receiver: socket.socket) -> None:
    host, port = receiver.getsockname()
    cfg = Config()
    cfg.set("statsd_host", f"{host}:{port}")
    cfg.set("statsd_prefix", "shop.")
    cfg.set("dogstatsd_tags", "region:eu")
    log = Statsd(cfg)

    with log.sock:
        statsd.say_upgrade(log, past("done", phases=Phases(3.0, 0.8214, 1.0, 2.0), cut=2))
        statsd.say_generation(log, 2)
        statsd.say_upgrade(log, past("taken-back"))

    assert received(receiver, 6) == [
        "shop.gunicorn.hot.upgrade.done:1|c|@1.0|#region:eu",
        "shop.gunicorn.hot.stall:0.821|ms|#region:eu",
        "shop.gunicorn.hot.upgrade.duration:6250.0|ms|#region:eu",
        "shop.gunicorn.hot.cut:2|c|@1.0|#region:eu",
        "shop.gunicorn.hot.generation:2|g|#region:eu",
        "shop.gunicorn.hot.upgrade.taken_back:1|c|@1.0|#region:eu",
    ]


def hot(sock: socket.socket, last: str) -> list[str]:
    """What is said of upgrades, up to the metric of that name."""
    said = []
    while not (said and said[-1].startswith(f"gunicorn.hot.{last}:")):
        datagram = sock.recv(4096).decode()
        if datagram.startswith("gunicorn.hot."):
            said.append(datagram)
    return said


def value(datagram: str) -> float:
    return float(datagram.partition(":")[2].partition("|")[0])


def test_each_upgrade_is_told_once_by_whichever_master_ends_it(service: Service, receiver: socket.socket) -> None:
    host, port = receiver.getsockname()
    service.configure(statsd_host=f"{host}:{port}", hot_drain_timeout=1)
    service.start()
    assert hot(receiver, last="generation") == ["gunicorn.hot.generation:1|g"]
    # Of the next generation: what it upgrades to dies before its probation is over.
    service.configure(statsd_host=f"{host}:{port}", hot_drain_timeout=1, hot_probation=600)

    with Connection(service.address) as connection:
        connection.send_request("/hold?file=never")
        service.wait_file("never.held")
        service.upgrade("B")
        done = hot(receiver, last="cut")
    assert [line.partition(":")[0] for line in done] == [
        f"gunicorn.hot.{name}" for name in ("generation", "upgrade.done", "stall", "upgrade.duration", "cut")
    ]
    assert done[0] == "gunicorn.hot.generation:2|g"
    assert done[1] == "gunicorn.hot.upgrade.done:1|c|@1.0"
    assert 0 < value(done[2]) < value(done[3])
    assert value(done[3]) > 1000  # ms; the drain alone took a second
    assert done[4] == "gunicorn.hot.cut:1|c|@1.0"

    service.release("C broken")
    service.begin_upgrade()
    assert hot(receiver, last="upgrade.failed") == ["gunicorn.hot.upgrade.failed:1|c|@1.0"]
    # This one gets as far as the cut-over, of which the length is said as well.
    service.release("D")
    new = service.begin_upgrade()
    service.wait_log("in probation", count=2)
    service.signal(signal.SIGKILL, new)
    back = hot(receiver, last="stall")
    assert [line for line in back if ".upgrade." in line] == ["gunicorn.hot.upgrade.rolled_back:1|c|@1.0"]


def test_another_logger_gets_a_line_for_those_who_debug(tmp_path: Path) -> None:
    cfg = Config()
    cfg.set("errorlog", str(tmp_path / "log"))
    cfg.set("loglevel", "debug")
    log = Logger(cfg)
    try:
        statsd.say_generation(log, 3)
        log.error_log.setLevel(logging.INFO)
        statsd.say_generation(log, 4)
    finally:
        log.close_on_exec()
        for handler in log.error_log.handlers[:]:
            handler.close()
            log.error_log.removeHandler(handler)

    [line] = (tmp_path / "log").read_text().splitlines()
    assert line.endswith("gunicorn.hot.generation: 3")


# --- Prometheus


def collected(path: Path | None) -> list[str]:
    """What a scrape returns, without the comments."""
    from gunicorn_hot.metrics import Collector

    registry = prometheus.CollectorRegistry()
    registry.register(Collector(None if path is None else str(path)))
    text: str = prometheus.generate_latest(registry).decode()
    return [line for line in text.splitlines() if not line.startswith("#")]


@pytest.fixture
def status() -> Status:
    now = time.time()
    old = [Worker(11, "draining", now, 2), Worker(12, "draining", now, 1)]
    new = [Worker(21, "serving", now), Worker(22, "booting", now)]
    totals = Totals()
    buckets = {**Durations().buckets, "5": 1, "10": 2, "30": 2, "60": 2, "120": 2, "300": 2, "600": 2, "+Inf": 3}
    return Status(
        status_module.Service(1, "app", "follow", None, "/", []),
        Written(os.getpid(), processes.start_time(os.getpid()), processes.boot_id(), now),
        "upgrading",
        5,
        upgrade=Upgrade("id", 4, "draining", False, now, draining_requests=3, draining_workers=2),
        masters=[Master("draining", 1, 1, now, 4, workers=old), Master("serving", 2, 1, now, 5, workers=new)],
        totals=Totals({**totals.upgrades, "done": 3, "failed": 1}, Durations(buckets, 712.5, 3), cut=7),
    )


def test_prometheus_is_told_what_the_status_file_says(tmp_path: Path, status: Status) -> None:
    statusfile.replace(str(tmp_path / "status.json"), status.to_json())

    assert collected(tmp_path / "status.json") == [
        "gunicorn_hot_up 1.0",
        "gunicorn_hot_generation 5.0",
        *(
            f'gunicorn_hot_upgrades_total{{outcome="{outcome}"}} {count:.1f}'
            for outcome, count in {
                "done": 3, "failed": 1, "rolled-back": 0, "taken-back": 0, "aborted": 0, "checked": 0, "check-failed": 0
            }.items()
        ),
        *(
            f'gunicorn_hot_upgrade_duration_seconds_bucket{{le="{bound}"}} {count:.1f}'
            for bound, count in {
                "1.0": 0, "2.5": 0, "5.0": 1, "10.0": 2, "30.0": 2, "60.0": 2, "120.0": 2, "300.0": 2, "600.0": 2,
                "+Inf": 3,
            }.items()
        ),
        "gunicorn_hot_upgrade_duration_seconds_count 3.0",
        "gunicorn_hot_upgrade_duration_seconds_sum 712.5",
        "gunicorn_hot_upgrade_running 1.0",
        "gunicorn_hot_draining_requests 3.0",
        "gunicorn_hot_cut_requests_total 7.0",
        *(
            f'gunicorn_hot_workers{{state="{state}"}} {count:.1f}'
            for state, count in {"booting": 1, "ready": 0, "serving": 1, "paused": 0, "draining": 2}.items()
        ),
    ]


SCRAPED = """
import prometheus_client, app as subject
from gunicorn_hot.metrics import Collector

registry = prometheus_client.CollectorRegistry()
registry.register(Collector())

def app(environ, start_response):
    if environ["PATH_INFO"] != "/metrics":
        return subject.app(environ, start_response)
    body = prometheus_client.generate_latest(registry)
    start_response("200 OK", [("X-Pid", str(subject.os.getpid())), ("Content-Length", str(len(body)))])
    return [body]
"""


def figures(body: bytes) -> dict[str, float]:
    pairs = (line.rpartition(" ") for line in body.decode().splitlines() if not line.startswith("#"))
    return {name.removeprefix("gunicorn_hot_"): float(figure) for name, _, figure in pairs}


def test_each_worker_of_each_generation_answers_the_same(service: Service) -> None:
    # A connection is asked on once more after an upgrade.
    service.configure(workers=2, keepalive=60)
    service.write("scraped.py", SCRAPED)
    service.start([*service.command()[:-1], "scraped:app"])
    service.upgrade("B")

    def scrape() -> dict[int, dict[str, float]]:
        """Ask until two workers have answered."""
        answers: dict[int, dict[str, float]] = {}

        def both() -> bool:
            answer = service.ask("/metrics")
            answers[answer.pid] = figures(answer.body)
            return len(answers) == 2

        until(both, "an answer of each worker")
        return answers

    with Connection(service.address) as kept, Connection(service.address) as held:
        old = kept.ask().pid
        held.send_request("/hold?file=go")
        service.wait_file("go.held", lines=1)
        service.begin_drain("C")
        # The two may be in one worker; then the other one leaves at once, and the figures change until it has.
        drains = {"draining_requests": 1, 'workers{state="draining"}': len({old, int(service.read("go.held"))})}
        until(lambda: drains.items() <= figures(service.ask("/metrics").body).items(), "what drains")
        first, second = scrape().values()
        answer = kept.ask("/metrics")

        assert answer.pid == old
        assert figures(answer.body) == first == second
        assert first["generation"] == 3
        assert first["upgrade_running"] == 1
        assert first['upgrades_total{outcome="done"}'] == 1
        assert first['workers{state="serving"}'] == 2
        assert first['workers{state="draining"}'] >= 1
        service.write("go")
        held.answer()

    until(lambda: figures(service.ask("/metrics").body)["upgrade_running"] == 0, "the end of the upgrade")
    first, second = scrape().values()
    assert first == second
    assert first['upgrades_total{outcome="done"}'] == first["upgrade_duration_seconds_count"] == 2
    assert first['workers{state="draining"}'] == first["draining_requests"] == first["cut_requests_total"] == 0


@pytest.mark.parametrize("what", ["no service", "no file", "no JSON", "stale"])
def test_prometheus_is_told_that_nothing_is_known(tmp_path: Path, status: Status, what: str) -> None:
    path = tmp_path / "status.json"
    if what == "no JSON":
        statusfile.replace(str(path), "{")
    elif what == "stale":
        written = dataclasses.replace(status.written, start=status.written.start + 1)
        statusfile.replace(str(path), dataclasses.replace(status, written=written).to_json())

    assert collected(None if what == "no service" else path) == ["gunicorn_hot_up 0.0"]


def test_what_another_user_has_to_say_is_not_that_there_is_nothing(
    tmp_path: Path, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "status.json"
    statusfile.replace(str(path), status.to_json())
    if os.geteuid() == 0:
        os.chown(path, 4711, -1)
    uid = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert collected(path) == []


def test_a_mirror_shows_what_is_whole(monkeypatch: pytest.MonkeyPatch, status: Status) -> None:
    mirror = Mirror()
    monkeypatch.setattr(statusfile, "mirror", mirror)
    assert collected(None) == []
    shown = dataclasses.replace(status, written=dataclasses.replace(status.written, pid=os.getppid()))
    mirror.write(shown.to_json())
    assert collected(None)[:2] == ["gunicorn_hot_up 1.0", "gunicorn_hot_generation 5.0"]
    # A master that is not the parent any more.
    mirror.write(status.to_json())
    assert collected(None) == ["gunicorn_hot_up 0.0"]
    mirror.write("")
    assert collected(None) == []
    mirror.write("x" * 10**7)
    assert mirror.read() == b""
    # The writer is in the middle of it.
    mirror.write(shown.to_json())
    mirror._memory[20:21] = b"\0"
    assert collected(None) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for workers of another user")
def test_workers_of_another_user_are_shown_the_status(service: Service) -> None:
    # They need not be able to read the interpreter's own files.
    service.configure(workers=1, user="nobody", preload_app=True)
    service.write("scraped.py", SCRAPED)
    service.start([*service.command()[:-1], "scraped:app"])
    assert process_user(service.workers()[0]) != 0

    def scraped() -> dict[str, float]:
        return figures(service.ask("/metrics").body)

    until(lambda: scraped().get('workers{state="serving"}') == 1, "the worker in the metrics")
    assert (scraped()["up"], scraped()["generation"]) == (1, 1)
    service.upgrade("B")
    until(lambda: scraped().get('upgrades_total{outcome="done"}') == 1, "the upgrade in the metrics")
    assert (scraped()["up"], scraped()["generation"], scraped()["upgrade_running"]) == (1, 2, 0)


def process_user(pid: int) -> int:
    return os.stat(f"/proc/{pid}").st_uid
