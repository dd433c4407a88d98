"""Sockets that the service manager has opened (socket activation) survive an upgrade, and stay the manager's."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from collections.abc import Iterator

import pytest
from outside import unnoticed
from server import Service, until

#: What systemd does between fork and exec.
LAUNCH = """
import os, sys
given = [os.dup(int(fd)) for fd in sys.argv[1].split(",")]
given = [os.dup2(fd, number) for fd, number in zip(given, range(20, 99))]
for number, fd in enumerate(given, 3):
    os.dup2(fd, number)
    os.close(fd)
names = ":".join(["web", "local"][:len(given)])
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(given)), LISTEN_FDNAMES=names)
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def sockets(service: Service) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        web = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        local = stack.enter_context(socket.socket(socket.AF_UNIX))
        local.bind(f"{service.folder}/sock")
        local.listen()
        service.address = "{}:{}".format(*web.getsockname())
        yield [web, local]


def start(service: Service, sockets: list[socket.socket]) -> None:
    fds = [one.fileno() for one in sockets]
    numbers = ",".join(map(str, fds))
    service.start([sys.executable, "-c", LAUNCH, numbers, *service.command()], pass_fds=fds)


@pytest.mark.parametrize("hot_pid", ["follow", "stable"])
def test_three_upgrades_and_a_stop(service: Service, sockets: list[socket.socket], hot_pid: str) -> None:
    local = f"unix:{service.folder}/sock"
    # gunicorn does not look at it.
    service.configure(bind="127.0.0.1:1", hot_pid=hot_pid)
    start(service, sockets)
    pid = service.master
    with unnoticed(service):
        for release in "BCD":
            service.release(release)
            mark = service.mark()
            service.signal(signal.SIGUSR2, pid)
            new = int(service.wait_log(r"booting successor with pid: (\d+)", after=mark)[0][1])
            service.wait_log(rf"\[{new}\] .* The predecessor has left", after=mark)
            pid = pid if hot_pid == "stable" else new
            assert (service.ask().gen, service.ask(address=local).gen) == (release, release)
    service.signal(signal.SIGTERM, pid)
    until(service.is_empty, "the end of all processes")
    # They are not the service's to close: whoever connects now is served when the manager starts it again.
    assert (service.folder / "sock").exists()
    with service.connect() as waiting, service.connect(local) as waiting_too:
        start(service, sockets)
        assert (waiting.ask().gen, waiting_too.ask().gen) == ("D", "D")


def test_a_failed_upgrade(service: Service, sockets: list[socket.socket]) -> None:
    service.configure()
    start(service, sockets[:1])
    service.release("B broken")
    service.begin_upgrade()
    service.wait_log("Upgrade failed")
    assert service.ask().gen == "A"
    service.upgrade("C")
    assert service.ask().gen == "C"
