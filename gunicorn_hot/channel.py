"""A socket pair that carries protocol messages, and never blocks its process."""

from __future__ import annotations

import select
import socket
from typing import Any

from gunicorn_hot.protocol import Decoder, Message, ProtocolError, encode

_RECEIVE_BYTES = 65536


def inherited(fd: int, kind: int) -> socket.socket:
    """Return the unix socket of this kind (SOCK_STREAM, ...) that a descriptor is, and stop its further inheritance.

    Raises OSError when it is something else, which is left as it was: the environment may have named anything."""
    sock = socket.socket(fileno=fd)
    if sock.family != socket.AF_UNIX or sock.type != kind:
        sock.detach()
        raise OSError(f"descriptor {fd} is another kind of socket")
    sock.set_inheritable(False)
    return sock


class Channel:
    """One end of a connection between two masters, or between a master and one worker.

    The peer's death is an EOF here, so no copy of either end may live on in a third process: see `private`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._decoder = Decoder()
        self.closed = False
        #: Why the stream ended, when it was not a plain EOF.
        self.error: str | None = None

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return two connected ends, both close-on-exec. Raises OSError (EMFILE, ENFILE)."""
        one, other = socket.socketpair()
        return cls(one), cls(other)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """Adopt an inherited descriptor: see `inherited`."""
        return cls(inherited(fd, socket.SOCK_STREAM))

    def fileno(self) -> int:
        return self._sock.fileno()

    def set_inheritable(self) -> None:
        """Let this end survive an exec."""
        self._sock.set_inheritable(True)

    def send(self, type: str, **fields: Any) -> None:
        """Send one message. A peer that is gone is noticed by `receive`, as EOF, and not here.

        A peer that has not read some hundred kilobytes of small messages is broken: the channel is closed."""
        if self.closed:
            return
        frame = encode(type, **fields)
        try:
            complete = self._sock.send(frame, socket.MSG_NOSIGNAL) == len(frame)
        except BlockingIOError:
            complete = False
        except OSError:
            return
        if not complete:
            self.error = "the peer does not read"
            self._sock.shutdown(socket.SHUT_RDWR)

    def offer(self, type: str, **fields: Any) -> bool:
        """Send a message that may as well be lost, unless the peer has a lot to read already; returns whether it was
        sent."""
        if self.closed:
            return False
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        # Linux says so when three quarters of the buffer are free, which is more than any such message needs.
        if not poll.poll(0):
            return False
        self.send(type, **fields)
        return True

    def receive(self) -> list[Message]:
        """Return all messages that have arrived; after EOF or garbage `closed` is true, and `error` says why."""
        messages: list[Message] = []
        while not self.closed:
            try:
                data = self._sock.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                break
            except ConnectionResetError:
                # The peer died with something unread. All that it had said has come before this.
                data = b""
            except OSError as exc:
                self._end(str(exc))
                break
            if not data:
                self._end("it ended within a message" if self._decoder.pending else None)
                break
            try:
                messages += self._decoder.feed(data)
            except ProtocolError as exc:
                self._end(str(exc))
        return messages

    def _end(self, error: str | None) -> None:
        self.error = self.error or error
        self.close()

    def close(self) -> None:
        """Close this end; the peer reads EOF. May be called twice."""
        self.closed = True
        self._sock.close()
