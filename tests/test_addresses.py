"""Upgrades over every kind of address that gunicorn can bind."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

import gunicorn
import pytest
from outside import unnoticed
from server import Service, free_port, wait_gone

#: Opens a socket and gives it away as descriptor 7, for ``bind = "fd://7"``.
LAUNCH = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(listener.fileno(), 7)
os.execv(sys.argv[2], sys.argv[2:])
"""


def abstract(service: Service) -> list[str]:
    name = f"gunicorn_hot-test-{os.getpid()}-{service.folder.name}"
    service.address = f"unix:\0{name}"
    service.configure(bind=service.address)
    return service.command()


def by_descriptor(service: Service) -> list[str]:
    service.configure(bind="fd://7")
    port = service.address.rpartition(":")[2]
    return [sys.executable, "-c", LAUNCH, port, *service.command()]


def six(service: Service) -> list[str]:
    port = free_port()
    service.address = f"::1:{port}"
    service.configure(bind=f"[::1]:{port}")
    return service.command()


@pytest.mark.parametrize("kind", [abstract, by_descriptor, six], ids=lambda kind: kind.__name__)
def test_three_upgrades_and_a_stop(service: Service, kind: Callable[[Service], list[str]]) -> None:
    if kind is abstract and gunicorn.version_info < (26,):
        pytest.skip("gunicorn before 26 cannot bind an abstract unix socket")
    if kind is six:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("no IPv6 here")
    service.start(kind(service))
    with unnoticed(service):
        for release in "BCD":
            service.upgrade(release)
            assert service.ask().gen == release
    service.stop()
    assert "Traceback" not in service.log + service.read("output")
    with pytest.raises(OSError, match="refused"):
        service.connect()


@pytest.mark.parametrize("why", ["release", "address"])
def test_a_failed_upgrade_leaves_nothing_of_a_new_address(service: Service, why: str) -> None:
    """`address`: another new one cannot be bound."""
    service.configure(workers=1)
    service.start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        binds = [service.address, f"unix:{service.folder}/new.sock"]
        if why == "address":
            binds.append(f"127.0.0.1:{taken.getsockname()[1]}")
        service.configure(workers=1, bind=binds)
        service.release("B" if why == "address" else "B broken")
        new = service.begin_upgrade()
        service.wait_log("Upgrade failed", timeout=30)      # gunicorn tries to bind for 5 s
        wait_gone(new)
    assert not (service.folder / "new.sock").exists()
    assert service.ask().gen == "A"
    service.release("C")
    service.configure(workers=1, bind=binds[:2])
    service.upgrade()
    assert (service.folder / "new.sock").is_socket()
    assert service.ask().gen == "C"
