"""Worker classes of other people: which get the twin's behaviour, which get the gate only, and that both are served."""

from __future__ import annotations

import base64
import functools
import os
import time
from typing import Any

import pytest
from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.sync import SyncWorker
from server import Connection, Service, wait_gone
from test_app_side import application
from test_under_load import complaints

from bench.load import Load
from gunicorn_hot import workers
from gunicorn_hot.workers import mixing
from gunicorn_hot.workers.base import HotWorker
from gunicorn_hot.workers.gthread import ThreadWorker as HotThreadWorker
from gunicorn_hot.workers.sync import SyncWorker as HotSyncWorker

# --- Which ones -------------------------------------------------------------------------------------------------


class Mixin:
    def init_process(self) -> None:
        super().init_process()  # type: ignore[misc]


class Cooperative(Mixin, ThreadWorker):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def run(self) -> None:
        super().run()

    def handle_request(self, *args: Any) -> Any:
        return super(Cooperative, self).handle_request(*args)  # noqa: UP008 (people write it so)

    def notify(self) -> None:
        self.tmp.notify()

    def something_else(self) -> None:
        pass

    SIGNALS = ThreadWorker.SIGNALS


class Derived(Cooperative):
    pass


class InnerFunction(ThreadWorker):
    def accept(self, listener: Any) -> None:
        def later() -> None:
            super(InnerFunction, self).accept(listener)

        later()


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


class Decorated(SyncWorker):
    @decorated
    def run(self) -> None:
        super().run()


@pytest.mark.parametrize(("worker_class", "twin"), [
    (Cooperative, HotThreadWorker),
    (Derived, HotThreadWorker),
    (InnerFunction, HotThreadWorker),
    (Decorated, HotSyncWorker),
])
def test_who_is_mixed(worker_class: type[Any], twin: type[Any]) -> None:
    found = workers.twin(worker_class)
    assert issubclass(found, worker_class)
    assert issubclass(found, twin)
    assert found.can_pause
    assert found.__mro__.index(worker_class) < found.__mro__.index(twin) < found.__mro__.index(twin.__mro__[2])
    assert workers.twin(found) is found


class OwnLoop(SyncWorker):
    def run(self) -> None:
        while self.alive:
            self.notify()


class CallsStock(ThreadWorker):
    def run(self) -> None:
        ThreadWorker.run(self)


class OwnRequest(ThreadWorker):
    def handle_request(self, req: Any, conn: Any) -> bool:
        return False


class FromMixin(SyncWorker):
    run = OwnLoop.run


class NoFunction(SyncWorker):
    handle_request = functools.partial(print)  # type: ignore[assignment]


class OwnAccept(SyncWorker):
    def accept(self, listener: Any) -> None:
        super().accept(listener)


class SameName(SyncWorker):
    def read_link(self) -> None:
        pass


class Unknown(Worker):
    def run(self) -> None:
        pass


@pytest.mark.parametrize(("worker_class", "why"), [
    (OwnLoop, "its run does not call super().run"),
    (CallsStock, "its run does not call super().run"),
    (OwnRequest, "its handle_request does not call super().handle_request"),
    (FromMixin, "its run does not call super().run"),
    (NoFunction, "its handle_request does not call super().handle_request"),
    (OwnAccept, "it overrides accept"),
    (SameName, "it has a read_link of its own"),
    (Unknown, "gunicorn_hot does not know it"),
])
def test_who_gets_the_gate_only(worker_class: type[Any], why: str) -> None:
    found = workers.twin(worker_class)
    assert issubclass(found, worker_class)
    assert issubclass(found, HotWorker)
    assert not found.can_pause
    assert found.why_not == why


def test_what_a_twin_bypasses_exists_in_the_stock_class() -> None:
    for name in HotSyncWorker.bypasses:
        assert hasattr(SyncWorker, name)
    for name in mixing._FREE:
        assert hasattr(SyncWorker, name)


# --- In service -------------------------------------------------------------------------------------------------

#: A subclass of a kind that people have, by type.
MINE = """\
import os
from pathlib import Path
from gunicorn.workers.{module} import {name}

FOLDER = Path(__file__).resolve().parent


def say(word):
    with open(FOLDER / "said", "a") as file:
        file.write(f"{{os.getpid()}} {{word}}\\n")


class Mine({name}):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.mine = 0

    def init_process(self):
        say("init_process")
        super().init_process()

    def run(self):
        say("run")
        super().run()
        say("end")

    def notify(self):
        super().notify()
        self.notified = True

    def handle_request(self, *args):
        self.mine += 1
        if self.mine == 1:
            assert self.notified
            say("handle_request")
        return super().handle_request(*args)
"""

STOCK = {"sync": "SyncWorker", "gthread": "ThreadWorker", "ggevent": "GeventWorker"}
CLIENTS = {"new": 2, "keep": 2, "idle": 4, "slow": 2}


def upgrade_under_load(service: Service, workers: int = 5, **settings: Any) -> None:
    """Two upgrades of a worker class that can pause; no client may notice."""
    service.configure(workers=workers, hot_probation=0.5, **settings)
    service.start()
    upgrades = []
    with Load(service.address, CLIENTS, 300) as load:
        load.wait_for(60, gen="A")
        for release in "BC":
            start = time.monotonic()
            service.upgrade(f"{release} sleep=0.3")
            upgrades.append((start, time.monotonic()))
            load.wait_for(60, gen=release)
        report = load.stop()
    assert not complaints(report, "ABC", upgrades), report.summary()
    assert "cannot pause" not in service.log
    assert "Traceback" not in service.log


@pytest.mark.parametrize("module", STOCK)
def test_a_subclass_is_upgraded_like_its_stock_class(service: Service, module: str) -> None:
    if module == "ggevent":
        pytest.importorskip("gevent")
    service.write("mine.py", MINE.format(module=module, name=STOCK[module]))
    threads = 8 if module == "gthread" else None
    upgrade_under_load(service, worker_class="mine.Mine", threads=threads)
    said = [line.split() for line in service.read("said").splitlines()]
    # All that it overrides is called, and `run` has come to its end in the workers that have left.
    first = {pid for pid, word in said if word == "init_process"}
    for word in ("run", "handle_request"):
        assert {pid for pid, found in said if found == word} >= first - set(map(str, service.workers())), word
    assert len([word for _, word in said if word == "end"]) == 10


def test_gevent_with_a_server_of_its_own(service: Service) -> None:
    pytest.importorskip("gevent")
    upgrade_under_load(service, workers=2, worker_class="gevent_pywsgi", threads=None)


def test_gevent_with_a_server_of_its_own_says_that_it_closes(service: Service) -> None:
    pytest.importorskip("gevent")
    service.configure(worker_class="gevent_pywsgi", workers=1, threads=None, hot_drain_timeout=40)
    service.start()
    with service.held() as held, service.connect() as idle:
        assert not idle.ask().closes
        service.release("B")
        old = service.master
        service.begin_upgrade()
        service.wait_log("draining 1 requests in 1 workers")
        # A kept-alive connection gets one more answer.
        answer = idle.ask()
        assert (answer.gen, answer.closes) == ("A", True)
        service.write("go")
        answer = held.answer()
        assert (answer.gen, answer.closes) == ("A", True)
        wait_gone(old)
    assert service.ask().gen == "B"


SOCKETS = """
def app(environ, start_response):
    websocket = environ.get("wsgi.websocket")
    if websocket is None:
        return subject(environ, start_response)
    websocket.send(f"{RELEASE} {os.getpid()}")
    while not gunicorn_hot.draining():
        time.sleep(0.01)
    if environ["PATH_INFO"] == "/stubborn":
        until_there("never")
    websocket.close()
    return []
"""


def open_websocket(service: Service, path: str) -> Connection:
    """Shake hands as RFC 6455 says, and read the first message."""
    connection = service.connect()
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sock.sendall((
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return connection


def read_frame(connection: Connection) -> tuple[int, bytes]:
    """Return a frame's opcode and its payload, shorter than 126 bytes."""
    data = b""
    while len(data) < 2 or len(data) < 2 + data[1]:
        piece = connection.sock.recv(1)
        assert piece, data
        data += piece
    return data[0] & 15, data[2:]


def test_websockets_of_gevent_websocket(service: Service) -> None:
    pytest.importorskip("geventwebsocket")
    application(service, SOCKETS)
    service.configure(
        worker_class="geventwebsocket.gunicorn.workers.GeventWebSocketWorker", workers=1, threads=None,
        hot_drain_timeout=4,
    )
    service.start()
    with open_websocket(service, "/polite") as polite, open_websocket(service, "/stubborn") as stubborn:
        (worker,) = service.workers()
        assert read_frame(polite) == (1, f"A {worker}".encode())
        assert read_frame(stubborn) == (1, f"A {worker}".encode())
        service.release("B")
        old = service.master
        service.begin_upgrade()
        # A close frame; what gevent-websocket writes as its code is nonsense with Python 3.
        assert read_frame(polite)[0] == 8
        wait_gone(old)
    assert service.wait_log(r"Cut: GET /stubborn after [\d.]+s")
    assert "1 requests cut" in service.log
    assert service.ask().gen == "B"


def test_tornado_gets_the_gate(service: Service) -> None:
    pytest.importorskip("tornado")
    service.configure(worker_class="tornado", threads=None)
    service.start()
    assert "Worker class tornado cannot pause (gunicorn_hot does not know it)" in service.log
    service.upgrade("B")
    assert service.ask().gen == "B"
    service.release("C broken")
    service.begin_upgrade()
    service.wait_log("Upgrade failed")
    assert service.ask().gen == "B"


def test_one_that_cannot_be_mixed_is_gated(service: Service) -> None:
    service.write("mine.py", MINE.format(module="gthread", name="ThreadWorker").replace(
        "        super().run()", "        ThreadWorker.run(self)"
    ))
    service.configure(worker_class="mine.Mine")
    service.start()
    assert "Worker class mine.Mine cannot pause (its run does not call super().run)" in service.log
    service.upgrade("B")
    assert service.ask().gen == "B"
