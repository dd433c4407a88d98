"""Applications that say `Connection: keep-alive` themselves, as many do that stream events: the worker knows better."""

from __future__ import annotations

import re
import socket

import pytest
from outside import wait_paused
from raw import GET
from server import Service, speaks_asgi, wait_gone
from test_app_side import application

WSGI = """
def app(environ, start_response):
    if environ["PATH_INFO"] != "/events":
        return subject(environ, start_response)
    headers = [("Connection", "Keep-Alive"), ("Keep-Alive", "timeout=60"), ("Content-Length", "5")]
    start_response("200 OK", headers)
    return [b"event"]
"""

ASGI = """
import asgi

WORDS = {"/events": b"Keep-Alive", "/upgrade": b"Upgrade, keep-alive"}


async def app(scope, receive, send):
    if scope["type"] != "http" or scope["path"] not in WORDS:
        return await asgi.app(scope, receive, send)
    headers = [(b"Connection", WORDS[scope["path"]]), (b"keep-alive", b"timeout=60"), (b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"event"})
"""

KEEP_ALIVE = ["gthread", "gevent", "gevent_pywsgi"]
ASGI_WORKERS = ["asgi", "uvicorn_worker.UvicornWorker", "uvicorn_worker.UvicornH11Worker"]


def start(service: Service, worker: str) -> None:
    if "uvicorn" in worker:
        pytest.importorskip("uvicorn_worker")
        pytest.importorskip("httptools")
    service.configure(worker_class=worker, workers=1, keepalive=20, hot_probation=0)
    if speaks_asgi(worker):
        (service.folder / "app.py").rename(service.folder / "asgi.py")
        service.write("app.py", ASGI)
    else:
        application(service, WSGI)
    service.start()


def ask(sock: socket.socket, path: bytes = b"/events") -> list[str]:
    """Return all that the answer says of its connection."""
    sock.sendall(GET % path)
    data = b""
    while not data.endswith(b"\r\n\r\nevent"):
        piece = sock.recv(65536)
        assert piece, data
        data += piece
    found = re.findall(r"^connection: *(.*?)\r$", data.decode(), re.MULTILINE | re.IGNORECASE)
    return [token.strip().lower() for value in found for token in value.split(",")]


def finish(service: Service, new: int) -> None:
    service.wait_log("Upgrade: done, .* 0 requests cut")
    wait_gone(service.master)
    service.master = new


@pytest.mark.parametrize("worker", [*KEEP_ALIVE, *ASGI_WORKERS])
def test_the_last_answer_says_only_that_it_is_the_last(service: Service, worker: str) -> None:
    start(service, worker)
    with service.connect() as connection, service.connect() as other:
        for kept in connection, other:
            assert "close" not in ask(kept.sock)
        new = service.begin_drain()
        wait_paused(service)
        assert ask(connection.sock) == ["close"]
        connection.was_closed()
        if speaks_asgi(worker):
            # What it offers besides is its own affair.
            assert sorted(ask(other.sock, b"/upgrade")) == ["close", "upgrade"]
            other.was_closed()
    finish(service, new)


def test_a_worker_that_keeps_none_says_so(service: Service) -> None:
    start(service, "sync")
    with service.connect() as connection:
        assert ask(connection.sock) == ["close"]
        connection.was_closed()
