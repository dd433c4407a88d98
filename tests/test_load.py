"""The load must see every kind of failure, and see none where there is none.

The servers here are plain sockets in threads. Each misbehaves in one way, on purpose.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import random
import select
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import bench.load
from bench.load import KINDS, Load, Record, Report, main, parse_clients, percentile

Serve = Callable[[socket.socket], None]
ALL_KINDS = dict.fromkeys(KINDS, 1)
ALL_KINDS["idle"] = 2
SLOW_MS = 60


# --- Servers ------------------------------------------------------------------------------------------------


class Server:
    """Serves each connection by `serve`, in a thread of its own, and closes the connection when that returns.

    OSError in a thread is the client's business; any other exception fails the test, as the server is closed.
    """

    def __init__(self, serve: Serve, unix: Path | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._serve = serve
        self._tls = tls
        self._connections: list[socket.socket] = []
        self._errors: list[BaseException] = []
        self._closing = False
        if unix is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(unix))
            self._listener.listen()
            self.address = f"unix:{unix}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        with socket.socket(self._listener.family) as last:
            last.connect(self._listener.getsockname())      # wakes accept()
        self._threads[0].join()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()
        if self._errors:
            raise self._errors[0]

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._closing:
                connection.close()
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._converse, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _converse(self, connection: socket.socket) -> None:
        try:
            with connection:
                if self._tls is None:
                    self._serve(connection)
                else:
                    with self._tls.wrap_socket(connection, server_side=True) as wrapped:
                        self._serve(wrapped)
        except OSError:
            pass
        except BaseException as error:
            self._errors.append(error)


def read_head(connection: socket.socket) -> bytes:
    """A request's head, with what came after it; empty at EOF."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return b""
        data += more
    return data


def answer(
    body: bytes = b"hello", head: str = "Connection: keep-alive", status: str = "200 OK", gen: str = "A"
) -> bytes:
    length = f"Content-Length: {len(body)}"
    lines = [f"HTTP/1.1 {status}", f"X-Gen: {gen}", "X-Pid: 4711", length, head, "", ""]
    return "\r\n".join(lines).encode() + body


def chunked_head(gen: str = "A") -> bytes:
    lines = ["HTTP/1.1 200 OK", f"X-Gen: {gen}", "Connection: close", "Transfer-Encoding: chunked", "", ""]
    return "\r\n".join(lines).encode()


class Good:
    """Serves everything as it should be, and counts the requests."""

    def __init__(self, gen: str = "A") -> None:
        self.gen = gen
        self.requests = 0
        self._lock = threading.Lock()

    def __call__(self, connection: socket.socket) -> None:
        while data := read_head(connection):
            head, _, body = data.partition(b"\r\n\r\n")
            verb, path, _ = head.split(b"\r\n")[0].split()
            with self._lock:
                self.requests += 1
            if verb == b"POST":
                assert b"\r\nContent-Length: 262144" in head
                received = len(body)
                while received < 262144:
                    more = connection.recv(65536)
                    assert more, "an upload that ends early"
                    received += len(more)
            seconds = int(path.partition(b"?ms=")[2] or 0) / 1000
            if path.startswith(b"/stream"):
                connection.sendall(chunked_head(self.gen))
                for _ in range(3):
                    connection.sendall(b"5\r\nhello\r\n")
                    time.sleep(seconds / 3)         # the application's slowness; nothing here waits for it
                connection.sendall(b"0\r\n\r\n")
                return
            time.sleep(seconds)
            if b"\r\nConnection: close" in head:
                connection.sendall(answer(head="Connection: close", gen=self.gen))
                return
            connection.sendall(answer(gen=self.gen))


def say(data: bytes) -> Serve:
    """Reads a request, answers it with `data` whatever it was, and closes."""

    def serve(connection: socket.socket) -> None:
        if read_head(connection):
            connection.sendall(data)

    return serve


def abort(connection: socket.socket) -> None:
    """Closes by a reset instead of an EOF."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def close_at_once(connection: socket.socket) -> None:
    pass


def reset_the_request(connection: socket.socket) -> None:
    read_head(connection)
    abort(connection)


def reset_the_hello(connection: socket.socket) -> None:
    connection.recv(65536)
    abort(connection)


def close_the_second_request(connection: socket.socket) -> None:
    read_head(connection)
    connection.sendall(answer())
    read_head(connection)


def reset_the_second_request(connection: socket.socket) -> None:
    close_the_second_request(connection)
    abort(connection)


def never_answer(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def never_end(connection: socket.socket) -> None:
    connection.sendall(chunked_head())
    never_answer(connection)


def never_close(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\na body that would end with the connection")
    never_answer(connection)


def cork(connection: socket.socket) -> None:
    """What is sent now, and the end of the connection, arrive as one segment."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)


needs_cork = pytest.mark.skipif(not hasattr(socket, "TCP_CORK"), reason="needs TCP_CORK")


def close_while_idle(connection: socket.socket) -> None:
    """Answers with keep-alive and closes, in one segment: no client is fast enough to be in between."""
    if read_head(connection):
        cork(connection)
        connection.sendall(answer())
        if isinstance(connection, ssl.SSLSocket):
            connection.unwrap()
        else:
            connection.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="session")
def server_tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True, timeout=30,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


# --- Each failure is seen -----------------------------------------------------------------------------------


def only_failure(address: str, kind: str, outcome: str, timeout: float = 10.0, tls: bool = False) -> Report:
    """The report of a load of one client of `kind`, whose every failure is `outcome`."""
    with Load(address, {kind: 1}, slow_ms=SLOW_MS, timeout=timeout, tls=tls) as load:
        load.wait_for(1 if timeout < 1 else 3, outcome=outcome)
        report = load.stop()
    assert set(report.failures) == {f"{kind}:{outcome}"}, report.summary()
    assert f"{kind}:{outcome}" in report.summary()
    return report


@pytest.mark.parametrize(("kind", "serve", "outcome"), [
    ("new", close_at_once, "reset"),
    ("new", say(b""), "reset"),
    ("new", reset_the_request, "reset"),
    ("keep", reset_the_request, "reset"),
    ("upload", reset_the_request, "reset"),
    ("keep", close_the_second_request, "reuse_reset"),
    ("keep", reset_the_second_request, "reuse_reset"),
    ("new", say(answer(b"x" * 100)[:-1]), "truncated"),
    ("new", say(b"HTTP/1.1 200 OK\r\nX-Gen"), "truncated"),
    ("new", say(b"H"), "truncated"),
    ("stream", say(chunked_head() + b"5\r\nhel"), "truncated"),
    ("stream", say(chunked_head() + b"5\r\nhello\r\n"), "truncated"),
    ("stream", say(chunked_head() + b"5\r\nhello\r\n0\r\n"), "truncated"),
    ("new", say(b"220 mail.example.org\r\n\r\n"), "malformed"),
    ("new", say(answer() + b"!"), "malformed"),
    ("stream", say(chunked_head() + b"1\r\nhello\r\n0\r\n\r\n"), "malformed"),
    ("stream", say(chunked_head() + b"?\r\n"), "malformed"),
    ("new", say(answer(b"", head="Content-Length: -1")), "malformed"),
    ("new", say(b"HTTP/1.1 200 OK\r\n" + b"X" * 70_000), "malformed"),
    ("new", say(answer(status="500 Internal Server Error")), "status_500"),
    ("keep", say(answer(status="503 Service Unavailable")), "status_503"),
    ("slow", say(answer(status="404 Not Found")), "status_404"),
])
def test_a_broken_answer_is_a_failure(kind: str, serve: Serve, outcome: str) -> None:
    with Server(serve) as server:
        only_failure(server.address, kind, outcome)


@pytest.mark.parametrize(("kind", "serve"), [
    ("new", never_answer), ("keep", never_answer), ("upload", never_answer), ("stream", never_end),
    ("new", never_close),
])
def test_no_whole_answer_in_time_is_a_timeout(kind: str, serve: Serve) -> None:
    with Server(serve) as server:
        report = only_failure(server.address, kind, "timeout", timeout=0.5)
    assert all(record.done - record.opened >= 0.499 for record in report.records)


def test_a_reused_connection_tells_how_long_it_was_idle() -> None:
    with Server(close_the_second_request) as server:
        report = only_failure(server.address, "keep", "reuse_reset")
    first, second, *_ = report.records
    assert (first.outcome, first.fresh, first.idle) == ("ok", True, 0.0)
    assert (second.outcome, second.fresh) == ("reuse_reset", False)
    assert second.opened == first.opened
    assert second.idle == second.sent - first.done > 0


def test_a_failed_answer_tells_who_gave_it() -> None:
    with Server(say(answer(b"no", status="500 Internal Server Error"))) as server:
        report = only_failure(server.address, "new", "status_500")
    assert {(record.gen, record.pid) for record in report.records} == {("A", 4711)}
    assert "HTTP/1.1 500 Internal Server Error" in report.summary()


def test_an_upload_notices_an_early_answer() -> None:
    def refuse(connection: socket.socket) -> None:
        connection.sendall(answer(status="413 Content Too Large"))
        connection.shutdown(socket.SHUT_WR)
        received = 0
        while more := connection.recv(65536):
            received += len(more)
        assert received < 262144, "the rest of a refused upload was sent"

    with Server(refuse) as server, Load(server.address, {"upload": 1}, slow_ms=32_000, timeout=40) as load:
        load.wait_for(1, outcome="status_413")
        record = load.stop().records[0]
    assert record.done - record.sent < 2        # which is when the second piece would have been sent


def test_a_connection_is_not_reused_after_a_failure() -> None:
    def fail(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(answer(status="500 Oops"))
        assert not connection.recv(1)

    with Server(fail) as server:
        report = only_failure(server.address, "keep", "status_500")
    assert all(record.fresh for record in report.records)


def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        report = only_failure(f"127.0.0.1:{bound.getsockname()[1]}", "new", "refused")
    record = report.records[0]
    assert record.opened <= record.sent == record.done
    assert (record.fresh, record.gen, record.pid) == (True, "", 0)


@pytest.mark.skipif(sys.platform != "linux", reason="how a full queue of connections behaves is Linux's way")
def test_a_full_queue_is_a_connect_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.socket() as queued:
        queued.connect(listener.getsockname())
        only_failure(f"127.0.0.1:{listener.getsockname()[1]}", "new", "connect_timeout", timeout=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="how a full queue of connections behaves is Linux's way")
def test_a_full_queue_of_a_unix_socket_is_a_refusal(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as queued:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        queued.connect(str(tmp_path / "s"))
        report = only_failure(f"unix:{tmp_path}/s", "new", "refused")
    assert repr(BlockingIOError(errno.EAGAIN, "")).partition("'")[0] in report.records[0].detail


def test_unix_sockets_that_are_gone(tmp_path: Path) -> None:
    only_failure(f"unix:{tmp_path}/s", "new", "unixgone")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
    only_failure(f"unix:{tmp_path}/s", "new", "refused")        # the file is there, its socket is not


def test_another_error_of_connect(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "s"))
        only_failure(f"unix:{tmp_path}/s", "new", "connect_reset")


@pytest.mark.parametrize("serve", [close_at_once, reset_the_hello, never_answer])
def test_a_handshake_that_fails(serve: Serve) -> None:
    with Server(serve) as server:       # that speaks no TLS
        only_failure(server.address, "new", "tls", timeout=0.5, tls=True)


def test_a_server_of_plain_http_fails_the_handshake() -> None:
    def scold(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer(status="400 Bad Request"))

    with Server(scold) as server:
        only_failure(server.address, "keep", "tls", tls=True)


@pytest.mark.parametrize(("kind", "serve", "outcome"), [
    ("new", say(b""), "reset"),
    ("keep", close_the_second_request, "reuse_reset"),
    ("new", say(answer(b"x" * 100)[:-1]), "truncated"),
    ("new", never_answer, "timeout"),
])
def test_failures_inside_tls(kind: str, serve: Serve, outcome: str, server_tls: ssl.SSLContext) -> None:
    with Server(serve, tls=server_tls) as server:
        only_failure(server.address, kind, outcome, timeout=0.5 if outcome == "timeout" else 10, tls=True)


# --- And nothing else is ------------------------------------------------------------------------------------


def assert_all_good(good: Good, load: Load) -> None:
    with load:
        for _ in range(200):
            if not load.report().overlapped(0, time.monotonic()):
                break
            load.wait_for(1)
        report = load.stop()
    assert not report.failed, report.summary()
    assert not report.overlapped(0, time.monotonic()), report.summary()
    assert len(report.records) == good.requests         # each request has one record
    assert [(who.name, who.count) for who in report.generations] == [("A", good.requests)]
    for record in report.records:
        assert record.opened <= record.sent <= record.done
        assert record.pid in (4711, 0)
        if record.kind in ("slow", "upload", "stream"):
            assert record.done - record.sent > 0.9 * SLOW_MS / 1000
        if record.kind not in ("keep", "idle"):
            assert record.fresh


def test_a_good_server() -> None:
    good = Good()
    with Server(good) as server:
        assert_all_good(good, Load(server.address, ALL_KINDS, slow_ms=SLOW_MS))


def test_a_good_server_of_a_unix_socket(tmp_path: Path) -> None:
    good = Good()
    with Server(good, unix=tmp_path / "s") as server:
        assert_all_good(good, Load(server.address, ALL_KINDS, slow_ms=SLOW_MS))


def test_a_good_server_of_tls(server_tls: ssl.SSLContext) -> None:
    good = Good()
    with Server(good, tls=server_tls) as server:
        assert_all_good(good, Load(server.address, ALL_KINDS, slow_ms=SLOW_MS, tls=True))


@pytest.mark.parametrize("kind", ["keep", "idle"])
def test_kept_alive_connections_are_reused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", min)      # the shortest thinking
    with Server(Good()) as server, Load(server.address, {kind: 1}) as load:
        load.wait_for(3)
        report = load.stop()
    assert [record.fresh for record in report.records[:3]] == [True, False, False], report.summary()
    assert len({record.opened for record in report.records}) == 1
    assert all(record.idle > (0.09 if kind == "idle" else 0.004) for record in report.records[1:])


def goodbye(connection: socket.socket) -> None:
    """TLS: only its own end of stream, the socket stays open. Plain: an EOF."""
    if isinstance(connection, ssl.SSLSocket):
        connection.unwrap()
        never_answer(connection)


def stray(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    never_answer(connection)


def stray_and_close(connection: socket.socket) -> None:
    cork(connection)
    connection.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    connection.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(("act", "closed"), [
    (goodbye, True),
    (abort, True),
    pytest.param(stray_and_close, True, marks=needs_cork),
    (stray, False),
    (never_answer, False),
])
def test_the_look_at_an_idle_connection(
    act: Serve, closed: bool, tls: bool, request: pytest.FixtureRequest
) -> None:
    """What has come, but was not read by the event loop yet, counts."""
    now = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(answer())
        assert now.wait(10)
        act(connection)

    async def look(address: str) -> bool:
        deadline = time.monotonic() + 10
        connection = await bench.load._Connection.open(bench.load._Target.parse(address, tls), deadline)
        await connection.exchange(bench.load._Request.of("keep", 0), deadline)
        assert not await connection.was_closed()
        now.set()
        if act is not never_answer:     # the loop stands still meanwhile
            assert select.select([connection._sock], [], [], 10)[0]
        try:
            return await connection.was_closed()
        finally:
            await connection.close()

    with Server(serve, tls=request.getfixturevalue("server_tls") if tls else None) as server:
        assert asyncio.run(look(server.address)) is closed


@needs_cork
@pytest.mark.parametrize("tls", [False, True])
def test_a_connection_closed_while_idle_is_no_failure(tls: bool, request: pytest.FixtureRequest) -> None:
    context = request.getfixturevalue("server_tls") if tls else None
    with Server(close_while_idle, tls=context) as server, Load(server.address, {"keep": 1}, tls=tls) as load:
        load.wait_for(3)
        report = load.stop()
    assert not report.failed, report.summary()
    assert all(record.fresh and record.idle == 0 for record in report.records)


@pytest.mark.parametrize("last", [
    answer(head="Connection: Close"),
    b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
])
def test_the_client_leaves_when_the_server_says_so(last: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        for data in answer(), answer(), last:
            read_head(connection)
            connection.sendall(data)
        assert not connection.recv(1)           # the client closes; this server does not

    with Server(serve) as server, Load(server.address, {"keep": 1}) as load:
        load.wait_for(6)
        report = load.stop()
    assert not report.failed, report.summary()
    assert [record.fresh for record in report.records[:6]] == [True, False, False] * 2


def test_other_good_answers() -> None:
    plain = b"HTTP/1.1 200 OK\r\nX-Gen: A\r\n\r\na body that ends with the connection"
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n" + answer(head="Connection: close")
    trailers = chunked_head() + b"5;name=value\r\nhello\r\n0\r\nExpires: 0\r\n\r\n"
    for data in plain, early, trailers:
        with Server(say(data)) as server, Load(server.address, {"new": 1, "keep": 1}) as load:
            load.wait_for(4)
            report = load.stop()
        assert not report.failed, report.summary()


# --- Running it ---------------------------------------------------------------------------------------------


def test_waiting_for_a_generation() -> None:
    good = Good("A")
    with Server(good) as server, Load(server.address, {"new": 1, "keep": 2}) as load:
        load.wait_for(5, gen="A")
        good.gen = "B"
        load.wait_for(5, gen="B")
        report = load.stop()
    a, b = report.generations
    assert (a.name, b.name) == ("A", "B")
    assert a.count >= 5
    assert b.count >= 5
    assert a.first_done < b.first_done


@pytest.mark.parametrize(("status", "outcome"), [("200 OK", "ok"), ("500 Oops", "status_500")])
def test_waiting_in_vain_tells_what_happened(status: str, outcome: str) -> None:
    with Server(say(answer(status=status, gen="C"))) as server, Load(server.address, {"new": 1}) as load:
        load.wait_for(1, gen="C", outcome=outcome)
        with pytest.raises(TimeoutError) as waited:
            load.wait_for(1, gen="B" if outcome == "ok" else None, timeout=0.1)
    whose = " by generation B" if outcome == "ok" else ""
    assert str(waited.value).startswith(f"0 of 1 requests ok{whose} in 0.1s\n")
    assert ("generation C: " if outcome == "ok" else "new:status_500: ") in str(waited.value)


def test_waiting_for_a_load_that_has_ended() -> None:
    with Server(Good()) as server:
        load = Load(server.address, {"new": 1})
        with pytest.raises(RuntimeError, match="not started"):
            load.wait_for(1)
        with pytest.raises(RuntimeError, match="not started"):
            load.stop()
        with load:
            load.wait_for(1)
            first = load.stop()
            assert load.stop().records == first.records
            with pytest.raises(RuntimeError, match="has ended"):
                load.wait_for(1)
        with pytest.raises(RuntimeError, match="once"):
            load.start()


def test_stop_lets_the_requests_in_flight_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: 3600)
    arrived, told_to_stop = threading.Barrier(3), threading.Event()

    class Told(Load):
        def _stop_clients(self) -> None:
            super()._stop_clients()
            told_to_stop.set()

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        arrived.wait(10)
        assert told_to_stop.wait(10)
        connection.sendall(answer(head="Connection: close"))

    with Server(serve) as server, Told(server.address, {"slow": 1, "idle": 1}, timeout=5) as load:
        arrived.wait(10)
        report = load.stop()
    assert [record.outcome for record in report.records] == ["ok", "ok"], report.summary()


def test_stop_does_not_wait_for_thinkers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: 3600)
    with Server(Good()) as server, Load(server.address, {"idle": 3}, timeout=5) as load:
        load.wait_for(3)
        assert len(load.stop().records) == 3


def test_a_bug_of_the_load_is_not_taken_for_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(client: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.load._Client, "_ask", broken)
    load = Load("127.0.0.1:1", {"new": 1, "idle": 1})
    load.start()
    with pytest.raises(RuntimeError) as waited:
        load.wait_for(1)
    with pytest.raises(RuntimeError, match="broke") as stopped:
        load.stop()
    for raised in waited, stopped:
        assert isinstance(raised.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"address": "localhost"}, "HOST:PORT"),
    ({"address": "127.0.0.1:http"}, "HOST:PORT"),
    ({"clients": {"new": 1, "old": 1}}, "old"),
    ({"clients": {"new": 0}}, "positive"),
    ({"clients": {}}, "positive"),
    ({"timeout": 0}, "timeout"),
    ({"slow_ms": 2000, "timeout": 1.5}, "slow_ms"),
])
def test_nonsense_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Load(**{"address": "127.0.0.1:1", **arguments})     # type: ignore[arg-type]


def test_addresses() -> None:
    parse = bench.load._Target.parse
    assert parse("unix:/run/a:b", tls=False) == bench.load._Target(socket.AF_UNIX, "/run/a:b", None)
    four, six = parse("127.0.0.1:80", tls=False), parse("[::1]:8000", tls=False)
    assert (four.family, four.address) == (socket.AF_INET, ("127.0.0.1", 80))
    assert (six.family, six.address[:2]) == (socket.AF_INET6, ("::1", 8000))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    options = ["--duration", "0.2", "--json", str(file)]
    with Server(Good()) as server:
        assert main(["--addr", server.address, "--clients", "new:1,keep:2", *options]) == 0
    assert " 0 failed" in capsys.readouterr().out
    figures = json.loads(file.read_text())
    assert figures["requests"] == sum(client["ok"] for client in figures["clients"].values()) > 0
    assert main(["--addr", f"unix:{tmp_path}/s", "--clients", "new:1", *options]) == 1
    assert "new:unixgone" in capsys.readouterr().out
    assert json.loads(file.read_text())["failures"].keys() == {"new:unixgone"}
    with pytest.raises(SystemExit):
        main(["--addr", "nowhere"])
    assert "HOST:PORT" in capsys.readouterr().err


def test_parse_clients() -> None:
    assert parse_clients("new:4, keep:8") == {"new": 4, "keep": 8}
    for text in "new", "new:many", "":
        with pytest.raises(ValueError, match=r"not enough values|invalid literal"):
            parse_clients(text)


# --- The report ---------------------------------------------------------------------------------------------


def ok(opened: float, done: float, gen: str = "A", kind: str = "new", sent: float | None = None) -> Record:
    """An ok record; on a connection used before if `sent` is given."""
    return Record(kind, opened, opened if sent is None else sent, done, gen, sent is None, "ok")


def bad(outcome: str, opened: float = 0, kind: str = "new", detail: str = "") -> Record:
    return Record(kind, opened, opened, opened + 1, "", True, outcome, detail)


def test_report_of_nothing() -> None:
    report = Report([])
    assert (report.failed, report.generations, report.went_back, report.kinds) == (0, [], [], ())
    assert report.overlapped(0, 1) == []
    assert report.waits("new") == []
    assert report.summary().startswith("0 requests, 0 failed")
    assert Report([], ["new"]).overlapped(0, 1) == ["new"]


def test_report_counts_failures() -> None:
    report = Report([ok(0, 1), bad("reset"), bad("reset"), bad("reset", kind="slow"), bad("tls")])
    assert report.failures == {"new:reset": 2, "slow:reset": 1, "new:tls": 1}
    assert report.failed == 4


def test_report_orders_generations_by_their_first_answers() -> None:
    report = Report([ok(0, 9, "A"), ok(3, 4, "B"), ok(1, 2, "A"), ok(5, 6, "B"), bad("reset", 7)])
    a, b = report.generations
    assert (a.name, a.count, a.first_done, a.last_opened, a.last_done) == ("A", 2, 2, 1, 9)
    assert (b.name, b.count, b.first_done, b.last_opened, b.last_done) == ("B", 2, 4, 5, 6)


@pytest.mark.parametrize(("late", "back"), [
    (ok(4, 6, "A"), False),                         # opened as B answered, not after
    (ok(4.1, 6, "A"), True),
    (ok(0, 9, "A", kind="keep", sent=8), False),    # an old connection may go on with the old generation
    (ok(5, 9, "A", kind="keep", sent=8), True),     # but a new one is not the old one's
    (ok(4.1, 6, "B"), False),
    (bad("reset", 4.1), False),
])
def test_report_of_who_went_back(late: Record, back: bool) -> None:
    report = Report([ok(1, 2, "A"), ok(3, 4, "B"), late])
    assert report.went_back == ([late] if back else [])
    assert ("went back" in report.summary()) == back


def test_report_of_who_went_back_over_several_generations() -> None:
    late_a, late_b = ok(7, 8, "A"), ok(7, 8, "B")
    records = [ok(1, 2, "A"), ok(3, 4, "B"), ok(4.5, 5, "A"), ok(5, 6, "C"), late_a, late_b, ok(7, 8, "C")]
    assert Report(records).went_back == [records[2], late_a, late_b]


@pytest.mark.parametrize(("start", "end", "missing"), [
    (0, 10, []),
    (2, 3, []),                 # in flight all the time; the other ended on the edge
    (4, 6, ["keep", "slow"]),
    (0, 0.5, ["new", "keep", "slow"]),
    (7, 7.5, ["new", "keep", "slow"]),
    (8, 8, ["new", "slow"]),    # the keep connection is not in flight before it sends
])
def test_report_of_what_overlapped(start: float, end: float, missing: list[str]) -> None:
    records = [ok(1, 6), ok(2.5, 3, kind="slow"), ok(0.7, 2, kind="keep"), ok(0.7, 9, kind="keep", sent=7.6),
               bad("reset", 5, kind="slow")]
    assert Report(records).overlapped(start, end) == missing


def test_report_of_the_waits_of_new_connections() -> None:
    report = Report([ok(0, 3), ok(1, 2), ok(5, 5.5), ok(0, 9, sent=8), ok(0, 7, kind="slow"), bad("reset")])
    assert report.waits("new") == [0.5, 1, 3]
    assert report.waits("new", start=1) == [0.5, 1]
    assert report.waits("new", end=1) == [1, 3]
    assert report.waits("new", 1, 4) == [1]
    assert report.percentile(report.waits("new"), 50) == 1


def test_percentile() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, p) for p in (0, 1, 50, 99, 99.5, 100)] == [1, 1, 50, 99, 100, 100]
    assert percentile([7.0], 50) == 7
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
    with pytest.raises(ValueError, match="percent"):
        percentile(values, 101)


def test_summary_gives_five_examples() -> None:
    failures = [bad("reset", opened, detail=f"reason {opened}") for opened in range(1, 9)]
    text = Report([ok(0.5, 1.5), *failures]).summary()
    assert "9 requests, 8 failed" in text
    assert "new:reset: 8" in text
    assert "generation A: 1 ok" in text
    assert [n for n in range(1, 9) if f"reason {n}" in text] == [1, 2, 3, 4, 5]
