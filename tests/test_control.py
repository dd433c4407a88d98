"""gunicorn's control socket: gunicornc speaks to the master that serves, before, during and after each upgrade."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.ctl.client import ControlClient, ControlClientError
from held import EITHER_PID, Held, either
from outside import settle
from server import Service, until, wait_gone

from gunicorn_hot.control import ControlServer


@pytest.fixture(params=EITHER_PID)
def service(tmp_path: Path, environment: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Service]:
    with either(request, tmp_path, environment) as service:
        yield service


def configure(service: Service, **settings: Any) -> None:
    service.configure(**{"control_socket_disable": False, "control_socket": str(service.folder / "ctl"), **settings})


def start(service: Service, **settings: Any) -> None:
    configure(service, **settings)
    service.start()
    service.wait_log("Control socket listening")


def ask(service: Service, command: str = "show stats", name: str = "ctl") -> dict[str, Any]:
    with ControlClient(str(service.folder / name), 20) as client:
        found: dict[str, Any] = client.send_command(command)
        return found


def gunicornc(service: Service, command: str) -> str:
    """Run the command as an operator does; returns what it has written."""
    arguments = ["-m", "gunicorn.ctl.cli", "-s", str(service.folder / "ctl"), "-c", command]
    done = service.run(sys.executable, *arguments)
    assert done.returncode == 0, done.stdout
    return done.stdout


class Asker(threading.Thread):
    """Asks all the time who answers, each time on a connection of its own."""

    def __init__(self, service: Service) -> None:
        super().__init__(name="control client")
        self.service = service
        self.pids: list[int] = []
        self.failures: list[str] = []
        self.count = 0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                pid = ask(self.service)["pid"]
            except ControlClientError as exc:
                self.failures.append(f"after {self.count}: {exc}")
                continue
            self.count += 1
            if pid not in self.pids[-1:]:
                self.pids.append(pid)

    def __enter__(self) -> Asker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def test_five_upgrades(service: Service) -> None:
    start(service)
    masters = [service.master]
    with Asker(service) as asker:
        for release in "BCDEF":
            service.upgrade(release)
            masters.append(service.master)
            assert re.search(rf"(?i)pid: +{service.master}\b", gunicornc(service, "show stats"))
        until(lambda: asker.pids[-1:] == masters[-1:], "an answer of the last master")
    assert asker.failures == []
    assert asker.count > 10 * len(masters)
    # Each in its turn, and never an earlier one again.
    assert asker.pids == masters
    service.stop()
    assert not (service.folder / "ctl").exists()


def test_forks_refuse_nobody(service: Service) -> None:
    """gunicorn's server ends before each fork, with its file, and comes again after it."""
    start(service)
    before = (service.folder / "ctl").stat().st_ino
    with Asker(service) as asker:
        assert ask(service, "worker add 3")["total"] == 5
        until(lambda: len(service.workers()) == 5, "five workers")
        # A signal is lost on one that has only been forked.
        service.wait_file("loaded", lines=5)
        for worker in service.workers():
            assert ask(service, f"worker kill {worker}") == {"success": True, "killed": worker}
            wait_gone(worker)
        until(lambda: len(service.workers()) == 5, "five workers again")
    assert asker.failures == []
    assert (service.folder / "ctl").stat().st_ino == before


@pytest.mark.parametrize("end", ["broken", "in probation", "draining"])
def test_an_upgrade_that_fails_leaves_it_to_the_old_master(service: Service, end: str) -> None:
    start(service, hot_probation=5 if end == "in probation" else 0.2)
    old = service.master
    if end == "broken":
        with Asker(service) as asker:
            service.release("B broken")
            service.begin_upgrade()
            service.wait_log("Upgrade failed")
        assert (asker.failures, asker.pids) == ([], [old])
    else:
        service.release("B")
        with service.held():
            successor = service.begin_upgrade()
            if end == "draining":
                service.wait_log("committed to successor")
                assert ask(service)["pid"] == successor
            else:
                service.wait_log("in probation")
                assert ask(service)["pid"] == old
            service.signal(signal.SIGKILL, successor)
            service.wait_log("Upgrade failed")
            service.write("go")
    until(lambda: ask(service)["pid"] == old, "an answer of the old master")
    # The next one works.
    configure(service)
    service.upgrade("C")
    assert ask(service)["pid"] == service.master != old


def test_the_file_has_its_mode_from_the_first_instant(service: Service) -> None:
    start(service, control_socket_mode=0o640)
    for release in "BC":
        assert stat.S_IMODE((service.folder / "ctl").stat().st_mode) == 0o640
        service.upgrade(release)
    assert sorted(name for name in os.listdir(service.folder) if name.startswith((".", "ctl"))) == ["ctl"]


def test_another_path_and_none(service: Service) -> None:
    start(service)
    configure(service, control_socket=str(service.folder / "other"))
    service.upgrade("B")
    assert ask(service, name="other")["pid"] == service.master
    assert not (service.folder / "ctl").exists()
    configure(service, control_socket_disable=True)
    service.upgrade("C")
    assert not (service.folder / "other").exists()
    configure(service)
    service.upgrade("D")
    assert ask(service)["pid"] == service.master


def test_reload_is_an_upgrade_if_hup_is(service: Service) -> None:
    start(service, hot_hup=True)
    old = service.master
    service.release("B")
    with Asker(service) as asker:
        assert "reloading" in gunicornc(service, "reload")
        service.wait_log("Upgrade: done")
        until(lambda: len(asker.pids) == 2, "an answer of the new master")
    assert asker.failures == []
    service.master = asker.pids[-1]
    assert asker.pids == [old, service.master]
    assert service.ask().gen == "B"
    if isinstance(service, Held):
        service.wait_held(service.master)
    else:
        settle(service)


def test_shutdown_ends_the_service(service: Service) -> None:
    """Also the process that only keeps its pid."""
    start(service)
    service.upgrade("B")
    with service.held() as held:
        assert ask(service, "shutdown") == {"status": "shutting_down", "mode": "graceful"}
        service.wait_log("Handling signal: term")
        service.write("go")
        assert held.answer().gen == "B"
    if isinstance(service, Held):
        assert service.ended() == 0
    until(service.is_empty, "the end of all processes")
    assert not (service.folder / "ctl").exists()
    assert not (service.folder / "pid").exists()


def test_a_server_whose_loop_fails_delays_no_fork_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(serve: Coroutine[Any, Any, None]) -> None:
        serve.close()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncio, "run", run)
    arbiter = SimpleNamespace(log=logging.getLogger("test"), reporter=None)
    server: Any = ControlServer(arbiter, str(tmp_path / "ctl"), 0o600)
    server.start()
    server._thread.join(20)
    assert server._serves.is_set(), "the next fork would wait for it"
    server._stop_for_fork()
    server._restart_after_fork()
    server._thread.join(20)
    # gunicorn speaks to a loop although it has ended.
    server._loop, server._server = asyncio.new_event_loop(), object()
    server._loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        server.stop()
    assert not (tmp_path / "ctl").exists()
    assert server._listening.fileno() == -1
