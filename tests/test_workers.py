"""What the hot workers do in a life without upgrades, and in surroundings that are not the usual ones."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket

import pytest
from server import ASGI_WORKERS, Service, until, wait_gone

PATCHED = "from gevent import monkey; monkey.patch_all()"
CLIENTS = 40


def holding_client(address: str) -> socket.socket:
    """Ask, read the answer to its end, and keep the connection open although the server has said that it closes."""
    host, port = address.split(":")
    client = socket.create_connection((host, int(port)), timeout=10)
    client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    answer = b""
    while data := client.recv(65536):
        answer += data
        if b"\r\n\r\n" in answer:
            break
    assert answer.startswith(b"HTTP/1.1 200")
    return client


def test_clients_that_do_not_close_hold_up_nobody_in_gthread(service: Service) -> None:
    # gunicorn 26 and 27 wait up to 2 s for each of them on the main thread: 80 s for all.
    service.configure(workers=1, threads=2)
    service.start()
    clients = [holding_client(service.address) for _ in range(CLIENTS)]
    try:
        assert service.ask().status == 200
        service.upgrade("B")
        assert service.ask().gen == "B"
    finally:
        for client in clients:
            client.close()


QUIT_WHILE_IT_HANDS_OVER = """
import os, signal
def post_worker_init(worker):
    hand_over = worker.tpool._adjust_thread_count  # called with the pool locked
    def interrupted():
        hand_over()
        if os.path.exists("quit"):
            os.unlink("quit")
            os.kill(os.getpid(), signal.SIGQUIT)
    worker.tpool._adjust_thread_count = interrupted
"""


def test_a_quick_stop_of_gthread_while_it_hands_a_request_to_its_pool(service: Service) -> None:
    # gunicorn's worker would wait for itself, until it is killed.
    service.configure(QUIT_WHILE_IT_HANDS_OVER, worker_class="gthread", workers=1)
    service.start()
    [worker] = service.workers()
    service.write("quit")
    with contextlib.suppress(OSError, http.client.HTTPException):
        service.ask()
    wait_gone(worker)
    service.wait_log(rf"Worker exiting \(pid: {worker}\)")
    assert service.ask().status == 200


@pytest.mark.parametrize("worker_class", ["gevent", "sync"])
def test_a_master_that_the_configuration_has_let_gevent_patch(service: Service, worker_class: str) -> None:
    pytest.importorskip("gevent")
    service.configure(PATCHED, worker_class=worker_class)
    service.start()
    service.upgrade("B")
    service.release("C broken")
    mark = service.mark()
    service.begin_upgrade()
    service.wait_log("Upgrade failed", after=mark)
    assert service.ask().gen == "B"


@pytest.mark.parametrize("worker_class", ["sync", "gthread", "gevent", *ASGI_WORKERS])
def test_a_killed_master_leaves_no_worker(service: Service, worker_class: str) -> None:
    service.configure(worker_class=worker_class)
    service.start()
    # One that is still at the gate, or before it, would end with its master.
    answered: set[int] = set()
    until(lambda: answered.add(service.ask().pid) or answered == set(service.workers()), "answers of both workers")
    with service.held() as held:
        workers = service.workers()
        service.signal(signal.SIGKILL)
        service.wait_log("Master is gone, draining", count=len(workers))
        service.write("go")
        assert held.answer().status == 200
    until(lambda: (service.reap(), service.is_empty())[1], "the workers' end")


@pytest.mark.parametrize("worker_class", ["sync", "gthread", "gevent", *ASGI_WORKERS])
def test_max_requests_still_recycles(service: Service, worker_class: str) -> None:
    service.configure(worker_class=worker_class, workers=1, max_requests=3)
    service.start()
    (first,) = service.workers()
    until(lambda: service.ask().pid != first, "an answer of another worker")


@pytest.mark.parametrize("worker_class", ["sync", "gthread", "gevent", *ASGI_WORKERS])
def test_the_attributes_of_a_worker_are_no_more_than_the_interpreter_finds_quickly(
    service: Service, worker_class: str
) -> None:
    # CPython 3.11 to 3.13: 30 in the dictionary of an instance (SHARED_KEYS_MAX_SIZE); slots are none of them.
    service.configure(
        "def on_drain(worker):", "    with open('attributes', 'a') as file:", "        print(*vars(worker), file=file)",
        worker_class=worker_class, workers=1,
    )
    service.start()
    service.upgrade()
    (attributes,) = service.wait_file("attributes", lines=1).splitlines()
    assert len(attributes.split()) <= 30, attributes
