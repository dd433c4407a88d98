"""The application of the benches. It knows neither gunicorn nor gunicorn_hot.

    /               a short answer
    /slow?ms=N      an answer after N ms
    /stream?ms=N    an answer in pieces, spread over N ms
    /upload         reads the body, says its size
    /hold?port=N    connects to 127.0.0.1:N, writes its pid, and answers when that connection is closed: the
                    bench holds the request for as long as it wants, and knows that it is in flight

Each answer says in X-Gen the pid of the master, or BENCH_GENERATION if that is set (the name of the generation), and in
X-Pid the pid of the worker.
The import takes BENCH_IMPORT_S seconds, by sleeping, so that it takes the same with any load; and then
BENCH_IMPORT_CPU_S seconds of a processor.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs

PIECES = 10

# Read once: the master may be gone when the last request is answered.
GENERATION = os.environ.get("BENCH_GENERATION") or str(os.getppid())
time.sleep(float(os.environ.get("BENCH_IMPORT_S", "0")))
_enough = time.process_time() + float(os.environ.get("BENCH_IMPORT_CPU_S", "0"))
while time.process_time() < _enough:
    pass


def pieces(seconds: float) -> Iterator[bytes]:
    for _ in range(PIECES):
        yield b"piece\n"
        time.sleep(seconds / PIECES)


def hold(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as held:
        held.sendall(b"%d" % os.getpid())
        held.recv(1)


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    headers = [("Content-Type", "text/plain"), ("X-Gen", GENERATION), ("X-Pid", str(os.getpid()))]
    body = b"answer\n"
    if path != "/":
        query = parse_qs(environ["QUERY_STRING"])
        seconds = float(query.get("ms", ["0"])[0]) / 1000
        if path == "/stream":
            start_response("200 OK", headers)
            return pieces(seconds)
        if path == "/slow":
            time.sleep(seconds)
        elif path == "/hold":
            hold(int(query["port"][0]))
        elif path == "/upload":
            size = 0
            while data := environ["wsgi.input"].read(65536):
                size += len(data)
            body = b"%d bytes\n" % size
    start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
    return [body]
