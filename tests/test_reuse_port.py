"""reuse_port: a socket for each worker, none of which is ever closed by an upgrade, a reload or a worker's death."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import pytest
from outside import unnoticed
from server import Service, free_port, until, wait_gone

from gunicorn_hot import slots

# --- who gets what ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("served", "workers", "missing", "chosen"),
    [
        pytest.param({0: 0, 1: 0, 2: 0}, 3, 3, [0], id="the first of three"),
        pytest.param({0: 1, 1: 0, 2: 0}, 3, 2, [1], id="the second of three"),
        pytest.param({0: 1, 1: 0, 2: 1}, 3, 1, [1], id="one that replaces a dead worker"),
        pytest.param({0: 1, 1: 1, 2: 1}, 4, 1, None, id="one worker more"),
        pytest.param({}, 1, 1, None, id="no slots"),
        pytest.param({0: 1, 1: 1}, 2, 0, [0], id="a reload, its first"),
        pytest.param({0: 2, 1: 1}, 2, -1, [1], id="a reload, its second"),
        pytest.param({0: 1, 1: 1, 2: 1, 3: 1}, 2, -2, [0, 1], id="a reload with fewer workers, its first"),
        pytest.param({0: 2, 1: 2, 2: 1, 3: 1}, 2, -3, [2, 3], id="a reload with fewer workers, its second"),
        pytest.param({0: 0, 1: 0, 2: 0}, 2, 2, [0, 1], id="fewer workers than slots, the first"),
        pytest.param({0: 1, 1: 1, 2: 0}, 2, 1, [0, 2], id="fewer workers than slots, the second"),
        pytest.param({0: 0, 1: 0, 2: 1}, 2, 1, [0, 1], id="a dead worker that had two"),
        pytest.param({0: 0, 1: 0}, 1, 1, [0, 1], id="one worker for all"),
    ],
)
def test_share(served: dict[int, int], workers: int, missing: int, chosen: list[int] | None) -> None:
    assert slots.share(served, workers, missing) == chosen


@pytest.mark.parametrize("workers", range(1, 7))
@pytest.mark.parametrize("count", range(1, 9))
def test_every_slot_is_served(workers: int, count: int) -> None:
    served = dict.fromkeys(range(count), 0)
    for started in range(workers):
        chosen = slots.share(served, workers, workers - started)
        if chosen is None:
            chosen = [len(served)]
            served[chosen[0]] = 0
        assert chosen
        for slot in chosen:
            served[slot] += 1
    assert all(served.values())
    assert len(served) == max(count, workers)


# --- real services ----------------------------------------------------------------------------------------------


def configure(service: Service, *lines: str, **settings: object) -> None:
    service.configure(*lines, **{"reuse_port": True, **settings})


def queues(service: Service, pid: int | None = None) -> set[str]:
    """Return the inodes of the sockets that listen at the service's TCP address, of a process or of all."""
    port = int(service.address.rpartition(":")[2])
    ours = f"0100007F:{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {f[9] for f in lines if f[1] == ours and f[3] == "0A"}
    if pid is None:
        return listening
    folder = Path(f"/proc/{pid}/fd")
    held = set()
    for fd in os.listdir(folder):
        try:
            held.add(os.readlink(folder / fd))
        except FileNotFoundError:
            continue
    return {inode for inode in listening if f"socket:[{inode}]" in held}


def serving_pids(service: Service, tries: int = 60) -> set[int]:
    """Return the workers that have answered one of so many connections."""
    return {service.ask().pid for _ in range(tries)}


@pytest.mark.parametrize("worker_class", ["sync", "gthread", "gevent"])
def test_no_socket_is_ever_closed(service: Service, worker_class: str) -> None:
    if worker_class == "gevent":
        pytest.importorskip("gevent")
    configure(service, workers=3, worker_class=worker_class)
    service.start()
    before = queues(service)
    assert len(before) == 3
    clients = {"new": 3} if worker_class == "sync" else {"new": 2, "keep": 1, "slow": 1}
    with unnoticed(service, clients=clients):
        for release in "BCD":
            service.upgrade(release)
            assert queues(service) == before
        mark = service.mark()
        service.signal(signal.SIGHUP)
        service.wait_log("Worker exiting", count=3, after=mark)
        assert queues(service) == before
    until(lambda: len(serving_pids(service)) == 3, "three workers that serve")


def test_what_waits_for_a_worker_that_dies_is_served_by_the_next(service: Service) -> None:
    # A queue of its own for the only worker: whoever connects while it is dead, waits there.
    configure(service, workers=2, worker_class="sync")
    service.start()
    victim = service.workers()[0]
    service.signal(signal.SIGSTOP, victim)
    connections = [service.connect() for _ in range(20)]
    for connection in connections:
        connection.send_request("/")
    service.signal(signal.SIGKILL, victim)
    answers = {connection.answer().status for connection in connections}
    assert answers == {200}
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("workers", [1, 2, 4, 5])
def test_more_and_fewer_workers(service: Service, workers: int) -> None:
    configure(service, workers=3)
    service.start()
    before = queues(service)
    configure(service, workers=workers)
    service.release("B")
    with unnoticed(service):
        service.upgrade()
    after = queues(service)
    assert after >= before
    assert len(after) == max(3, workers)
    until(lambda: len(serving_pids(service)) == workers, f"{workers} workers that serve")


def test_a_new_socket_does_not_listen_before_the_gate(service: Service) -> None:
    configure(service, workers=1)
    service.start()
    configure(service, workers=4)
    service.release("B hold=go")
    service.begin_upgrade()
    service.wait_file("go.held", lines=4)
    assert len(queues(service)) == 1
    assert {service.ask().gen for _ in range(40)} == {"A"}
    service.write("go")
    service.wait_log("Upgrade: done")
    assert len(queues(service)) == 4
    assert {service.ask().gen for _ in range(40)} == {"B"}


def test_workers_come_and_go_by_signal(service: Service) -> None:
    configure(service, workers=2)
    service.start()
    service.signal(signal.SIGTTIN)
    until(lambda: len(queues(service)) == 3, "three sockets")
    until(lambda: len(serving_pids(service)) == 3, "three workers that serve")
    service.signal(signal.SIGTTOU)
    until(lambda: len(queues(service)) == 2, "two sockets")
    until(lambda: len(service.workers()) == 2, "two workers")
    assert len(serving_pids(service)) == 2
    service.upgrade("B")
    assert len(serving_pids(service)) == 2


def test_reuse_port_may_come_and_go_with_an_upgrade(service: Service) -> None:
    service.configure(workers=2)
    service.start()
    configure(service, workers=2)
    service.upgrade("B")
    assert "reuse_port needs a start without a predecessor" in service.log
    assert len(queues(service)) == 1
    assert service.ask().gen == "B"
    service.stop()
    (service.folder / "log").unlink()
    (service.folder / "loaded").unlink()
    service.start()
    assert len(queues(service)) == 2
    service.configure(workers=2)
    with unnoticed(service, gen="B"):
        service.upgrade("C")
    assert len(queues(service)) == 2
    until(lambda: len(serving_pids(service)) == 2, "two workers that serve")


def test_several_addresses(service: Service) -> None:
    addresses = [service.address, f"unix:{service.folder}/sock", f"127.0.0.1:{free_port()}"]
    if socket.has_ipv6:
        addresses.append(f"[::1]:{free_port()}")
    configure(service, workers=2, bind=addresses)
    service.start()
    for release in "BC":
        service.upgrade(release)
        for address in addresses:
            assert service.ask(address=address.replace("[::1]", "::1")).gen == release
    service.stop()
    assert not (service.folder / "sock").exists()


def test_an_address_that_is_taken_is_told_of_as_gunicorn_does(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        configure(service, bind=f"127.0.0.1:{other.getsockname()[1]}")
        assert service.run().returncode == 1
    assert re.search("Connection in use", service.log)


def test_from_a_stock_gunicorn(service: Service) -> None:
    service.configure(hook=None, reuse_port=True)
    service.start()
    old = service.master
    configure(service)
    service.release("B")
    service.signal(signal.SIGUSR2)
    service.wait_log("stopping the predecessor, which is no gunicorn_hot")
    wait_gone(old)
    until(lambda: len(queues(service)) == 2, "two sockets")
    assert service.ask().gen == "B"


@pytest.mark.slow
def test_twenty_upgrades(service: Service) -> None:
    configure(service, workers=3)
    service.start()
    with unnoticed(service, clients={"new": 8, "keep": 2}) as load:
        for number in range(20):
            service.upgrade(f"R{number}")
            load.wait_for(20, gen=f"R{number}")
