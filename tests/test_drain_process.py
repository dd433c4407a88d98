"""The old workers' end: what they hold is finished, or reported as lost, and no connection is closed unannounced."""

from __future__ import annotations

import contextlib
import signal
import time

import pytest
from server import ASGI_WORKERS, Service, until, wait_gone
from test_app_side import application

WORKERS = ["sync", "gthread", "gevent", *ASGI_WORKERS]
KEEP_ALIVE = ["gthread", "gevent", *ASGI_WORKERS]

HOOKS = """
def note(text):
    with open("hooks", "a") as file:
        file.write(text + "\\n")

def on_upgrade_ready(server):
    note(f"ready {server.pid}")

def on_upgrade_done(server):
    note(f"done {server.pid}")

def on_drain(worker):
    note(f"drain {worker.pid}")
"""


def finish(service: Service, new: int) -> None:
    """Wait until the old master has left."""
    wait_gone(service.master)
    service.master = new
    assert service.ask().gen == "B"


# A sync worker is not known to live while it answers: gunicorn's `timeout` is also the longest request.
@pytest.mark.parametrize(("worker", "timeout", "ms"), [("sync", 3, 6300), *((name, 2, 2500) for name in WORKERS[1:])])
def test_neither_timeout_nor_graceful_timeout_cuts_a_drain(
    service: Service, worker: str, timeout: int, ms: int
) -> None:
    # In the probation the idle worker has time to say that it holds nothing.
    service.configure(
        worker_class=worker, timeout=timeout, graceful_timeout=1, hot_drain_timeout=20, hot_probation=0.3
    )
    service.start()
    # The request begins when the successor is about to be ready: it lasts into the drain on any machine.
    service.release("B hold=go")
    new = service.begin_upgrade()
    service.wait_file("go.held", lines=2)
    with service.connect() as connection:
        connection.send_request(f"/slow?ms={ms}&say=slow")
        service.wait_file("slow.held", lines=1)
        service.write("go")
        answer = connection.answer()
    assert (answer.status, answer.gen) == (200, "A")
    assert "WORKER TIMEOUT" not in service.log
    service.wait_log(r"draining 1 requests in 2 workers, 20s at most \(hot_drain_timeout\)")
    service.wait_log("Upgrade: done, .* 0 requests cut")
    finish(service, new)


@pytest.mark.parametrize("worker", WORKERS)
def test_what_is_cut_at_the_deadline_is_reported(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, hot_drain_timeout=1, hot_probation=0)
    service.start()
    with service.held() as held:
        new = service.begin_drain()
        sent = r"(?:, \d+ bytes sent(?: on its connection)?)?"
        (cut,) = service.wait_log(rf"Cut: GET /hold\?file=go after (\d+\.\d)s{sent} \(worker pid: (\d+)\)")
        assert float(cut[1]) >= 1
        assert int(cut[2]) == int(service.read("go.held"))
        service.wait_log("Upgrade: done, .* 1 requests cut")
        # From 26 on gunicorn's sync worker makes an answer of it.
        with contextlib.suppress(OSError):
            assert held.answer().status == 500
    finish(service, new)


HALF = """
def half():
    yield b"x" * 1000
    until_there("go")


def app(environ, start_response):
    if environ["PATH_INFO"] != "/half":
        return subject(environ, start_response)
    start_response("200 OK", [("Content-Length", "2000")])
    return half()
"""


@pytest.mark.parametrize("worker", ["sync", "gthread", "gevent", "gevent_pywsgi"])
def test_how_much_of_an_answer_was_sent_before_it_was_cut(service: Service, worker: str) -> None:
    application(service, HALF)
    service.configure(worker_class=worker, hot_drain_timeout=1, hot_probation=0)
    service.start()
    with service.connect() as connection:
        connection.send_request("/half")
        data = b""
        while not data.endswith(b"\r\n\r\n" + b"x" * 1000):
            data += connection.sock.recv(65536)
        new = service.begin_drain()
        (cut,) = service.wait_log(r"Cut: GET /half after \d+\.\ds, (\d+) bytes sent \(worker pid: \d+\)")
        # gevent's own server counts the head, too.
        assert int(cut[1]) == (len(data) if worker == "gevent_pywsgi" else 1000)
    finish(service, new)


def test_requests_that_wait_for_a_thread_are_part_of_the_drain(service: Service, transport: dict[str, str]) -> None:
    """gthread: they are counted, and at the deadline reported, and their connections end without an RST."""
    # In the probation the worker has time to say what it holds.
    service.configure(worker_class="gthread", threads=1, workers=1, hot_drain_timeout=2, hot_probation=1, **transport)
    service.start()
    with contextlib.ExitStack() as stack:
        # The handshakes, too, take the only thread.
        gone, *waiting = [stack.enter_context(service.connect()) for _ in range(5)]
        for connection in gone, *waiting[1:]:
            assert not connection.ask().closes
        stack.enter_context(service.held())
        for number, connection in enumerate(waiting):
            connection.send_request(f"/waiting?number={number}")
        gone.close()
        if not transport:
            # It has begun a request, which is none yet.
            half = stack.enter_context(service.connect())
            half.sock.sendall(b"GET /half HTTP/1.1\r\nHo")
            waiting.append(half)
        new = service.begin_drain()
        service.wait_log(r"draining [4-7] requests in 1 workers")
        for connection in waiting:
            # All that the client has sent is taken off the connection, and nothing is said.
            connection.was_closed()
        cut = service.wait_log(r"Cut: (.*), which was never begun \(worker pid: \d+\)", count=4)
        service.wait_log(rf"Upgrade: done, .* {len(cut) + 1} requests cut")
    if transport:
        # Nobody has read them.
        assert {match[1] for match in cut} == {"a request"}
    else:
        assert sorted(match[1] for match in cut) == [f"GET /waiting?number={number}" for number in range(4)]
    finish(service, new)


@pytest.mark.parametrize("worker", WORKERS)
def test_the_master_leaves_with_its_last_request(service: Service, worker: str) -> None:
    service.configure(HOOKS, worker_class=worker, hot_probation=0)
    service.start()
    workers = service.workers()
    with service.held() as held:
        new = service.begin_drain()
        # The other worker has nothing to wait for.
        busy = int(service.read("go.held"))
        (idle,) = set(workers) - {busy}
        wait_gone(idle)
        service.write("go")
        assert held.answer().pid == busy
    # Not "within a second": gunicorn's master looks at its workers once a second, this one waits for them.
    answered = time.monotonic()
    wait_gone(service.master, timeout=5)
    took = time.monotonic() - answered
    print(f"the master left {took * 1000:.0f} ms after the last answer")
    old = service.master
    finish(service, new)
    ready, *drains, done = service.wait_file("hooks", lines=4).splitlines()
    assert (ready, done) == (f"ready {old}", f"done {old}")
    assert sorted(drains) == sorted(f"drain {pid}" for pid in workers)


@pytest.mark.parametrize("worker", KEEP_ALIVE)
def test_no_kept_alive_connection_is_closed_unannounced(service: Service, worker: str) -> None:
    keepalive = 3
    service.configure(worker_class=worker, workers=1, keepalive=keepalive, hot_probation=1)
    service.start()
    # The connections are made when the successor is about to be ready: their time does not pass while it boots.
    mark = service.mark()
    service.release("B hold=go")
    new = service.begin_upgrade()
    service.wait_file("go.held", lines=1)
    with service.connect() as in_probation, service.connect() as in_drain, service.connect() as idle:
        for connection in in_probation, in_drain, idle:
            answer = connection.ask()
            assert (answer.gen, answer.closes) == ("A", False)
            last = time.monotonic()
        service.write("go")
        service.wait_log("in probation", after=mark)
        answer = in_probation.ask()
        assert (answer.gen, answer.closes) == ("A", True)
        service.wait_log("committed to successor", after=mark)
        answer = in_drain.ask()
        assert (answer.gen, answer.closes) == ("A", True)
        idle.was_closed()
        # No sooner than an idle connection is closed at any other time.
        assert time.monotonic() - last > keepalive - 0.1
    finish(service, new)


@pytest.mark.parametrize("worker", KEEP_ALIVE)
def test_a_kept_alive_connection_survives_a_rollback(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, workers=1, keepalive=20, hot_probation=20)
    service.start()
    with service.connect() as idle:
        before = idle.ask()
        mark = service.mark()
        service.release("B")
        new = service.begin_upgrade()
        service.wait_log("in probation", after=mark)
        service.signal(signal.SIGKILL, new)
        service.wait_log("Upgrade failed", after=mark)
        # The only worker has resumed when it accepts: what it answers before that says "close", rightly.
        until(lambda: service.ask().pid == before.pid, "an answer of the old worker")
        assert idle.ask() == before
        assert not idle.ask().closes


@pytest.mark.parametrize("worker", WORKERS)
def test_term_to_the_draining_master_ends_the_drain_only(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, graceful_timeout=1, hot_drain_timeout=20, hot_probation=0)
    service.start()
    with service.held() as held:
        new = service.begin_drain()
        service.signal(signal.SIGTERM)
        wait_gone(service.master)
        with contextlib.suppress(OSError):
            assert held.answer().status == 500
    assert service.pid_in() == new
    service.master = new
    assert service.ask().gen == "B"
