"""Whether a client has sent more requests behind the one that is being answered (HTTP/1.1 pipelining).

A response that says ``Connection: close`` is the last one of its connection: what the client has sent behind it is
never answered (RFC 9112 9.3.2, 9.6). A draining worker therefore says it with the last of the requests that it had
received when it first had to decide. Only then: a client that never stops sending must not hold the drain for ever."""

from __future__ import annotations

import fcntl
import socket
import ssl
import sys
import termios
from collections.abc import Callable
from typing import Any

#: bytes; asyncio's and uvloop's high water mark of what they have not decrypted.
_LOOPS_BUFFER = 256 * 1024
#: bytes; a longer head is taken for one that has come.
_HEAD = 65536


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
    held, there = len(unreader.buf.getbuffer()), waiting(sock)
    if held + there <= left:
        return False
    meter = getattr(unreader, "hot_meter", None)
    if meter is None:
        meter = unreader.hot_meter = _Meter(unreader.chunk, held, there)
        unreader.chunk = meter.chunk
    # The end of this request lies before the end of what had been received.
    return meter.consumed(held) + left < meter.received


def is_waiting(sock: Any) -> bool:
    """Return whether there is something to read, now: bytes, not an end."""
    return waiting(sock) > 0


def hidden(transport: Any, is_paused: bool) -> int:
    """Return how many bytes an event loop may have read from a connection, and keeps while its protocol reads nothing.

    Both loops read on with TLS, up to this; nobody is told how much it is."""
    return _LOOPS_BUFFER if is_paused and transport.get_extra_info("ssl_object") is not None else 0


class Ahead:
    """The same question for a connection that an event loop reads, and a parser holds; all numbers are bytes."""

    __slots__ = ("_end", "_read")

    def __init__(self) -> None:
        self._read = 0
        #: Where that ends which had been received when it was first asked.
        self._end: int | None = None

    def read(self, count: int) -> None:
        """Note that the loop has read something more from the connection."""
        self._read += count

    def ask(self, there: int) -> None:
        """Only what has been received now counts; `there`: what the loop has not read yet. A second call is ignored."""
        if self._end is None:
            self._end = self._read + there

    def is_beyond(self, held: int = 0) -> bool:
        """Whether all that counts has been taken from the parser, which still holds `held`."""
        return self._end is not None and self._read - held >= self._end

    def has_more(self, held: int, there: int, hidden: int) -> bool:
        """Whether a request, or the beginning of one, lies behind those that the parser has taken.

        `hidden`: what the loop may have read besides, and keeps to itself (see `hidden`)."""
        if not held + there:
            return False
        self.ask(there + hidden)
        return not self.is_beyond(held)


def unread_request(sock: Any, parser: Any) -> str | None:
    """Return the words for a request that has come and that nobody has begun to read, or None if none has come.

    Of an encrypted one nobody knows more than that something has come."""
    if isinstance(sock, ssl.SSLSocket):
        return "a request" if is_waiting(sock) else None
    unreader = getattr(parser, "unreader", None)
    data = b"" if unreader is None else unreader.buf.getvalue()
    try:
        data += sock.recv(_HEAD, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        pass  # nothing, or the client has gone
    if b"\r\n\r\n" not in data and len(data) < _HEAD:
        return None
    words = bytes(data).partition(b"\r\n")[0].decode("latin-1").split(" ")
    # Anybody may have written it, for whoever reads the log.
    return " ".join(words[:2]) if len(words) == 3 and "".join(words).isprintable() else "a request"


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


def waiting(sock: Any) -> int:
    """Return how many bytes can be read; with TLS about as many, for they are counted as they came."""
    pending = getattr(sock, "pending", None)
    try:
        decrypted = pending() if pending is not None else 0
        count = fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0\0\0\0")
    except (OSError, ValueError):
        return 0
    return decrypted + int.from_bytes(count, sys.byteorder)
