"""Pipelined requests in the drain of an ASGI worker: those that had been received are answered, in order.

Raw sockets, as in test_keepalive, which is about the other workers."""

from __future__ import annotations

import importlib.metadata
import signal
from typing import Any

import pytest
from raw import GET, answers, read_all
from server import Service, until, wait_gone

GUNICORN = int(importlib.metadata.version("gunicorn").partition(".")[0])
#: As uvicorn's workers, but for the loop or the parser.
CLASSES = """
from uvicorn_worker import UvicornWorker

class HttpTools(UvicornWorker):
    CONFIG_KWARGS = {"http": "httptools", "loop": "asyncio"}

class H11(UvicornWorker):
    CONFIG_KWARGS = {"http": "h11", "loop": "uvloop"}
"""
OLD = pytest.mark.skipif(GUNICORN < 27, reason="gunicorn's asgi worker forgets pipelined requests before 27")
WORKERS = [
    pytest.param({"worker_class": "asgi", "asgi_loop": "asyncio"}, id="asgi-asyncio", marks=OLD),
    pytest.param({"worker_class": "asgi", "asgi_loop": "uvloop"}, id="asgi-uvloop", marks=OLD),
    pytest.param({"worker_class": "uvicorn_worker.UvicornWorker"}, id="uvicorn-httptools-uvloop"),
    pytest.param({"worker_class": "uvicorn_worker.UvicornH11Worker"}, id="uvicorn-h11-asyncio"),
    pytest.param({"worker_class": "uvicorn_classes.HttpTools"}, id="uvicorn-httptools-asyncio", marks=pytest.mark.slow),
    pytest.param({"worker_class": "uvicorn_classes.H11"}, id="uvicorn-h11-uvloop", marks=pytest.mark.slow),
]
#: One for each way in which requests are parsed.
PARSERS = [WORKERS[0], WORKERS[2], WORKERS[3]]

BODY = b"x" * 20_000
UPLOAD = b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"


def start(service: Service, settings: dict[str, Any]) -> None:
    if "uvicorn" in settings["worker_class"]:
        for module in ("uvicorn_worker", "httptools", "uvloop"):
            pytest.importorskip(module)
    elif settings["asgi_loop"] == "uvloop":
        pytest.importorskip("uvloop")
    service.write("uvicorn_classes.py", CLASSES)
    service.configure(**{"workers": 1, "hot_probation": 0, **settings})
    service.start()


def told(data: bytes) -> list[tuple[str, bool, str]]:
    """Return the status, whether it says that it is the last, and the body of each answer; not all say that they are
    not."""
    return [(answer.status, answer.connection == "close", answer.body) for answer in answers(data)]


def finish(service: Service, new: int) -> None:
    service.wait_log("Upgrade: done, .* 0 requests cut")
    wait_gone(service.master)
    service.master = new
    assert service.ask().gen == "B"


@pytest.mark.parametrize("settings", WORKERS)
def test_they_are_served_in_order(service: Service, settings: dict[str, Any], transport: dict[str, Any]) -> None:
    """All that had been received when the first answer of the drain began; the last of them says that it is one."""
    start(service, {**settings, **transport})
    with service.connect() as connection:
        connection.sock.sendall(GET % b"/hold?file=go" + GET % b"/" * 3)
        service.wait_file("go.held", lines=1)
        # More than the server reads at once, so that they wait in more than one place.
        connection.sock.sendall(GET % b"/" * 300 + UPLOAD + GET % b"/" + CHUNKED + GET % b"/")
        new = service.begin_drain()
        service.write("go")
        got = told(read_all(connection.sock))
    kept = ("200", False, "hello\n")
    assert got == [kept] * 304 + [("200", False, "20000\n"), kept, kept, ("200", True, "hello\n")]
    finish(service, new)


@pytest.mark.parametrize("settings", PARSERS)
def test_one_that_has_begun_to_come_is_served(service: Service, settings: dict[str, Any]) -> None:
    start(service, {**settings, "keepalive": 1})
    with service.connect() as connection:
        connection.sock.sendall(GET % b"/hold?file=go" + b"POST /upload HTTP/1.1\r\nHo")
        service.wait_file("go.held", lines=1)
        new = service.begin_drain()
        service.write("go")
        data = b""
        while not data.endswith(b"hello\n"):
            data += connection.sock.recv(65536)
        assert told(data) == [("200", False, "hello\n")]
        # Longer than an idle connection lives.
        connection.sock.settimeout(1.5)
        with pytest.raises(TimeoutError):
            connection.sock.recv(1)
        connection.sock.settimeout(20)
        connection.sock.sendall(b"st: localhost\r\nContent-Length: 10\r\n\r\n0123456789" + GET % b"/")
        assert told(read_all(connection.sock)) == [("200", True, "10\n")]
    finish(service, new)


@pytest.mark.parametrize("settings", PARSERS)
def test_a_client_that_never_stops_does_not_hold_the_drain(service: Service, settings: dict[str, Any]) -> None:
    """What had been received when the first answer of the drain began is all that counts."""
    start(service, {**settings, "hot_drain_timeout": 60})
    depth = 50
    with service.connect() as connection:
        connection.sock.sendall(GET % b"/hold?file=go" + GET % b"/hold?file=on" + GET % b"/" * depth)
        service.wait_file("go.held", lines=1)
        new = service.begin_drain()
        service.write("go")
        service.wait_file("on.held", lines=1)
        connection.sock.sendall(GET % b"/" * 40 * depth)
        service.write("on")
        got = told(read_all(connection.sock))
    assert [closes for _, closes, _ in got] == [False] * (depth + 1) + [True]
    finish(service, new)


@pytest.mark.parametrize("settings", PARSERS)
def test_they_are_served_after_a_rollback_and_in_the_next_drain(service: Service, settings: dict[str, Any]) -> None:
    start(service, {**settings, "hot_probation": 20})
    with service.connect() as connection:
        for number in range(2):
            mark = service.mark()
            holds = [GET % (b"/hold?file=%d" % number), GET % (b"/hold?file=%d.on" % number)]
            connection.sock.sendall((GET % b"/" * 3).join(holds))
            service.wait_file(f"{number}.held", lines=1)
            service.release("B")
            new = service.begin_upgrade()
            service.wait_log("in probation", after=mark)
            service.write(f"{number}")
            service.wait_file(f"{number}.on.held", lines=1)
            service.signal(signal.SIGKILL, new)
            service.wait_log("Upgrade failed", after=mark)
            # One that accepts again has heard of the rollback.
            until(lambda: service.ask().gen == "A", "an answer of the old worker")
            service.write(f"{number}.on")
            data = b""
            while data.count(b"hello") < 5:
                data += connection.sock.recv(65536)
            # Nothing is behind the last, but it begins after the rollback.
            assert told(data) == [("200", False, "hello\n")] * 5
