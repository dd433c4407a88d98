"""Clients that keep their connection and say nothing."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bench.service import BenchError

_TIMEOUT = 60.0         # s


def most_descriptors() -> int:
    """How many descriptors this process may have, and those that it starts."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@contextmanager
def waiting(address: str, count: int) -> Iterator[None]:
    """Kept-alive connections, each with an answer already, that say nothing. Raises BenchError, OSError."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    host, port = address.split(":")
    with ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=_TIMEOUT))
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if not client.recv(65536).startswith(b"HTTP/1.1 200"):
                raise BenchError("an idle connection was not answered")
        yield
