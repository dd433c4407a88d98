"""The generation's number: for the application, in each request, and in the access log."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
from server import Certificate, Connection, Service, speaks_asgi

from gunicorn_hot.workers.numbering import numbered_asgi

GEVENT_PYWSGI = "gunicorn.workers.ggevent.GeventPyWSGIWorker"
UVICORN = "uvicorn_worker.UvicornWorker"
#: A field that every access log of gunicorn's can have.
FORMAT = {"accesslog": "access", "access_log_format": "%(m)s generation=%({gunicorn_hot.generation}e)s"}


NEEDS = {UVICORN: "uvicorn_worker", "gevent": "gevent", GEVENT_PYWSGI: "gevent"}


def needs(worker_class: str) -> None:
    if worker_class in NEEDS:
        pytest.importorskip(NEEDS[worker_class])


def asked(service: Service) -> str:
    """What a request says of its generation, and what `gunicorn_hot.generation` says to the application."""
    return service.ask("/generation").body.decode()


@pytest.mark.parametrize("worker_class", ["sync", "gthread", "gevent", GEVENT_PYWSGI, "asgi", UVICORN])
def test_each_request_knows_its_generation(service: Service, worker_class: str) -> None:
    needs(worker_class)
    service.configure(worker_class=worker_class, workers=1, **FORMAT)
    service.start()

    assert asked(service) == "1 1"
    service.upgrade("B")
    assert asked(service) == "2 2"

    if worker_class not in (UVICORN, GEVENT_PYWSGI):  # they write access logs of their own
        service.wait_file("access", lines=3)
        assert service.read("access").split() == ["GET", "generation=1"] * 2 + ["GET", "generation=2"]


@pytest.mark.parametrize("worker_class", ["gthread", "gevent", "asgi"])
def test_each_request_of_an_http2_connection_knows_it_too(
    service: Service, certificate: Certificate, worker_class: str
) -> None:
    needs(worker_class)
    pytest.importorskip("h2", reason="HTTP/2 needs h2: gunicorn_hot[test]")
    httpx: Any = pytest.importorskip("httpx", reason="a client for HTTP/2: gunicorn_hot[test]")
    tls = service.use_tls(certificate)
    service.configure(worker_class=worker_class, workers=1, http_protocols="h2,h1", **tls, **FORMAT)
    service.start()

    with httpx.Client(http1=False, http2=True, verify=False, timeout=20) as client:
        answers = [client.get(f"https://{service.address}/generation") for _ in range(2)]

    assert [answer.http_version for answer in answers] == ["HTTP/2"] * 2
    assert [answer.text for answer in answers] == ["1 1"] * 2
    service.wait_file("access", lines=3)
    assert service.read("access").split()[1::2] == ["generation=1"] * 3


def test_a_failed_upgrade_uses_up_no_number(service: Service) -> None:
    service.configure(workers=1)
    service.start()
    service.release("B broken")
    service.begin_upgrade()
    service.wait_log("Upgrade failed")

    assert asked(service) == "1 1"
    service.upgrade("C")
    assert asked(service) == "2 2"


def test_what_the_proxy_protocol_says_is_not_lost(service: Service) -> None:
    service.configure(
        "import os",
        "def post_request(worker, request, environ, response):",
        "    with open('addresses', 'a') as file:",
        "        print(environ['REMOTE_ADDR'], environ['gunicorn_hot.generation'], file=file)",
        workers=1, proxy_protocol=True,
    )
    service.start(serves=False)
    service.wait_log("Listening at")
    with Connection(service.address) as connection:
        connection.sock.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n")
        assert connection.ask("/generation").body == b"1 1"

    assert service.wait_file("addresses", lines=1) == "192.0.2.7 1\n"


@pytest.mark.parametrize("worker_class", ["sync", "asgi"])
def test_hot_check_knows_it(service: Service, worker_class: str) -> None:
    key = "scope" if speaks_asgi(worker_class) else "environ"
    service.configure(worker_class=worker_class, workers=1, hot_check="/")
    service.write("checked.py", "\n".join([
        "import app as subject",
        f"def noted({key}, *args):",
        f"    with open('numbers', 'a') as file: print({key}.get('gunicorn_hot.generation'), file=file)",
        f"    return subject.app({key}, *args)",
    ]))
    service.start([*service.command()[:-1], "checked:noted"])
    service.upgrade("B")

    # The lifespan has one as well.
    numbers = service.read("numbers").split()
    assert "None" not in numbers
    assert sorted(set(numbers)) == ["1", "2"]


def test_without_a_hot_gunicorn_there_is_none(service: Service) -> None:
    service.configure(hook=None, workers=1)
    service.start()

    assert asked(service) == "None 0"
    alone = [sys.executable, "-c", "import gunicorn_hot; print(gunicorn_hot.generation())"]
    assert subprocess.run(alone, env=service.env, capture_output=True, text=True, check=True).stdout == "0\n"


class _Application:
    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send((self, scope))


class _Static:
    @staticmethod
    async def __call__(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send((None, scope))


_application = _Application()


@pytest.mark.parametrize(
    "application", [_application, _application.__call__, partial(_Application.__call__, _application), _Static()]
)
def test_every_kind_of_application_is_numbered(application: Any) -> None:
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(numbered_asgi(application, 7)({"type": "http"}, None, send))

    expected = None if isinstance(application, _Static) else _application
    assert sent == [(expected, {"type": "http", "gunicorn_hot.generation": 7})]
