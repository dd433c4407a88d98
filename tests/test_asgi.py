"""The ASGI workers: a lifespan decides whether an upgrade goes on, and a loop that is never asked twice to stop.

What they have in common with the others is tested there: test_under_load, test_drain_process, test_workers."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator

import pytest
from raw import GET
from server import ASGI_WORKERS, DEADLINE, Certificate, Service, is_running, until, wait_gone

pytestmark = pytest.mark.parametrize("worker", ASGI_WORKERS)


@pytest.fixture(autouse=True)
def _installed(worker: str) -> None:
    if "uvicorn" in worker:
        pytest.importorskip("uvicorn_worker")


REQUEST = GET % b"/"

#: Answers /open with what its `number` says of the worker's connections.
OPEN = """
import asgi
from gunicorn_hot.workers import base


async def app(scope, receive, send):
    if scope["type"] != "http" or scope["path"] != "/open":
        return await asgi.app(scope, receive, send)
    count = b"%d" % number(base.current.connections)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(count))]})
    await send({"type": "http.response.body", "body": count})
"""

ALL = "number = len"

#: How many of them have a dictionary of their own.
OWN = """
import gc

def number(connections):
    return sum(any(type(one) is dict and "transport" in one for one in gc.get_referents(c)) for c in connections)
"""

#: How many are in memory.
KEPT = """
import gc

def number(connections):
    gc.collect()
    kind = type(next(iter(connections)))
    return sum(type(one) is kind for one in gc.get_objects())
"""

#: Of how many of the requests so far the context is in memory.
CONTEXT = """
import contextvars, gc, weakref

class Owner:
    pass


owner = contextvars.ContextVar("owner")
owners = weakref.WeakSet()


def number(_):
    new = Owner()
    owner.set(new)
    owners.add(new)
    gc.collect()
    return len(owners)
"""

UPGRADE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def start_observed(service: Service, worker: str, number: str, serves: bool = True) -> None:
    service.configure(worker_class=worker, workers=1, keepalive=60)
    (service.folder / "app.py").rename(service.folder / "asgi.py")
    service.write("app.py", OPEN + number)
    service.start(serves=serves)


def read_answer(sock: socket.socket) -> bytes:
    """Read to the end of the answer, and not of the connection."""
    answer = b""
    while not answer.endswith(b"\r\n\r\nhello\n"):
        piece = sock.recv(65536)
        assert piece, answer
        answer += piece
    return answer


class Websocket:
    """As much of RFC 6455 as an echo needs."""

    def __init__(self, service: Service) -> None:
        host, _, port = service.address.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=20)
        if service.tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self.sock = context.wrap_socket(self.sock)
        fields = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
        self.sock.sendall(
            f"GET /ws?room=1 HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._read(1)
        assert head.startswith(b"HTTP/1.1 101 "), head

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            assert piece, "the server closed the connection"
            data += piece
        return data

    def send(self, opcode: int, payload: bytes) -> None:
        self.sock.sendall(bytes([0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0]) + payload)

    def frame(self) -> tuple[int, bytes]:
        first, size = self._read(2)
        assert size < 126
        return first & 0xF, self._read(size)

    def ask(self, text: str) -> str:
        self.send(1, text.encode())
        opcode, payload = self.frame()
        assert opcode == 1
        return payload.decode()

    def wait_closed(self) -> int:
        """Wait for a close frame, answer it, and wait for the end of the connection; returns the code."""
        opcode, payload = self.frame()
        assert opcode == 8
        with contextlib.suppress(OSError):
            self.send(8, payload[:2])
        # gunicorn 25 leaves it to the client to end the connection.
        if isinstance(self.sock, ssl.SSLSocket):
            with contextlib.suppress(OSError):  # the end of the transport, without TLS's own
                self.sock.unwrap()
        else:
            self.sock.shutdown(socket.SHUT_WR)
            assert self.sock.recv(1) == b""
        self.sock.close()
        return int.from_bytes(payload[:2], "big")


@contextlib.contextmanager
def open_websocket(service: Service) -> Iterator[Websocket]:
    websocket = Websocket(service)
    try:
        yield websocket
    finally:
        websocket.sock.close()


# --- the lifespan


def test_ready_is_after_the_startup(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, workers=1)
    service.start()
    assert service.wait_file("lifespan", lines=1).startswith("startup A ")
    old = service.workers()[0]
    service.upgrade("B")
    # The last request of the old one came before its shutdown.
    assert service.read("lifespan").splitlines()[-1] == f"shutdown A {old}"
    assert service.ask().gen == "B"


@pytest.mark.parametrize(("startup", "reason"), [
    ("startup=fail", r"failed to boot: lifespan startup failed: DatabaseError: away"),
    ("startup=hang", r"not ready in 6s \(hot_ready_timeout\)"),
    pytest.param("startup=block", r"not ready in 6s \(hot_ready_timeout\)", marks=pytest.mark.slow),
    ("broken", r"failed to boot: RuntimeError: this release is broken"),
])
def test_a_startup_that_does_not_end_well_ends_the_upgrade(
    service: Service, worker: str, startup: str, reason: str
) -> None:
    # As short as a busy machine allows: the workers of A and C must have started by then.
    limit = 6 if "hot_ready_timeout" in reason else 30
    service.configure(worker_class=worker, keepalive=60, hot_ready_timeout=limit)
    service.start()
    with service.connect() as kept:
        before = kept.ask()
        service.release(f"B {startup}")
        mark = service.mark()
        new = service.begin_upgrade()
        service.wait_log(f"Upgrade failed: .*{reason}", after=mark)
        wait_gone(new)
        assert kept.ask() == before
    service.upgrade("C")
    assert service.ask().gen == "C"


def test_an_application_without_a_lifespan(service: Service, worker: str) -> None:
    service.configure(worker_class=worker)
    service.start()
    service.upgrade("B startup=raise")
    service.upgrade("C")
    assert service.ask().gen == "C"
    assert "startup B" not in service.read("lifespan")


def test_a_failing_startup_of_the_first_generation(service: Service, worker: str) -> None:
    service.configure(worker_class=worker)
    service.release("A startup=fail")
    service.start(serves=False)
    service.wait_log("ASGI lifespan startup failed: no database(?s:.*)DatabaseError: away")
    until(service.is_empty, "the end of the master")


def test_a_slow_shutdown_is_waited_for(service: Service, worker: str) -> None:
    # `timeout`: heartbeats go on.
    service.configure(worker_class=worker, workers=1, timeout=2, hot_drain_timeout=30, hot_probation=0)
    service.release("A shutdown=end")
    service.start()
    (old,) = service.workers()
    service.release("B")
    new = service.begin_upgrade()
    service.wait_file("end.held", lines=1)
    # Longer than gunicorn's timeout, and its lifespan's.
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 3, "three seconds")
    assert is_running(old)
    service.write("end")
    wait_gone(service.master)
    service.master = new
    assert f"shutdown A {old}" in service.read("lifespan")
    assert "WORKER TIMEOUT" not in service.log


def test_a_shutdown_that_hangs_is_cut(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, workers=1, hot_drain_timeout=1, hot_probation=0)
    service.release("A shutdown=never")
    service.start()
    service.upgrade("B")
    assert "Cut: the application's shutdown" in service.log
    assert "killing them" not in service.log


# --- the gate and the signals


@pytest.mark.parametrize("sig", [
    signal.SIGTERM, signal.SIGQUIT, pytest.param(signal.SIGINT, marks=pytest.mark.slow),
])
def test_a_worker_at_the_gate_can_be_stopped(service: Service, worker: str, sig: signal.Signals) -> None:
    service.configure(worker_class=worker, workers=2)
    service.start()
    service.wait_file("lifespan", lines=2)
    service.release("B startup=first")
    new = service.begin_upgrade()
    # One waits at the gate, for the other.
    *_, line = service.wait_file("lifespan", lines=3).splitlines()
    pid = int(line.split()[-1])
    service.wait_log("1 of 2 workers ready")
    service.signal(sig, pid)
    wait_gone(pid)
    # So can one whose startup has not ended.
    *_, line = service.wait_file("started", lines=5).splitlines()
    pid = int(line.split()[-1])
    service.signal(sig, pid)
    wait_gone(pid)
    # Which ends the upgrade.
    wait_gone(new)
    assert service.ask().gen == "A"
    assert "WORKER TIMEOUT" not in service.log


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_service_stops_at_once(service: Service, worker: str, sig: signal.Signals) -> None:
    service.configure(worker_class=worker, keepalive=60, graceful_timeout=60)
    service.start()
    # One that is not ready yet would be killed.
    for pid in service.workers():
        until(lambda pid=pid: service.ask().pid == pid, "an answer of each worker")
    with service.connect() as kept:
        kept.ask()
        began = time.monotonic()
        service.signal(sig)
        wait_gone(service.master)
        assert time.monotonic() - began < 15
    if sig == signal.SIGTERM:
        assert service.read("lifespan").count("shutdown A") == 2


def test_a_busy_loop_neither_delays_the_cut_over_nor_accepts_after_it(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, workers=1, hot_probation=0)
    service.start()
    with service.connect() as busy, contextlib.ExitStack() as stack:
        busy.send_request("/block?file=go")
        service.wait_file("go.held", lines=1)
        new = service.begin_drain()
        assert "no answer to the pause" not in service.log
        # Busy like the old one, the new one leaves it to that to accept these.
        busy_too = stack.enter_context(service.connect())
        busy_too.send_request("/block?file=on")
        service.wait_file("on.held", lines=1)
        waiting = [stack.enter_context(service.connect()) for _ in range(5)]
        for connection in waiting:
            connection.send_request("/")
        service.write("go")
        # This answer may have begun before the pause was heard, the next one cannot.
        assert busy.answer().gen == "A"
        answer = busy.ask()
        assert (answer.gen, answer.closes) == ("A", True)
        wait_gone(service.master)
        service.write("on")
        assert [connection.answer().gen for connection in (busy_too, *waiting)] == ["B"] * 6
    service.master = new


def test_connections_that_wait_are_taken_in_one_turn_of_the_loop(service: Service, worker: str) -> None:
    # Taken one in each turn, they would be out of step for as long as they are kept, which has a price.
    start_observed(service, worker, ALL)
    with service.connect() as busy, contextlib.ExitStack() as stack:
        busy.send_request("/block?file=go")
        service.wait_file("go.held", lines=1)
        waiting = [stack.enter_context(service.connect()) for _ in range(20)]
        for connection in waiting:
            connection.send_request("/open")
        service.write("go")
        assert busy.answer().status == 200
        assert {connection.answer().body for connection in waiting} == {b"21"}


@pytest.mark.skipif(not (3, 11) <= sys.version_info < (3, 13), reason="how these CPythons lay out an object")
def test_connections_share_the_names_of_their_attributes(service: Service, worker: str) -> None:
    # An attribute that comes late, when there are several objects of a class, lets each have a dictionary of its own.
    if worker == "asgi":
        pytest.skip("gunicorn's own have more attributes than share names")
    start_observed(service, worker, OWN, serves=False)  # that would ask something
    service.wait_log("Listening at")
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(service.connect()) for _ in range(20)]
        # The last is accepted last: all others are there, and have said nothing.
        for connection in reversed(connections):
            connection.send_request("/open")
            assert connection.answer().body == b"0"


def test_an_idle_connection_is_kept_for_its_time(service: Service, worker: str) -> None:
    # One timer serves many requests: it must not end the connection with the first one's time, nor begin a new one.
    if worker == "asgi":
        pytest.skip("gunicorn's own timers")
    service.configure(worker_class=worker, workers=1, keepalive=1)
    service.start()
    with service.connect() as used:
        asked = begun = time.monotonic()
        while asked < begun + 0.5:
            asked = time.monotonic()
            used.ask()
        with service.connect() as later:
            later.ask()
            assert select.select([used.sock, later.sock], [], [], DEADLINE)[0]
            assert time.monotonic() > asked + 0.99
            later.was_closed()
        for _ in range(5):  # the loop's milliseconds are rounded
            service.ask()
        assert select.select([used.sock], [], [], 0)[0]
        used.was_closed()


def test_a_request_that_came_while_the_loop_was_busy_is_answered(service: Service, worker: str) -> None:
    keepalive = 2
    service.configure(worker_class=worker, workers=1, keepalive=keepalive)
    service.start()
    with service.connect() as kept, service.connect() as busy:
        busy.ask()
        kept.ask()
        answered = time.monotonic()
        busy.send_request("/block?file=go")
        service.wait_file("go.held", lines=1)
        kept.send_request("/")
        until(lambda: time.monotonic() > answered + keepalive + 0.1, "the end of its time")
        service.write("go")
        assert kept.answer().status == 200


def test_a_connection_that_has_ended_is_forgotten(service: Service, worker: str) -> None:
    start_observed(service, worker, KEPT)
    for _ in range(20):
        with service.connect() as connection:
            connection.ask()
            connection.ask()
        with service.connect() as connection:
            connection.ask()
            connection.request("GET", "/", headers=UPGRADE)
            assert connection.getresponse().status == 101
    with service.connect() as last:
        until(lambda: last.ask("/open").body == b"1", "one connection in memory")


def test_a_kept_connection_holds_nothing_of_an_old_request(service: Service, worker: str) -> None:
    # A timer has the context of the request after which it was asked for.
    if worker == "asgi":
        pytest.skip("gunicorn's own timers")
    start_observed(service, worker, CONTEXT)
    with service.connect() as connection:
        assert connection.ask("/open").body == b"1"
        assert connection.ask("/open").body == b"1"


def test_resume_after_a_failed_successor(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, workers=2, hot_probation=20)
    service.start()
    old = set(service.workers())
    for _ in range(2):
        mark = service.mark()
        service.release("B")
        new = service.begin_upgrade()
        service.wait_log("in probation", after=mark)
        assert service.ask().gen == "B"
        service.signal(signal.SIGKILL, new)
        service.wait_log("Upgrade failed", after=mark)
        for pid in old:
            until(lambda pid=pid: service.ask().pid == pid, "an answer of each old worker")


# --- websockets, and the deadline


def test_how_much_was_sent_on_a_connection_before_it_was_cut(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, workers=1, hot_drain_timeout=1, hot_probation=0)
    service.start()
    with service.connect() as connection:
        connection.sock.sendall(REQUEST)
        data = read_answer(connection.sock)
        connection.sock.sendall(GET % b"/early?file=go")
        while not data.endswith(b"\r\n\r\nhel"):
            data += connection.sock.recv(65536)
        new = service.begin_drain()
        (cut,) = service.wait_log(r"Cut: GET /early\?file=go after \d+\.\ds, (\d+) bytes sent on its connection \(")
        assert int(cut[1]) == len(data)
    wait_gone(service.master)
    service.master = new


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_websockets_are_closed_with_1012_at_the_deadline(
    service: Service, worker: str, transport: str, request: pytest.FixtureRequest
) -> None:
    tls = service.use_tls(request.getfixturevalue("certificate")) if transport == "tls" else {}
    service.configure(worker_class=worker, workers=1, hot_drain_timeout=2, hot_probation=0, **tls)
    service.start()
    with open_websocket(service) as websocket:
        assert websocket.ask("one") == "A one"
        new = service.begin_drain()
        # It holds the drain, and works.
        assert websocket.ask("two") == "A two"
        assert websocket.wait_closed() == 1012
    (cut,) = service.wait_log(r"Cut: GET /ws\?room=1 after (\d+\.\d)s, \d+ bytes sent on its connection \(")
    assert float(cut[1]) >= 2
    service.wait_log("Upgrade: done, .* 1 requests cut")
    wait_gone(service.master)
    service.master = new
    # The application was told, and could still shut down.
    assert service.wait_file("websockets", lines=2).splitlines() == ["accepted", "ended 1012"]
    assert "shutdown A" in service.read("lifespan")
    assert "killing them" not in service.log


def test_a_websocket_that_ends_lets_the_worker_leave(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, workers=1, hot_drain_timeout=60, hot_probation=0)
    service.start()
    with open_websocket(service) as websocket:
        service.begin_drain()
        assert websocket.ask("two") == "A two"
        websocket.send(8, b"\x03\xe8")
        assert websocket.wait_closed() == 1000
        service.wait_log("Upgrade: done, .* 0 requests cut")


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGQUIT])
def test_a_service_that_is_stopped_tells_its_websockets(service: Service, worker: str, sig: signal.Signals) -> None:
    service.configure(worker_class=worker, workers=1, graceful_timeout=4)
    service.start()
    with open_websocket(service) as websocket:
        assert websocket.ask("one") == "A one"
        service.signal(sig)
        assert websocket.wait_closed() == 1012
    wait_gone(service.master)


def test_a_request_that_is_cut_is_not_answered(service: Service, worker: str) -> None:
    """Least of all with 500: the application is not to blame."""
    service.configure(worker_class=worker, workers=1, hot_drain_timeout=1, hot_probation=0)
    service.start()
    with service.held() as held:
        new = service.begin_drain()
        assert held.sock.recv(1) == b""
        service.wait_log("Upgrade: done, .* 1 requests cut")
    wait_gone(service.master)
    service.master = new


def test_a_thread_does_not_outlive_the_deadline(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, workers=1, hot_drain_timeout=1, hot_probation=0)
    service.start()
    with service.connect() as held:
        held.send_request("/thread?file=go")
        service.wait_file("go.held", lines=1)
        service.upgrade("B")
    service.wait_log(r"Cut: GET /thread\?file=go after")
    assert "killing them" not in service.log


# --- connections


def test_silent_connections_do_not_hold_the_drain(
    service: Service, worker: str, certificate: Certificate
) -> None:
    """Neither one on which nothing was ever said, nor a TLS handshake that does not go on."""
    settings = service.use_tls(certificate)
    service.configure(worker_class=worker, workers=1, keepalive=2, hot_drain_timeout=60, hot_probation=0, **settings)
    service.start()
    host, _, port = service.address.rpartition(":")
    with socket.create_connection((host, int(port))) as stalled, service.connect() as silent:
        stalled.sendall(b"\x16\x03\x01")
        # Both have been accepted.
        assert service.ask().gen == "A"
        service.upgrade("B")
        assert silent.sock.recv(1) == b""
    service.wait_log("Upgrade: done, .* 0 requests cut")


def test_a_connection_that_is_kept_by_an_answer_begun_before_is_ended_when_idle(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, workers=1, keepalive=1, hot_probation=0, hot_drain_timeout=60)
    service.start()
    with service.connect() as connection:
        sock = connection.sock
        sock.sendall(b"POST /early?file=go HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n01234")
        service.wait_file("go.held", lines=1)
        new = service.begin_drain()
        # A piece of the request under way, and not the beginning of another one.
        sock.sendall(b"56789")
        service.write("go")
        answer = read_answer(sock)
        assert b"onnection: close" not in answer
        service.wait_log("Upgrade: done, .* 0 requests cut")
        assert sock.recv(1) == b""
    wait_gone(service.master)
    service.master = new


def test_without_keep_alive_what_was_accepted_is_still_served(
    service: Service, worker: str, certificate: Certificate
) -> None:
    """A client that has said nothing yet, and one in its TLS handshake, at the moment of the drain."""
    settings = service.use_tls(certificate)
    service.configure(worker_class=worker, workers=1, keepalive=0, hot_drain_timeout=60, hot_probation=0, **settings)
    service.start()
    host, _, port = service.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as late, service.connect() as silent:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        # Both have been accepted.
        assert service.ask().gen == "A"
        service.begin_drain()
        for client in silent.sock, context.wrap_socket(late):
            with client:
                client.sendall(REQUEST)
                assert b"x-gen: a\r\n" in read_answer(client).lower()
    service.wait_log("Upgrade: done, .* 0 requests cut")


def test_a_client_that_does_not_close_does_not_hold_the_drain(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, workers=1, keepalive=60, hot_drain_timeout=60, hot_probation=0)
    service.start()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(20)]
        for client in clients:
            client.ask()
        service.begin_drain()
        for client in clients:
            client.sock.sendall(REQUEST)
        for client in clients:
            assert b"connection: close\r\n" in read_answer(client.sock).lower()
        service.wait_log("Upgrade: done, .* 0 requests cut")


def test_a_request_that_crosses_our_end_is_not_answered_by_a_reset(service: Service, worker: str) -> None:
    """Not even after the response that said so: a reset can overtake it."""
    service.configure(worker_class=worker, workers=1, keepalive=60, hot_drain_timeout=60, hot_probation=0)
    service.start()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service.connect()).sock for _ in range(5)]
        for client in clients:
            client.sendall(REQUEST)
            assert read_answer(client).startswith(b"HTTP/1.1 200 ")
        service.begin_drain()
        for client in clients:
            client.sendall(REQUEST)
            poll = select.poll()
            poll.register(client, select.POLLRDHUP)
            assert poll.poll(20_000)
            # The server has said its last word, and nothing of it has been read.
            client.sendall(REQUEST)
            client.sendall(REQUEST)
            assert b"connection: close\r\n" in read_answer(client).lower()
            assert client.recv(1) == b""


def test_max_requests_waits_for_the_upgrade(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, workers=1, max_requests=5)
    service.start()
    (old,) = service.workers()
    service.release("B hold=go")
    new = service.begin_upgrade()
    service.wait_file("go.held", lines=1)
    # A recycled worker would come back with the new release.
    assert {service.ask().pid for _ in range(12)} == {old}
    service.write("go")
    wait_gone(service.master)
    service.master = new
    assert service.ask().gen == "B"


def test_config_kwargs_of_a_subclass(service: Service, worker: str) -> None:
    if "uvicorn" not in worker:
        pytest.skip("gunicorn's worker has settings instead")
    service.write("my_uvicorn.py", "\n".join([
        "from gunicorn_hot.workers.uvicorn import UvicornWorker as Hot",
        "from uvicorn_worker import UvicornWorker",
        "class Theirs(UvicornWorker):",
        "    CONFIG_KWARGS = {'loop': 'asyncio', 'http': 'h11', 'ws': 'wsproto', 'server_header': False,",
        "                     'headers': [('x-mine', 'yes')], 'limit_max_requests': 1000}",
        "class Mine(Hot, Theirs):",
        "    pass",
    ]))
    service.configure(worker_class="my_uvicorn.Mine", workers=1, hot_drain_timeout=2, hot_probation=0)
    service.start()
    with service.connect() as connection:
        connection.send_request("/")
        response = connection.getresponse()
        assert (response.headers["x-mine"], response.headers["server"]) == ("yes", None)
    with open_websocket(service) as websocket:
        service.begin_drain()
        assert websocket.ask("one") == "A one"
        assert websocket.wait_closed() == 1012
        service.wait_log("Upgrade: done, .* 1 requests cut")


OWN_PROTOCOL = """
from pathlib import Path
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn_worker import UvicornWorker


class Protocol(HttpToolsProtocol):
    __slots__ = ("idle_timer", "made")

    def connection_made(self, transport):
        super().connection_made(transport)
        self.idle_timer = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self.made = self.loop.time()
        self.loop.call_later(self.timeout_keep_alive, self.write_later, "later")

    def write_later(self, name):
        Path(name).write_text("yes" if self.loop.time() - self.made >= 0.99 else "no")

    def data_received(self, data):
        self.idle_timer.cancel()
        super().data_received(data)


class Mine(UvicornWorker):
    CONFIG_KWARGS = {"http": Protocol}
"""


def test_a_protocol_class_of_the_users_own(service: Service, worker: str) -> None:
    if "uvicorn" not in worker:
        pytest.skip("gunicorn's worker has one of its own")
    service.write("my_uvicorn.py", OWN_PROTOCOL)
    service.configure(worker_class="my_uvicorn.Mine", workers=1, keepalive=1, hot_probation=0)
    service.start()
    with service.connect() as connection:
        connection.ask()
        connection.was_closed()
    assert service.wait_file("later") == "yes"
    with service.connect() as silent:
        silent.was_closed()
    with service.connect() as connection, service.held() as other:
        connection.ask()
        service.begin_drain()
        answer = connection.ask()
        assert (answer.gen, answer.closes) == ("A", True)
        service.write("go")
        assert other.answer().gen == "A"
