"""Kept-alive connections in an upgrade: what a client has sent is answered, and none is closed by surprise.

The clients here are raw sockets: an HTTP library would hide who has closed, how, and when."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import ssl
import time

import pytest
from outside import wait_paused
from raw import GET, answers, read_all
from server import ASGI_WORKERS, Certificate, Service, wait_gone

from bench.load import Load

#: Those that keep connections.
KEEP_ALIVE = ["gthread", "gevent"]
WORKERS = ["sync", *KEEP_ALIVE]
CLIENTS = 40


def begin_held(service: Service, workers: int = 1) -> int:
    """Begin an upgrade whose workers wait, while they load, for `let_commit`; returns the new master's pid.

    What is idle from now on need not live as long as a boot takes."""
    service.release("B hold=boot")
    new = service.begin_upgrade()
    service.wait_file("boot.held", lines=workers)
    return new


def let_commit(service: Service) -> None:
    """Let that upgrade go on, until the old generation drains."""
    service.write("boot")
    service.wait_log("committed to successor")


def finish(service: Service, new: int, cut: int = 0) -> None:
    """Wait until the old master has left."""
    service.wait_log(f"Upgrade: done, .* {cut} requests cut")
    wait_gone(service.master)
    service.master = new
    assert service.ask().gen == "B"


@pytest.mark.parametrize("worker", KEEP_ALIVE)
def test_pipelined_requests_are_served_in_order(service: Service, worker: str, transport: dict[str, str]) -> None:
    """All that were received before the first answer of the drain; the last of them says that it is the last."""
    service.configure(worker_class=worker, workers=1, hot_probation=0, **transport)
    service.start()
    with service.connect() as connection:
        connection.sock.sendall(GET % b"/hold?file=go")
        service.wait_file("go.held", lines=1)
        body = b"x" * 20_000
        upload = b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        unread = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nabcde"
        # More than the server reads at once, so that they wait in more than one place.
        connection.sock.sendall(GET % b"/" * 300 + upload + GET % b"/" + unread + GET % b"/")
        new = service.begin_drain()
        service.write("go")
        got = answers(read_all(connection.sock))
    kept = ("200", "keep-alive", "hello\n")
    assert got == [kept] * 301 + [("200", "keep-alive", "20000\n"), kept, kept, ("200", "close", "hello\n")]
    finish(service, new)


@pytest.mark.parametrize("worker", KEEP_ALIVE)
def test_pipelined_requests_without_an_upgrade(service: Service, worker: str, transport: dict[str, str]) -> None:
    # gunicorn 25's gthread leaves them in its parser's buffer until the client says more.
    service.configure(worker_class=worker, workers=1, keepalive=20, **transport)
    service.start()
    with service.connect() as connection:
        last = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sock.sendall(GET % b"/" * 299 + last)
        got = answers(read_all(connection.sock))
    assert got == [("200", "keep-alive", "hello\n")] * 299 + [("200", "close", "hello\n")]


@pytest.mark.parametrize("worker", KEEP_ALIVE)
def test_a_client_that_never_stops_pipelining_does_not_hold_the_drain(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, workers=1, hot_probation=0, hot_drain_timeout=60)
    service.start()
    depth = 50
    with service.connect() as connection:
        connection.sock.sendall(GET % b"/hold?file=go" + GET % b"/" * depth)
        service.wait_file("go.held", lines=1)
        new = service.begin_drain()
        service.write("go")
        data, sent = b"", depth + 1
        with contextlib.suppress(ConnectionError):
            while piece := connection.sock.recv(65536):
                data += piece
                # Always more under way than were answered.
                while b"Connection: close" not in data and sent < data.count(b"hello") + depth:
                    connection.sock.sendall(GET % b"/")
                    sent += 1
    got = answers(data)
    assert len(got) > depth
    assert [connection for _, connection, _ in got].index("close") == len(got) - 1
    finish(service, new)


@pytest.mark.parametrize("worker", KEEP_ALIVE)
def test_http_1_0_keep_alive(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, workers=1, keepalive=20, hot_probation=0)
    service.start()
    request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    with service.connect() as connection:
        connection.sock.sendall(request)
        data = b""
        while not data.endswith(b"hello\n"):
            data += connection.sock.recv(65536)
        assert b"Connection: keep-alive" in data
        new = service.begin_drain()
        wait_paused(service)
        connection.sock.sendall(request)
        assert answers(read_all(connection.sock)) == [("200", "close", "hello\n")]
    finish(service, new)


@pytest.mark.parametrize("worker", KEEP_ALIVE)
@pytest.mark.parametrize("draining", [False, True], ids=["steady", "draining"])
def test_what_crosses_the_end_of_an_idle_connection_is_not_reset(
    service: Service, worker: str, draining: bool, transport: dict[str, str]
) -> None:
    service.configure(worker_class=worker, workers=1, keepalive=1, hot_probation=0, **transport)
    service.start()
    new = begin_held(service) if draining else 0
    with service.connect() as connection:
        connection.ask()
        if draining:
            let_commit(service)
        connection.was_closed()
        # The server has closed; to it, this is what was already under way then.
        connection.sock.sendall(GET % b"/")
        connection.sock.sendall(GET % b"/")
        connection.sock.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            assert connection.sock.recv(1) == b""
    if draining:
        finish(service, new)


@pytest.mark.parametrize("worker", KEEP_ALIVE)
def test_an_idle_connection_lives_to_the_deadline(service: Service, worker: str) -> None:
    timeout = 2
    service.configure(worker_class=worker, workers=1, keepalive=40, hot_probation=0, hot_drain_timeout=timeout)
    service.start()
    with service.connect() as connection:
        connection.ask()
        new = service.begin_drain()
        drained = time.monotonic()
        connection.was_closed()
        # A moment lies between the line in the log and our knowledge of it.
        assert time.monotonic() - drained > timeout - 1
    finish(service, new)


@pytest.mark.parametrize("worker", KEEP_ALIVE)
def test_silent_clients_delay_nobody(service: Service, certificate: Certificate, worker: str) -> None:
    # gunicorn's gthread gives each a thread: for 5 s, or, in a TLS handshake, for ever.
    threads = {"threads": 2} if worker == "gthread" else {}
    tls = service.use_tls(certificate)
    service.configure(worker_class=worker, workers=1, keepalive=0, hot_probation=0, **threads, **tls)
    service.start()
    host, port = service.address.split(":")
    with contextlib.ExitStack() as stack:
        for number in range(CLIENTS):
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            if number % 2:
                client.sendall(b"\x16\x03\x01\x02\x00\x01\x00")  # the beginning of a TLS handshake
        assert service.ask().gen == "A"
        # They have no request: the drain need not last to its deadline.
        new = service.begin_drain()
        assert service.ask().gen == "B"
        finish(service, new)


def test_clients_that_are_silent_after_their_handshake_take_no_threads(
    service: Service, certificate: Certificate
) -> None:
    """gthread: gunicorn's gives each a thread, for ever."""
    tls = service.use_tls(certificate)
    service.configure(threads=2, workers=1, keepalive=2, hot_probation=0, hot_drain_timeout=60, **tls)
    service.start()
    new = begin_held(service)
    with service.connect() as late, service.connect() as silent, service.connect():
        assert service.ask().gen == "A"
        let_commit(service)
        answer = late.ask()
        assert (answer.gen, answer.closes) == ("A", True)
        finish(service, new)
        silent.was_closed()


@pytest.mark.parametrize("worker", ["sync", "gevent"])
def test_a_silent_client_does_not_hold_the_drain_of_workers_without_keep_alive(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, workers=2, keepalive=0, hot_probation=0, hot_drain_timeout=60)
    service.start()
    with service.connect() as silent, service.connect() as late:
        # Accepted before the drain, by whichever worker.
        late.sock.sendall(b"G")
        new = service.begin_drain()
        late.sock.sendall(b"ET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answers(read_all(late.sock)) == [("200", "close", "hello\n")]
        finish(service, new)
        silent.was_closed()


def test_a_stalled_handshake_does_not_hold_the_drain_of_a_sync_worker(
    service: Service, certificate: Certificate
) -> None:
    tls = service.use_tls(certificate)
    service.configure(worker_class="sync", workers=2, hot_probation=0, hot_drain_timeout=60, **tls)
    service.start()
    host, port = service.address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as stalled, service.connect() as silent:
        stalled.sendall(b"\x16\x03\x01\x02\x00\x01\x00")  # the beginning of a TLS handshake
        new = service.begin_drain()
        finish(service, new)
        silent.was_closed()


def test_clients_that_keep_their_sockets_open_delay_nobody(service: Service, transport: dict[str, str]) -> None:
    """gunicorn's sync worker, from 26 on, waits 2 s for each."""
    service.configure(worker_class="sync", workers=1, hot_probation=0, **transport)
    service.start()
    end = time.monotonic() + 30
    with contextlib.ExitStack() as stack:
        clients = []
        for number in range(100):
            client = stack.enter_context(service.connect())
            client.sock.sendall(GET % b"/")
            assert answers(read_all(client.sock)) == [("200", "close", "hello\n")]
            clients.append(client)
            assert time.monotonic() < end, f"{number} clients took all the time"
        # What it sends after that is no reason for an RST.
        clients[0].sock.sendall(GET % b"/")
        new = service.begin_drain()
        finish(service, new)
        assert clients[0].sock.recv(1) == b""


def test_lingering_connections_take_no_place_of_others(service: Service, transport: dict[str, str]) -> None:
    """gthread: it accepts `worker_connections`, and those that it has ended are none."""
    service.configure(workers=1, threads=2, worker_connections=4, **transport)
    service.start()
    end = time.monotonic() + 30
    with contextlib.ExitStack() as stack:
        for number in range(100):
            client = stack.enter_context(service.connect())
            client.sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert answers(read_all(client.sock)) == [("200", "close", "hello\n")]
            assert time.monotonic() < end, f"{number} clients took all the time"


@pytest.mark.parametrize("hook", ["post_fork(arbiter, worker)", "pre_request(worker, request)"])
@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_clients_that_do_not_close_do_not_exhaust_a_workers_descriptors(
    service: Service, worker: str, hook: str
) -> None:
    """Neither those that it knows to have from the start, nor those that are left when there are fewer than that."""
    limit = 64
    service.configure(
        "import resource", f"def {hook}: resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))",
        worker_class=worker, workers=1,
    )
    service.start()
    before = service.workers()
    with contextlib.ExitStack() as stack:
        for _ in range(limit + 6):
            client = stack.enter_context(service.connect())
            client.sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert answers(read_all(client.sock)) == [("200", "close", "hello\n")]
    assert service.workers() == before


def test_a_recycled_worker_waits_neither_for_the_silent_nor_for_the_kept(service: Service) -> None:
    """gthread: what was told that it is kept may ask once more, within 2 s."""
    service.configure(worker_class="gthread", workers=1, max_requests=3, keepalive=60)
    service.start()
    (worker,) = service.workers()
    with service.connect() as silent, service.held() as kept, service.held("never") as asking:
        # The last one that it will begin was asked by another client, meanwhile.
        service.write("go")
        assert not kept.answer().closes
        kept.send_request("/")
        answer = kept.answer()
        assert (answer.pid, answer.closes) == (worker, True)
        service.write("never")
        assert asking.answer().closes
        wait_gone(worker)
        silent.was_closed()


def test_a_recycled_worker_serves_whoever_is_in_a_handshake(service: Service, certificate: Certificate) -> None:
    tls = service.use_tls(certificate)
    # One more than the harness asks for, to see that it serves.
    service.configure(worker_class="gthread", workers=1, max_requests=2, keepalive=60, **tls)
    service.start()
    (worker,) = service.workers()
    incoming, outgoing, end = ssl.MemoryBIO(), ssl.MemoryBIO(), select.poll()
    tls = ssl.create_default_context(cafile=certificate.cert).wrap_bio(incoming, outgoing, server_hostname="localhost")
    host, port = service.address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        # It accepts in order.
        assert service.ask().pid == worker
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        client.sendall(outgoing.read())
        # That was the client's first word; its second one comes when the worker has ceased to look for it.
        end.register(client, select.POLLRDHUP)
        assert not end.poll(300)
        incoming.write(client.recv(65536))
        tls.do_handshake()
        tls.write(GET % b"/")
        client.sendall(outgoing.read())
        incoming.write(read_all(client))
        data = tls.read(65536)
        while not data.endswith(b"hello\n"):
            data += tls.read(65536)
    assert answers(data) == [("200", "close", "hello\n")]
    assert b"X-Pid: %d\r\n" % worker in data
    wait_gone(worker)


@pytest.mark.parametrize("worker", KEEP_ALIVE)
def test_clients_that_do_not_close_hold_up_no_drain(service: Service, worker: str) -> None:
    threads = {"threads": 2} if worker == "gthread" else {}
    service.configure(worker_class=worker, workers=1, keepalive=20, hot_probation=0, **threads)
    service.start()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(CLIENTS)]
        for client in clients:
            client.ask()
        new = service.begin_drain()
        wait_paused(service)
        for client in clients:
            # Unlike http.client, this one does not close its end.
            client.sock.sendall(GET % b"/")
            assert answers(read_all(client.sock)) == [("200", "close", "hello\n")]
        finish(service, new)


#: What a client sends, and what it sends later.
STALLS = {
    "head": (b"POST /upload HTTP/1.1\r\nHost: loc", b"alhost\r\nContent-Length: 10\r\n\r\n0123456789"),
    "body": (b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n01234", b"56789"),
    "chunk": (
        b"POST /upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01",
        b"234\r\n5\r\n56789\r\n0\r\n\r\n",
    ),
    "continue": (
        b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n",
        b"0123456789",
    ),
}


@pytest.mark.parametrize("worker", WORKERS)
def test_a_request_that_has_begun_is_served(service: Service, worker: str, transport: dict[str, str]) -> None:
    """However slow its client is, the drain's deadline is its only one."""
    keepalive = 2
    # One that serves a request at a time is busy with each of them.
    workers = len(STALLS) if worker == "sync" else 1
    service.configure(worker_class=worker, workers=workers, keepalive=keepalive, hot_probation=0, **transport)
    service.start()
    # Before the pause gunicorn's gevent worker cuts off a head that takes longer than the keep-alive time.
    new = begin_held(service, workers)
    with contextlib.ExitStack() as stack:
        clients = {name: stack.enter_context(service.connect()).sock for name in STALLS}
        for name, client in clients.items():
            client.sendall(STALLS[name][0])
        if worker != "sync":
            # It accepts in order, so now it has them all.
            assert service.ask().gen == "A"
        let_commit(service)
        assert clients["continue"].recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        # Longer than an idle connection would live.
        clients["head"].settimeout(keepalive * 1.5)
        with pytest.raises(TimeoutError):
            clients["head"].recv(1)
        clients["head"].settimeout(20)
        for name, client in clients.items():
            client.sendall(STALLS[name][1])
            assert answers(read_all(client)) == [("200", "close", "10\n")], name
    finish(service, new)


@pytest.mark.slow
@pytest.mark.parametrize("worker", [*KEEP_ALIVE, *ASGI_WORKERS])
def test_two_thousand_idle_connections(service: Service, worker: str) -> None:
    """Ten upgrades under 2,000 kept-alive connections that are mostly idle: none is reset, none goes unanswered."""
    clients = 2000
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 2 * clients:
        pytest.skip(f"{most} descriptors are not enough (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    service.configure(
        worker_class=worker, keepalive=30, worker_connections=2 * clients, backlog=2 * clients,
        hot_probation=0.2, hot_drain_timeout=60,
    )
    service.start()
    with Load(service.address, {"idle": clients}, think_s=8, timeout=30) as load:
        load.wait_for(2 * clients, gen="A", timeout=60)
        for number in range(1, 11):
            release = f"R{number}"
            service.release(release)
            mark, old = service.mark(), service.master
            new = service.begin_upgrade()
            service.wait_log("Upgrade: done, .* 0 requests cut", after=mark, timeout=60)
            wait_gone(old)
            service.master = new
            load.wait_for(100, gen=release, timeout=30)
        report = load.stop()
    print(report.summary())
    assert not report.failed, report.summary()
    assert not report.went_back, report.summary()
    assert len(report.generations) == 11
