"""What a service manager is told, over a socket of its own."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from server import REPOSITORY, Service, until, wait_gone

from gunicorn_hot.systemd import Manager, Phase


def test_each_thing_is_said_once() -> None:
    manager = Manager("/run/notify")
    assert manager.news(Phase.STARTING, "Starting", 1.0) == "STATUS=Starting"
    assert manager.news(Phase.READY, "Serving", 2.0) == "READY=1\nSTATUS=Serving"
    assert manager.news(Phase.READY, "Serving", 3.0) == ""
    assert manager.news(Phase.RELOADING, "Upgrading", 4.5) == (
        "RELOADING=1\nMONOTONIC_USEC=4500000\nSTATUS=Upgrading"
    )
    assert manager.news(Phase.RELOADING, "Upgrading: 1 of 2", 5.0) == "STATUS=Upgrading: 1 of 2"
    assert manager.news(Phase.READY, "Upgrading: 1 of 2", 6.0) == "READY=1"


def test_a_status_is_one_line() -> None:
    assert Manager("/run/notify").news(Phase.STARTING, "it said:\nNO=1", 0.0) == "STATUS=it said: NO=1"


class Listener:
    """The service manager's end: keeps what it is told, and who has told it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.told: list[tuple[int, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(path)
        self._socket.setblocking(False)

    def receive(self) -> list[tuple[int, str]]:
        """Return all (pid, line) so far."""
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(12))
            except BlockingIOError:
                return self.told
            pid = int.from_bytes(ancillary[0][2][:4], "little")
            self.told += [(pid, line) for line in data.decode().split("\n")]

    def wait(self, line: str, count: int = 1) -> None:
        until(lambda: sum(bool(re.fullmatch(line, said)) for _, said in self.receive()) >= count, f"{count} of {line}")

    def story(self, since: int = 0) -> list[str]:
        """Return the lines, those that only count left out."""
        return [re.sub(r"\d{3,}", "N", line) for _, line in self.receive()[since:]]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(service: Service) -> Iterator[Listener]:
    listener = Listener(str(service.folder / "notify"))
    service.env["NOTIFY_SOCKET"] = listener.path
    yield listener
    listener.close()


def upgraded(service: Service, release: str, first: int | None = None) -> int:
    """Upgrade by the pid `first`, and wait until the old master has left; returns the new one's pid."""
    service.release(release)
    mark, old = service.mark(), service.master
    service.signal(signal.SIGUSR2, first)
    new = int(service.wait_log(r"booting successor with pid: (\d+)", after=mark)[0][1])
    service.wait_log(rf"\[{new}\] .* The predecessor has left", after=mark)
    if first is None:
        wait_gone(old)
    service.master = new
    return new


def test_ready_means_that_the_workers_can_serve(service: Service, manager: Listener) -> None:
    service.configure()
    service.release("A hold=go")
    service.start(serves=False)
    service.wait_file("go.held", lines=2)
    assert "READY=1" not in manager.story()
    service.write("go")
    manager.wait("READY=1")
    assert service.ask().status == 200
    # Said only if that takes them more than a second.
    story = [line for line in manager.story() if line != "STATUS=Starting: 0 of 2 workers ready"]
    assert story == ["STATUS=Starting: 1 of 2 workers ready", "READY=1", "STATUS=Serving, generation 1"]


def essence(lines: list[str]) -> list[str]:
    """Leave out what may be said or not, by which of two came first."""
    passing = r"STATUS=Upgrading: (\d of [\d?] workers ready|pausing workers|waiting .*|committing)"
    return [line for line in lines if not re.fullmatch(passing, line)]


def test_a_service_that_keeps_its_pid_speaks_by_it(service: Service, manager: Listener) -> None:
    service.configure(hot_pid="stable", workers=1)
    service.start()
    manager.wait("STATUS=Serving, generation 1")
    pid = service.master
    for generation, release in enumerate("BCD", 2):
        at = len(manager.told)
        upgraded(service, release, pid)
        manager.wait(f"STATUS=Serving, generation {generation}")
        assert "STATUS=Upgrading: 1 of 1 workers ready" in manager.story(at)
        assert essence(manager.story(at)) == [
            "RELOADING=1", "MONOTONIC_USEC=N", "STATUS=Upgrading: in probation",
            "READY=1", f"STATUS=Serving, generation {generation}",
        ]
    at = len(manager.told)
    service.signal(signal.SIGTERM, pid)
    until(service.is_empty, "the end")
    assert manager.story(at) == ["STOPPING=1", "STATUS=Stopping"]
    assert {who for who, _ in manager.told} == {pid}


def test_a_service_whose_pid_changes_names_its_new_main_process_last(service: Service, manager: Listener) -> None:
    service.configure(workers=1)
    service.start()
    manager.wait("STATUS=Serving, generation 1")
    for generation, release in enumerate("BC", 2):
        at, old = len(manager.told), service.master
        new = upgraded(service, release)
        manager.wait("READY=1", 2)
        until(lambda: new in {who for who, _ in manager.receive()[at:]}, "a word of the new master")  # noqa: B023
        assert essence(manager.story(at)) == [
            "RELOADING=1", "MONOTONIC_USEC=N", "STATUS=Upgrading: in probation",
            "READY=1", "STATUS=Serving, by master N; the old one is draining", "MAINPID=N",
            "READY=1", f"STATUS=Serving, generation {generation}",
        ]
        said = [(who, line) for who, line in manager.told[at:] if line.startswith("MAINPID")]
        assert said == [(old, f"MAINPID={new}")]
        # Nobody speaks who is not the main process at that time.
        assert [who for who, _ in manager.told[at:]] == [old] * (len(manager.told) - at - 2) + [new] * 2
    at = len(manager.told)
    service.stop()
    assert manager.story(at) == ["STOPPING=1", "STATUS=Stopping"]


@pytest.mark.parametrize("hot_pid", ["stable", "follow"])
def test_a_failed_upgrade_ends_the_reload(service: Service, manager: Listener, hot_pid: str) -> None:
    service.configure(workers=1, hot_pid=hot_pid)
    service.start()
    manager.wait("STATUS=Serving, generation 1")
    at = len(manager.told)
    service.release("B broken")
    service.begin_upgrade()
    manager.wait("READY=1", 2)
    story = essence(manager.story(at))
    assert story[:2] == ["RELOADING=1", "MONOTONIC_USEC=N"]
    assert re.fullmatch(r"STATUS=Upgrade failed: .*this release is broken", story[2])
    assert story[3] == "READY=1"
    assert re.fullmatch(r"STATUS=Serving, generation 1; upgrade failed: .*this release is broken", story[4])
    assert len(story) == 5


def test_a_successor_that_is_killed_is_no_reason_to_speak_of_another_upgrade(
    service: Service, manager: Listener
) -> None:
    service.configure(workers=1, hot_probation=60)
    service.start()
    manager.wait("STATUS=Serving, generation 1")
    at = len(manager.told)
    service.release("B")
    successor = service.begin_upgrade()
    manager.wait("STATUS=Upgrading: in probation")
    service.signal(signal.SIGKILL, successor)
    manager.wait("STATUS=Serving, generation 1; upgrade failed: .*")
    assert not [line for line in manager.story(at) if "again" in line]


@pytest.mark.parametrize("hot_pid", ["stable", "follow"])
def test_a_successor_that_is_given_up_does_not_say_that_the_service_stops(
    service: Service, manager: Listener, hot_pid: str
) -> None:
    service.configure(workers=1, hot_pid=hot_pid)
    service.start()
    pid = service.master
    upgraded(service, "B", pid if hot_pid == "stable" else None)
    manager.wait("STATUS=Serving, generation .")
    at = len(manager.told)
    service.release("C")
    with service.held():
        mark = service.mark()
        service.signal(signal.SIGUSR2, pid if hot_pid == "stable" else None)
        service.wait_log("committed to successor", after=mark)
        new = int(service.wait_log(r"booting successor with pid: (\d+)", after=mark)[0][1])
        # It halts, with status 3, while the old one drains.
        service.write("app.py", "raise RuntimeError('broken')")
        service.signal(signal.SIGKILL, service.workers(new)[0])
        wait_gone(new)
        service.wait_log("Upgrade failed", after=mark)
        service.write("go")
    manager.wait(r"STATUS=Serving, generation .*upgrade failed.*")
    assert "STOPPING=1" not in manager.story(at)


def test_the_application_can_speak_to_the_manager_too(service: Service, manager: Listener) -> None:
    service.configure(workers=1)
    service.start()
    environ: dict[str, Any] = json.loads(service.ask("/environ").body)
    assert environ["NOTIFY_SOCKET"] == manager.path


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_the_units_of_the_examples_are_valid() -> None:
    units = sorted(REPOSITORY.glob("examples/systemd/gunicorn.*"))
    assert len(units) == 2
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    # It may have something to say of the machine's own units.
    assert "gunicorn" not in done.stdout
