"""Whether a client has sent more requests behind the one that is being answered (HTTP/1.1 pipelining).

A response that says ``Connection: close`` is the last one of its connection: what the client has sent behind it is
never answered (RFC 9112 9.3.2, 9.6). A draining worker therefore says it with the last of the requests that it had
received when it first had to decide. Only then: a client that never stops sending must not hold the drain for ever."""

from __future__ import annotations

import fcntl
import sys
import termios
from collections.abc import Callable
from typing import Any


def more_received(request: Any) -> bool:
    """Return whether a request behind this one had been received when this was first asked on its connection.

    Asked once for each request, and only by a worker that is leaving: it costs a system call."""
    unreader: Any = getattr(request, "unreader", None)
    sock = getattr(unreader, "sock", None)
    if sock is None:
        return False
    left = _body_left(request)
    if left is None:
        return False
    held, waiting = len(unreader.buf.getbuffer()), _waiting(sock)
    if held + waiting <= left:
        return False
    meter = getattr(unreader, "hot_meter", None)
    if meter is None:
        meter = unreader.hot_meter = _Meter(unreader.chunk, held, waiting)
        unreader.chunk = meter.chunk
    # The end of this request lies before the end of what had been received.
    return meter.consumed(held) + left < meter.received


def is_waiting(sock: Any) -> bool:
    """Return whether there is something to read, now: bytes, not an end."""
    return _waiting(sock) > 0


class _Meter:
    """Counts what is read from a connection, from now on; all numbers are bytes."""

    def __init__(self, chunk: Callable[..., bytes], held: int, waiting: int) -> None:
        self.received = held + waiting
        self._chunk = chunk
        self._read = held

    def chunk(self, *args: Any) -> bytes:
        data = self._chunk(*args)
        self._read += len(data)
        return data

    def consumed(self, held: int) -> int:
        """Return how much was taken from the unreader that still holds `held`."""
        return self._read - held


def _body_left(request: Any) -> int | None:
    """Return how many bytes of the request's body were not read yet, or None where nobody can know."""
    reader = getattr(request.body, "reader", None)
    length = getattr(reader, "length", None)
    if isinstance(length, int):
        return length
    # Chunked: its parser ends with the last chunk. A body that lasts as long as its connection has nothing behind it.
    return 0 if getattr(reader, "parser", reader) is None else None


def _waiting(sock: Any) -> int:
    """Return how many bytes can be read; with TLS about as many, for they are counted as they came."""
    pending = getattr(sock, "pending", None)
    try:
        decrypted = pending() if pending is not None else 0
        count = fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0\0\0\0")
    except (OSError, ValueError):
        return 0
    return decrypted + int.from_bytes(count, sys.byteorder)
