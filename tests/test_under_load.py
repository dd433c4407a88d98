"""Nobody notices an upgrade: every kind of client, every kind of worker, every kind of socket, and no tolerance.

The load triggers the upgrades, each after a number of answers, and a test fails if an upgrade did not overlap all
of the load. The control, gunicorn's own SIGUSR2, shows that the verdict can be another one.
"""

from __future__ import annotations

import signal
import time

import pytest
from server import Certificate, Service, wait_gone

from bench.load import Load, Report

SLOW_MS = 600
#: s; the longest that a new connection may wait. An import takes less in the upgrades, and more in the control.
PATIENCE = 2.0

CLIENTS = {"new": 2, "keep": 2, "idle": 4, "slow": 2, "upload": 1, "stream": 1}
#: For one that serves a request at a time, a worker more than there are clients that keep one busy.
WORKERS = {
    "sync": {"workers": 5},
    "gthread": {"workers": 2, "threads": 8},
    "gevent": {"workers": 2},
    "asgi": {"workers": 2},
    "asgi-asyncio": {"workers": 2, "worker_class": "asgi", "asgi_loop": "asyncio"},
    # The loop is uvloop where that is installed; that of the other one is asyncio's.
    "uvicorn": {"workers": 2, "worker_class": "uvicorn_worker.UvicornWorker"},
    "uvicorn-h11": {"workers": 2, "worker_class": "uvicorn_worker.UvicornH11Worker"},
}

Span = tuple[float, float]


def complaints(report: Report, releases: str, upgrades: list[Span]) -> list[str]:
    """Return what a user would complain of, after upgrades from each release to the next, at these times."""
    found = []
    if report.failed:
        found.append(f"{report.failed} requests failed")
    if report.went_back:
        found.append(f"{len(report.went_back)} connections went back to an older release")
    if (answered := "".join(generation.name for generation in report.generations)) != releases:
        found.append(f"answers of {answered}, not of {releases}")
    if (longest := max(report.waits("new"), default=0.0)) > PATIENCE:
        found.append(f"a new connection waited for {longest:.2f}s")
    for start, end in upgrades:
        if missing := report.overlapped(start, end):
            found.append(f"an upgrade of {end - start:.2f}s did not overlap {missing}")
    return found


@pytest.mark.parametrize("socket", ["tcp", "unix", "tls"])
@pytest.mark.parametrize("worker", [
    pytest.param(name, marks=pytest.mark.slow if name == "asgi-asyncio" else ()) for name in WORKERS
])
def test_upgrades_under_load(
    service: Service, worker: str, socket: str, request: pytest.FixtureRequest
) -> None:
    settings = {"worker_class": worker, **WORKERS[worker]}
    if socket == "unix":
        service.use_unix()
    elif socket == "tls":
        certificate: Certificate = request.getfixturevalue("certificate")
        settings |= service.use_tls(certificate)
    service.configure(hot_probation=0.5, **settings)
    service.start()
    upgrades = []
    with Load(service.address, CLIENTS, SLOW_MS, service.tls) as load:
        load.wait_for(100, gen="A")
        for release in "BC":
            start = time.monotonic()
            service.upgrade(f"{release} sleep=0.3")
            upgrades.append((start, time.monotonic()))
            load.wait_for(100, gen=release)
        report = load.stop()
    assert not complaints(report, "ABC", upgrades), report.summary()


def test_control_stock_gunicorn(service: Service) -> None:
    """What people do without this package, and why: the same verdict finds fault with it."""
    service.configure(hook=None)
    service.start()
    old = service.master
    service.release(f"B sleep={PATIENCE + 1}")
    with Load(service.address, CLIENTS, SLOW_MS) as load:
        load.wait_for(100, gen="A")
        start = time.monotonic()
        service.signal(signal.SIGUSR2)
        service.wait_file("pid.2", lines=1)
        service.signal(signal.SIGTERM)
        load.wait_for(100, gen="B")
        report = load.stop()
    wait_gone(old)
    found = complaints(report, "AB", [(start, time.monotonic())])
    assert any("a new connection waited for" in complaint for complaint in found), report.summary()
