"""Requests and answers that take long: an upgrade begins and commits in the middle of each, and none is harmed."""

from __future__ import annotations

import contextlib
import socket

import pytest
from server import Connection, Service, wait_gone

WORKERS = ["sync", "gthread", "gevent"]

BODY = bytes(8 << 20)
#: More than the kernel keeps for a client that does not read.
FILE = bytes(32 << 20)


class Long:
    """A request that is under way while the upgrade happens: what is sent and read before it, and after it."""

    def __init__(self, first: bytes, rest: bytes = b"", reads: bytes = b"", ends: bytes = b"") -> None:
        self._first = first
        self._rest = rest
        self._reads = reads
        self._ends = ends
        self._data = b""

    def begin(self, connection: Connection) -> None:
        self._sock: socket.socket = connection.sock
        self._sock.sendall(self._first)
        while self._reads not in self._data:
            piece = self._sock.recv(4096)
            assert piece, self._data
            self._data += piece

    def finish(self) -> None:
        self._sock.sendall(self._rest)
        pieces = [self._data]
        while piece := self._sock.recv(1 << 20):
            pieces.append(piece)
        head, _, body = b"".join(pieces).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0] == b"HTTP/1.1 200 OK"
        assert b"X-Gen: A" in lines
        assert body.endswith(self._ends)
        for line in lines:
            name, _, value = line.partition(b": ")
            if name == b"Content-Length":
                assert len(body) == int(value)


def request(method: str, path: str, *fields: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *fields]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


def long_requests() -> dict[str, Long]:
    length = f"Content-Length: {len(BODY)}"
    half = len(BODY) // 2
    uploaded = b"%d\n" % len(BODY)
    expecting = request("POST", "/upload", length, "Expect: 100-continue")
    return {
        "slow": Long(request("GET", "/hold?file=go"), ends=b"hello\n"),
        "chunked": Long(request("GET", "/stream?ms=2000"), reads=b"piece", ends=b"piece\n\r\n0\r\n\r\n"),
        "events": Long(request("GET", "/events?file=go"), reads=b"tick", ends=b"data: end\n\n\r\n0\r\n\r\n"),
        "file": Long(request("GET", "/file?name=big"), reads=b"\r\n\r\n\0", ends=b"\0end"),
        "upload": Long(request("POST", "/upload", length) + BODY[:half], BODY[half:], ends=uploaded),
        "continue": Long(expecting, BODY, reads=b"HTTP/1.1 100 Continue", ends=uploaded),
    }


@pytest.mark.parametrize("worker", WORKERS)
def test_long_requests_finish(service: Service, worker: str, transport: dict[str, str]) -> None:
    """All at once, and without gunicorn's `timeout`, in which a worker must say that it lives."""
    requests = long_requests()
    (service.folder / "big").write_bytes(FILE + b"end")
    # One that serves a request at a time is busy with each of them.
    workers = len(requests) + 1 if worker == "sync" else 1
    service.configure(
        worker_class=worker, workers=workers, timeout=0, hot_probation=0, hot_drain_timeout=60, **transport
    )
    service.start()
    with contextlib.ExitStack() as stack:
        for long in requests.values():
            long.begin(stack.enter_context(service.connect()))
        service.wait_file("go.held", lines=2)
        mark = service.mark()
        service.release("B")
        new = service.begin_upgrade()
        service.wait_log("committed to successor", after=mark)
        assert service.ask().gen == "B"
        service.write("go")
        for long in requests.values():
            long.finish()
    service.wait_log("Upgrade: done, .* 0 requests cut")
    wait_gone(service.master)
    service.master = new


@pytest.mark.parametrize("worker", WORKERS)
def test_a_stream_without_end_is_cut_at_the_deadline(service: Service, worker: str) -> None:
    service.configure(worker_class=worker, workers=1, hot_probation=0, hot_drain_timeout=1)
    service.start()
    with service.connect() as connection:
        stream = Long(request("GET", "/events?file=never"), reads=b"tick")
        stream.begin(connection)
        service.release("B")
        new = service.begin_upgrade()
        service.wait_log(r"Cut: GET /events\?file=never after \d+\.\ds")
        # An end that no client takes for a whole answer.
        with contextlib.suppress(ConnectionError):
            data = b""
            while piece := connection.sock.recv(65536):
                data += piece
            assert not data.endswith(b"\r\n0\r\n\r\n")
    service.wait_log("Upgrade: done, .* 1 requests cut")
    wait_gone(service.master)
    service.master = new
