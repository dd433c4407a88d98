"""Websockets in WSGI workers: one holds the drain until it ends, or until the deadline, which reports it."""

from __future__ import annotations

import contextlib
import shutil
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from server import APPS, Service, wait_gone

simple_websocket = pytest.importorskip("simple_websocket", reason="websockets in WSGI: gunicorn_hot[test]")

WORKERS = ["gthread", "gevent"]


@contextlib.contextmanager
def websocket(service: Service) -> Iterator[Any]:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    scheme = "wss" if service.tls else "ws"
    client = simple_websocket.Client(f"{scheme}://{service.address}/socket", ssl_context=context)
    try:
        yield client
    finally:
        with contextlib.suppress(simple_websocket.ConnectionClosed, OSError):
            client.close()


def say(client: Any, word: str) -> tuple[str, int]:
    """Say something; returns the release and the worker that have echoed it."""
    client.send(word)
    release, pid, echo = client.receive(timeout=20).split()
    assert echo == word
    return release, int(pid)


@pytest.mark.parametrize("worker", WORKERS)
def test_a_websocket_lives_through_the_upgrade(service: Service, worker: str, transport: dict[str, str]) -> None:
    shutil.copy(APPS / "sockets.py", service.folder / "app.py")
    service.configure(worker_class=worker, hot_probation=0, hot_drain_timeout=60, **transport)
    service.start()
    with websocket(service) as old:
        before = say(old, "hello")
        new = service.begin_drain()
        assert say(old, "again") == before
        with websocket(service) as young:
            assert say(young, "hello")[0] == "B"
            young.send("bye")
        old.send("bye")
        service.wait_log("Upgrade: done, .* 0 requests cut")
        wait_gone(service.master)
    service.master = new


@pytest.mark.parametrize("worker", WORKERS)
def test_a_websocket_is_cut_at_the_deadline(service: Service, worker: str, transport: dict[str, str]) -> None:
    shutil.copy(APPS / "sockets.py", service.folder / "app.py")
    service.configure(worker_class=worker, hot_probation=0, hot_drain_timeout=1, **transport)
    service.start()
    with websocket(service) as client:
        _, pid = say(client, "hello")
        new = service.begin_drain()
        (cut,) = service.wait_log(r"Cut: GET /socket after \d+\.\ds(?:, \d+ bytes sent)? \(worker pid: (\d+)\)")
        assert int(cut[1]) == pid
        service.wait_log("Upgrade: done, .* 1 requests cut")
        with pytest.raises(simple_websocket.ConnectionClosed):
            client.receive(timeout=20)
    wait_gone(service.master)
    service.master = new
