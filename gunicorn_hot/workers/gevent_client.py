"""A client's connection to a gevent worker, and how long the worker waits for it."""

from __future__ import annotations

from typing import Any

import gevent
from gevent import socket, ssl

from gunicorn_hot.workers import linger
from gunicorn_hot.workers.pipeline import is_waiting


def at_most(seconds: float) -> gevent.Timeout:
    """Return a context manager that leaves its block, silently, when the time is over."""
    return gevent.Timeout(seconds, False)  # type: ignore[arg-type]


class Client(socket.socket):
    """A client's connection, ended politely where gunicorn closes it at once: no RST overtakes a response."""

    #: Whether it has said anything since the worker began to wait for a request.
    heard = False
    #: Whether it ends because we want it so: the client may be sending.
    ended_by_us = False
    _is_closing = False
    #: What speaks HTTP/2 on it.
    http2: Any = None

    worker: Any

    def recv(self, *args: Any) -> bytes:
        data: bytes = super().recv(*args)
        self.heard = True
        return data

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            if self.ended_by_us or not self.worker.drain.accepting:
                self._linger()
        super().close()

    def _linger(self) -> None:
        """Read on for a while (RFC 9112 9.6)."""
        try:
            self._notify_end()
            socket.socket.shutdown(self, socket.SHUT_WR)
            self.settimeout(None)
            with at_most(linger.SECONDS):
                while socket.socket.recv(self, linger.READ):
                    pass
        except OSError:
            pass  # the client was quicker

    def _notify_end(self) -> None:
        """Tell the client that this is the end, where the transport has a word for that."""


class TLSClient(Client, ssl.SSLSocket):
    """The same, encrypted; made by its context."""

    def _notify_end(self) -> None:
        # Without it, it could be an attack (RFC 9112 9.8). The client's own is not waited for.
        self.settimeout(0)
        try:
            self.unwrap()
        except (OSError, ValueError):
            pass


class Wait:
    """The time that a client has for the head of a request, as a context manager in place of gunicorn's Timeout.

    Cuts off no request that is just arriving; and in a drain none that has begun to arrive: that has its own end."""

    def __init__(self, worker: Any, greenlet: Any, client: Client) -> None:
        self._worker = worker
        self._greenlet = greenlet
        self._client = client
        self._timeout: gevent.Timeout | None = None

    def __enter__(self) -> None:
        self._client.heard = False
        self._greenlet.hot_wait = self
        self._start()

    def _start(self) -> None:
        self._timer = gevent.get_hub().loop.timer(self._worker.cfg.keepalive, priority=-1)
        self._timer.start(self._expire)

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        self._greenlet.hot_wait = None
        self._timer.close()
        return error is not None and error is self._timeout

    def _expire(self) -> None:
        if is_waiting(self._client) or (self.is_under_way and not self._worker.drain.accepting):
            self._timer.close()
            self._start()
        else:
            self.end()

    @property
    def is_under_way(self) -> bool:
        """Whether a part of a request has come."""
        return self._client.heard

    def end(self) -> None:
        """Let the waiting greenlet close its connection; not called by itself."""
        self._client.ended_by_us = True
        self._timeout = gevent.Timeout()
        gevent.get_hub().loop.run_callback(self._throw)

    def _throw(self) -> None:
        if self._greenlet.hot_wait is self:  # it has not stopped to wait meanwhile
            self._greenlet.throw(self._timeout)
