"""A client's connection to a gthread worker: the parts that no thread of the pool should wait for."""

from __future__ import annotations

import ssl
from typing import Any

from gunicorn import http, util
from gunicorn.sock import is_http2_negotiated
from gunicorn.workers.gthread import TConn

from gunicorn_hot.workers import tls
from gunicorn_hot.workers.pipeline import is_waiting


class ClientsTurn(BaseException):
    """It goes on, in the TLS handshake or after it, when the client has said something.

    No Exception: gunicorn would answer it."""


class Connection(TConn):
    parser: Any
    sock: Any
    #: Whether it is kept, and gunicorn's worker would not do with it what this one does.
    is_special = False

    def __init__(self, worker: Any, client: Any, address: Any, server: Any) -> None:
        super().__init__(worker.cfg, client, address, server)
        self._worker = worker

    def init(self) -> None:
        if self.initialized or not self.cfg.is_ssl:
            super().init()
        elif not self._shake_hands() or not (self.is_http2 or is_waiting(self.sock)):
            # With HTTP/2 it is the server's turn, and no thread waits after that.
            raise ClientsTurn

    def _shake_hands(self) -> bool:
        """Go on with the TLS handshake; returns False while it is the client's turn. Waits for no client.

        gunicorn's own waits in a thread of the pool, for ever: as many stalled clients as there are threads stop it."""
        if not isinstance(self.sock, ssl.SSLSocket):
            self.sock = tls.wrap(self.sock, self.cfg)
        self.sock.setblocking(False)
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            return False
        # For its request it has as long as it had for this.
        self.timeout = None
        # As gunicorn's `init` goes on from here.
        self.initialized = True
        self.sock.setblocking(True)
        self.is_http2 = is_http2_negotiated(self.sock)
        self.parser = http.get_parser(self.cfg, self.sock, self.client, self.is_http2)  # type: ignore[call-overload]
        if self.is_http2:
            self.parser.initiate_connection()
        return True

    def has_read_ahead(self) -> bool:
        """Whether the next request is here already, where no poller can see it."""
        if self.parser.unreader.buf.getvalue():
            return True
        return isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0

    def close(self, graceful: bool = False) -> None:
        # gunicorn 25 closes at once, always; what a client sends to a leaving worker must not become an RST.
        if graceful or not self._worker.drain.accepting:
            self._worker.linger(self.sock)
        else:
            util.close(self.sock)
