"""As many requests as a server answers, from raw sockets: the load of `steady`, and what it can do itself.

    python -m bench.hammer --port N ...     one process of the load; prints its figures as JSON
    python -m bench.hammer --respond        a server that does nothing but answer; prints its port

`bench.load` records what each of a few dozen honest clients sees, and pauses between requests; this one
counts.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_RENEW = 200            # requests on one kept-alive connection, so that workers share the connections evenly
_MOST = 2_000_000       # requests of one process, whatever `seconds` says
_STUCK = 10.0           # s without any answer
_BODY = b"answer\n"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Gen: trivial\r\nContent-Length: 7\r\n"


@dataclass(frozen=True)
class Figures:
    """`requests` were answered in all, `measured` of them in the `seconds` after the warm-up."""

    requests: int
    measured: int
    seconds: float
    failed: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.measured / self.seconds


class _Client:
    """One connection at a time, one request at a time."""

    def __init__(self, port: int, keep: bool, poll: select.epoll) -> None:
        self._address = ("127.0.0.1", port)
        self._keep = keep
        self._poll = poll
        connection = b"keep-alive" if keep else b"close"
        self._request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: " + connection + b"\r\n\r\n"
        self._data = b""
        self._left = 0
        self.fd = -1
        self._sock: socket.socket | None = None

    def ask(self) -> None:
        if self._sock is None:
            # Blocking: on the loopback it ends when the connection is in the server's queue.
            self._sock = socket.create_connection(self._address, _STUCK)
            self._sock.setblocking(False)
            self.fd = self._sock.fileno()
            self._poll.register(self.fd, select.EPOLLIN)
            self._left = _RENEW if self._keep else 1
        self._data = b""
        self._left -= 1
        self._sock.send(self._request)

    def answered(self) -> bool:
        """Reads what there is; whether the answer is whole. ConnectionError if it ends early or is no 200."""
        assert self._sock is not None
        more = self._sock.recv(65536)
        if not more:
            raise ConnectionError("closed before the end of the answer")
        data = self._data = self._data + more
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return False
        if not data.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(f"not a 200: {data[:80]!r}")
        head = data[:end + 1].lower()
        at = head.index(b"content-length: ") + 16
        if len(data) - end - 4 < int(head[at:head.index(b"\r", at)]):
            return False
        if not self._left or b"connection: close" in head:
            self.hang_up()
        return True

    def hang_up(self) -> None:
        if self._sock is not None:
            self._poll.unregister(self.fd)
            self._sock.close()
            self._sock = None


def hammer(port: int, keep: bool, connections: int, warmup: int, seconds: float) -> Figures:
    """Ask on all connections at once, first for `warmup` answers, then for `seconds`, in this process."""
    requests = failed = before = 0
    started: float | None = None
    with select.epoll() as poll:
        by_fd: dict[int, _Client] = {}
        clients = [_Client(port, keep, poll) for _ in range(connections)]
        for client in clients:
            client.ask()
            by_fd[client.fd] = client
        while True:
            events = poll.poll(_STUCK)
            if not events:
                raise TimeoutError(f"no answer in {_STUCK}s")
            for fd, _ in events:
                client = by_fd[fd]
                try:
                    if not client.answered():
                        continue
                    requests += 1
                except OSError:
                    failed += 1
                    client.hang_up()
                client.ask()
                by_fd[client.fd] = client
            now = time.monotonic()
            if started is None:
                if requests + failed >= warmup:
                    started, before = now, requests
            elif now - started >= seconds or requests + failed >= _MOST:
                for client in clients:
                    client.hang_up()
                return Figures(requests, requests - before, now - started, failed)


def _module(*arguments: str, stdin: int | None = None) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.Popen(
        [sys.executable, "-m", "bench.hammer", *arguments], env={**os.environ, "PYTHONPATH": path},
        stdin=stdin, stdout=subprocess.PIPE, text=True,
    )


def run(port: int, keep: bool, connections: int, warmup: int, seconds: float, processes: int = 1) -> Figures:
    """`hammer` in processes of their own, each with its share of `connections` and `warmup`; their sum."""
    each = [max(1, n // processes) for n in (connections, warmup)]
    arguments = ["--port", str(port), "--connections", str(each[0]), "--warmup", str(each[1]),
                 "--seconds", str(seconds), *(["--keep"] if keep else [])]
    with ExitStack() as stack:
        started = [stack.enter_context(_module(*arguments)) for _ in range(processes)]
        parts = []
        for process in started:
            text, _ = process.communicate(timeout=seconds + 60)
            if process.returncode:
                raise RuntimeError("the load has failed, see the standard error")
            parts.append(Figures(**json.loads(text)))
    return Figures(
        requests=sum(part.requests for part in parts),
        measured=sum(part.measured for part in parts),
        seconds=sum(part.seconds for part in parts) / len(parts),
        failed=sum(part.failed for part in parts),
    )


def respond() -> None:
    """Answer every request at once, until the standard input ends."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    kept, last = (_HEAD + b"Connection: " + word + b"\r\n\r\n" + _BODY for word in (b"keep-alive", b"close"))
    connections: dict[int, socket.socket] = {}
    with select.epoll() as poll, listener:
        poll.register(listener, select.EPOLLIN)
        poll.register(sys.stdin, select.EPOLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == sys.stdin.fileno():
                    return
                if fd == listener.fileno():
                    sock, _ = listener.accept()
                    sock.setblocking(False)
                    connections[sock.fileno()] = sock
                    poll.register(sock, select.EPOLLIN)
                    continue
                sock = connections[fd]
                try:
                    request = sock.recv(65536)
                    close = not request or b"Connection: close" in request
                    if request:
                        sock.send(last if close else kept)
                except OSError:
                    close = True
                if close:
                    del connections[fd]
                    sock.close()


@contextmanager
def responder() -> Iterator[int]:
    """`respond` in a process of its own; gives its port."""
    with _module("--respond", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.hammer")
    parser.add_argument("--respond", action="store_true")
    parser.add_argument("--port", type=int)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    if options.respond:
        respond()
        return
    figures = hammer(options.port, options.keep, options.connections, options.warmup, options.seconds)
    print(json.dumps({"requests": figures.requests, "measured": figures.measured, "seconds": figures.seconds,
                      "failed": figures.failed}))


if __name__ == "__main__":
    main()
