"""The hot twin of gunicorn's gthread worker: a poller on the main thread, requests on a pool."""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections import deque
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import TConn
from gunicorn.workers.gthread import ThreadWorker as StockThreadWorker

from gunicorn_hot.link import ACCEPTING
from gunicorn_hot.workers.base import BEAT, NOBODY_WAITS, HotWorker

_TICK = 1.0
#: As in gunicorn's `util.close_graceful`: seconds, and bytes per read.
_LINGER = 2.0
_LINGER_READ = 65536


class _Connection(TConn):
    def __init__(self, worker: ThreadWorker, client: Any, address: Any, server: Any) -> None:
        super().__init__(worker.cfg, client, address, server)
        self._worker = worker

    def close(self, graceful: bool = False) -> None:
        if graceful:
            self._worker.linger(self.sock)
        else:
            util.close(self.sock)


class ThreadWorker(HotWorker, StockThreadWorker):
    _accepting: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Connections that we have ended and the client has not, and when we stop to wait for it; oldest first.
        self._lingering: deque[tuple[float, Any]] = deque()
        #: The link's descriptor while the poller has it.
        self._link_fd: int | None = None

    def run(self) -> None:
        if not self.pass_gate():
            return
        queue: Any = self.method_queue
        link = self.link.worker_end
        self.poller.register(queue.fileno(), selectors.EVENT_READ, queue.run_callbacks)
        if not link.closed:
            self._link_fd = link.fileno()
            self.poller.register(self._link_fd, selectors.EVENT_READ, self._on_link)
        drain = self.drain
        chores_at = 0.0
        while self.alive and not drain.done(self.nr_conns):
            can_accept = drain.accepting and self.nr_conns < self.worker_connections
            if can_accept != self._accepting:
                self.set_accept_enabled(can_accept)
            now = time.monotonic()
            patience = _TICK
            # gunicorn does this at every event, and spends a twentieth of its time on it when they come in thousands.
            if now >= chores_at or drain.draining:
                chores_at = now + BEAT
                self.notify()
                self.murder_keepalived()
                self.murder_pending()
                if drain.overdue(now):
                    self.report_cut()
                    self.leaves_at_once = True
                    return
            if drain.draining or self._lingering:
                patience = self._patience(now)
            self.wait_for_and_dispatch_events(patience)
        self._forget_link()
        self.poller.unregister(queue.fileno())
        # What is left is what gunicorn's worker does after SIGTERM. Its own loop ends before its first pass.
        self.alive = False
        super().run()

    def _patience(self, now: float) -> float:
        """Seconds until something must be looked at even if no event comes."""
        patience = self.drain.wait(now, _TICK)
        if self.drain.draining:
            # The worker may leave when the last kept-alive connection has timed out, not at the next tick.
            queues: tuple[Any, Any] = (self.keepalived_conns, self.pending_conns)
            for waiting in queues:
                if waiting:
                    patience = min(patience, max(0.0, waiting[0].timeout - now))
        if self._lingering:
            patience = min(patience, max(BEAT, self._lingering[0][0] - now))
        return patience

    # gunicorn 26 and 27 wait for the client's end of a closed connection on the main thread, up to 2 s for each: a few
    # clients that do not close hold up everybody, and a drain says "Connection: close" to all of them.

    def linger(self, client: Any) -> None:
        """End a connection: read on for a while, so that no RST overtakes the response (RFC 9112 9.6)."""
        try:
            client.shutdown(socket.SHUT_WR)
            client.setblocking(False)
            self.poller.register(client, selectors.EVENT_READ, self._on_lingering)
        except (OSError, ValueError):
            util.close(client)  # the client was quicker
        else:
            self._lingering.append((time.monotonic() + _LINGER, client))
            self.nr_conns += 1

    def _on_lingering(self, client: Any) -> None:
        try:
            if client.recv(_LINGER_READ):
                return
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            pass
        self._lingering = deque(entry for entry in self._lingering if entry[1] is not client)
        self._end(client)

    def murder_keepalived(self, *args: Any, **kwargs: Any) -> None:
        # Also called by the loop in which gunicorn's worker stops.
        now = time.monotonic()
        while self._lingering and self._lingering[0][0] <= now:
            self._end(self._lingering.popleft()[1])
        super().murder_keepalived(*args, **kwargs)

    def _end(self, client: Any) -> None:
        self.nr_conns -= 1
        self.poller.unregister(client)
        util.close(client)

    def _on_link(self, _fd: int) -> None:
        self.read_link()

    def on_phase(self) -> None:
        if self.link.worker_end.closed:
            self._forget_link()

    def close_listeners(self) -> None:
        self.set_accept_enabled(False)
        super().close_listeners()

    def _forget_link(self) -> None:
        if self._link_fd is not None:
            self.poller.unregister(self._link_fd)
            self._link_fd = None

    def accept(self, listener: Any) -> None:
        board = self.board
        board[ACCEPTING] = 1
        try:
            if not self.may_accept():
                return
            client, address = listener.accept()
        except OSError as exc:
            if exc.errno not in NOBODY_WAITS:
                raise
            return
        finally:
            board[ACCEPTING] = 0
        self.nr_conns += 1
        client.setblocking(True)
        self.enqueue_req(_Connection(self, client, address, listener.getsockname()))

    def handle_request(self, req: Any, conn: Any) -> bool:
        entry = self.begin_request(req)
        try:
            kept: bool = super().handle_request(req, conn)
            return kept
        finally:
            self.end_request(entry)
