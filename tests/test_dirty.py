"""gunicorn's dirty workers: what needs them is answered, in an upgrade and in a stop, and nothing of them stays."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from held import EITHER_PID, Held, either
from server import Connection, Service, descendants, process, until, wait_gone

#: `read` returns the release. The file "dirty_how" says how it loads: at once, held until the file "load" appears, or
#: not at all; "listen": it loads at once, and listens when that file appears.
DIRTY = """
import asyncio, os, time
from gunicorn.dirty import DirtyApp

def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.01)

class Work(DirtyApp):
    def init(self):
        self.release = open("release").read()
        how = open("dirty_how").read()
        with open("dirty_begun", "a") as file:
            file.write(f"{self.release} {os.getpid()}\\n")
        if how == "hold":
            wait_for("load")
        if how == "broken":
            raise RuntimeError("no such model")
        if how == "listen":
            self.listen_late()
        with open("dirty_loaded", "a") as file:
            file.write(f"{self.release} {os.getpid()}\\n")

    def listen_late(self):
        start = asyncio.start_unix_server

        async def late(*args, **options):
            wait_for("load")
            return await start(*args, **options)

        asyncio.start_unix_server = late

    def work(self, name):
        with open(name + ".held", "a") as file:
            file.write(f"{os.getpid()}\\n")
        wait_for(name)
        return self.release

    def read(self):
        return self.release

    def close(self):
        if open("dirty_how").read() == "slow end":
            wait_for("ended")
"""
SITE = """
import app, os
from gunicorn.dirty import get_dirty_client

def site(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if not path.startswith("/dirty"):
        return app.app(environ, start_response)
    client = get_dirty_client()
    found = client.execute("work:Work", "work", query) if query else client.execute("work:Work", "read")
    body = found.encode()
    start_response("200 OK", [("X-Gen", app.RELEASE), ("X-Pid", str(os.getpid())), ("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture(params=EITHER_PID)
def service(tmp_path: Path, environment: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Service]:
    environment = {**environment, "TMPDIR": str(tmp_path)}
    with either(request, tmp_path, environment) as service:
        service.write("work.py", DIRTY)
        service.write("dirty_how")
        service.write("site_app.py", SITE)
        yield service


def start(service: Service, **settings: Any) -> None:
    service.configure(**{"dirty_apps": ["work:Work"], "dirty_workers": 2, "graceful_timeout": 20, **settings})
    command = service.command()
    service.start([*command[:-1], "site_app:site"])
    service.wait_log(r"Dirty worker \d+ listening", count=2)


@contextmanager
def working(service: Service, name: str = "done") -> Iterator[Connection]:
    """A request that waits for a dirty worker, which works until the file `name` is written."""
    with service.connect() as connection:
        connection.send_request(f"/dirty?{name}")
        service.wait_file(f"{name}.held", lines=1)
        yield connection


def running() -> int:
    return sum(p.state != "Z" for p in descendants(os.getpid()))


def leftovers(service: Service) -> list[str]:
    return sorted(name for name in os.listdir(service.folder) if name.startswith("gunicorn-dirty"))


def stop(service: Service) -> None:
    if isinstance(service, Held):
        service.signal(signal.SIGTERM, service.pid)
        assert service.ended() == 0
    else:
        service.stop()
    assert leftovers(service) == []


def test_three_upgrades_with_a_request_in_each_drain(service: Service) -> None:
    start(service)
    gen = "A"
    for release in "BCD":
        old = service.master
        with working(service, f"done{release}") as working_one:
            new = service.begin_drain(release)
            assert service.ask("/dirty").body == release.encode()
            # A pid file of its own for each dirty arbiter.
            assert len([name for name in leftovers(service) if name.endswith(".pid")]) == 2
            service.write(f"done{release}")
            answer = working_one.answer()
            assert (answer.status, answer.gen, answer.body) == (200, gen, gen.encode())
        if isinstance(service, Held):
            service.wait_held(new)
        else:
            wait_gone(old)
            service.master = new
        gen = release
        # A dirty arbiter's folder, and its pid file.
        until(lambda: len(leftovers(service)) == 2, "the end of what the old one had")
        # The master, its workers, the dirty arbiter and its own; the holder.
        until(lambda: running() == 6 + isinstance(service, Held), "the end of what the old one was")
    stop(service)


def test_a_stop_finishes_what_needs_them(service: Service) -> None:
    start(service)
    service.upgrade("B")
    pid = service.pid if isinstance(service, Held) else service.master
    with working(service) as working_one:
        mark = service.mark()
        service.signal(signal.SIGTERM, pid)
        service.wait_log("Handling signal: term", after=mark)
        # The workers were told.
        service.wait_log(r"Worker exiting", after=mark)
        service.write("done")
        answer = working_one.answer()
        assert (answer.status, answer.body) == (200, b"B")
    until(service.is_empty, "the end of all processes")
    assert leftovers(service) == []


def test_a_stop_that_is_out_of_time_leaves_no_dirty_worker(service: Service) -> None:
    start(service, graceful_timeout=1)
    with working(service):
        service.signal(signal.SIGTERM)
        until(service.is_empty, "the end of all processes")
    assert leftovers(service) == []


def test_dirty_workers_have_their_own_time_to_end(service: Service) -> None:
    service.write("dirty_how", "slow end")
    start(service, graceful_timeout=1, dirty_graceful_timeout=2)
    service.signal(signal.SIGTERM)
    until(service.is_empty, "the end of all processes")


def test_a_stop_is_not_lost_while_the_old_dirty_workers_end(service: Service) -> None:
    service.write("dirty_how", "slow end")
    start(service, dirty_graceful_timeout=20)
    service.release("B")
    new = service.begin_upgrade()
    service.wait_log("Upgrade: done")
    service.signal(signal.SIGTERM, service.pid if isinstance(service, Held) else new)
    service.wait_log("Handling signal: term")
    service.write("ended")
    until(service.is_empty, "the end of all processes")


@pytest.mark.parametrize("how", ["hold", "listen"])
def test_a_successor_is_ready_when_its_dirty_workers_are(service: Service, how: str) -> None:
    """They must have loaded their applications, and listen: a request that comes before that is refused."""
    start(service)
    service.release("B")
    service.write("dirty_how", how)
    mark = service.mark()
    new = service.begin_upgrade()
    service.wait_log("Upgrade: 2 of 4 workers ready", after=mark)
    service.wait_file("dirty_begun" if how == "hold" else "dirty_loaded", lines=4)
    assert service.ask("/dirty").body == b"A"
    assert "is ready after" not in service.log
    service.write("load")
    service.wait_log("Upgrade: done", after=mark)
    if isinstance(service, Held):
        service.wait_held(new)
    else:
        wait_gone(service.master)
        service.master = new
    assert service.ask("/dirty").body == b"B"


def test_a_dirty_application_that_cannot_be_loaded_fails_the_upgrade(service: Service) -> None:
    start(service)
    before = leftovers(service)
    mark = service.mark()
    with working(service) as working_one:
        service.release("B")
        service.write("dirty_how", "broken")
        new = service.begin_upgrade()
        service.wait_log(r"Upgrade failed: .*dirty worker \(pid: \d+\) ended before it had loaded", after=mark)
        until(lambda: process(new) is None, "the end of the successor")
        service.write("done")
        assert working_one.answer().body == b"A"
    until(lambda: leftovers(service) == before, "the end of what the successor had")
    assert service.ask("/dirty").body == b"A"
    service.write("dirty_how")
    service.upgrade("C")
    assert service.ask("/dirty").body == b"C"


def test_a_dirty_arbiter_that_dies_does_not_take_the_old_ones_down(service: Service) -> None:
    """gunicorn would take another generation's for an orphan, and kill it."""
    start(service)
    with working(service) as working_one:
        mark = service.mark()
        service.begin_drain("B")
        new = int(service.wait_log(r"Spawned dirty arbiter \(pid: (\d+)\)", after=mark)[0][1])
        service.signal(signal.SIGKILL, new)
        service.wait_log(r"Spawned dirty arbiter \(pid: (\d+)\)", count=2, after=mark)
        service.write("done")
        answer = working_one.answer()
        assert (answer.status, answer.body) == (200, b"A")
    assert "Killing orphaned" not in service.log
