"""The hot twin of gunicorn's gthread worker: a poller on the main thread, requests on a pool."""

from __future__ import annotations

import math
import selectors
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import gunicorn
from gunicorn import util
from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import _DEFER, DEFAULT_WORKER_DATA_TIMEOUT  # type: ignore[attr-defined]
from gunicorn.workers.gthread import ThreadWorker as StockThreadWorker

from gunicorn_hot.link import ACCEPTING, IN_FLIGHT
from gunicorn_hot.workers import linger
from gunicorn_hot.workers.base import BEAT, NO_DESCRIPTORS, NOBODY_WAITS, HotWorker
from gunicorn_hot.workers.gthread_client import ClientsTurn, Connection
from gunicorn_hot.workers.pipeline import is_waiting, unread_request

_TICK = 1.0
#: gunicorn's worker looks itself for a next request that has come with the last one.
_SEES_WHAT_WAS_READ_AHEAD = gunicorn.version_info >= (27,)
#: s, at the end of a drain: for what crosses the end of an idle connection.
_LAST_LINGER = 0.1
#: More callbacks than a worker can have waiting.
_ALL = 65536


def _nothing() -> None:
    """Wakes the main loop."""


class ThreadWorker(HotWorker, StockThreadWorker):
    # For the reason that the base has.
    __slots__ = ("_lingering", "_link_fd", "_most_lingering", "_must_tell_idle")

    _accepting: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Connections that we have ended and the client has not -> when we stop to wait for it; oldest first.
        self._lingering: dict[Any, float] = {}
        self._most_lingering = 0
        #: Idle HTTP/2 connections may have to be told that we leave.
        self._must_tell_idle = False
        #: The link's descriptor while the poller has it.
        self._link_fd: int | None = None

    def run(self) -> None:
        try:
            self._serve()
        finally:
            # gunicorn does it within the handler of SIGQUIT, and waits for a lock that the interrupted code may hold.
            self.tpool.shutdown(wait=False)

    def _serve(self) -> None:
        if "h2" in self.cfg.http_protocols:
            from gunicorn_hot.workers import http2

            http2.use()
        elif not self.cfg.is_ssl and _SEES_WHAT_WAS_READ_AHEAD:
            self._take_the_short_way()
        if not self.pass_gate():
            return
        self._most_lingering = linger.most()
        queue: Any = self.method_queue
        link = self.link.worker_end
        self.poller.register(queue.fileno(), selectors.EVENT_READ, queue.run_callbacks)
        if not link.closed:
            self._link_fd = link.fileno()
            self.poller.register(self._link_fd, selectors.EVENT_READ, self._on_link)
        drain = self.drain
        chores_at = 0.0
        while self.alive and not drain.done(self.nr_conns):
            # Those that linger take no place: a few clients that do not close would keep everybody waiting.
            can_accept = drain.accepting and self.nr_conns - len(self._lingering) < self.worker_connections
            if can_accept != self._accepting:
                self.set_accept_enabled(can_accept)
            now = time.monotonic()
            if self._must_tell_idle:
                self._tell_idle()
            patience = _TICK
            # gunicorn does this at every event, and spends a twentieth of its time on it when they come in thousands.
            if now >= chores_at or drain.draining:
                chores_at = now + BEAT
                self.notify()
                self.murder_keepalived()
                self.murder_pending()
                if drain.overdue(now):
                    self._give_up()
                    return
            if drain.draining or self._lingering:
                patience = self._patience(now)
            self.wait_for_and_dispatch_events(patience)
        self.begin_to_leave()
        self._forget_link()
        self.poller.unregister(queue.fileno())
        # What is left is what gunicorn's worker does after SIGTERM. Its own loop ends before its first pass.
        self.alive = False
        late = time.monotonic() + linger.SECONDS
        pending: Any = self.pending_conns
        for conn in pending:
            # A client that has said nothing yet must not hold up the worker's replacement.
            conn.timeout = min(conn.timeout, late)
        setattr(self, "wait_for_and_dispatch_events", self._wait_a_tick)  # noqa: B010  a method, to mypy
        super().run()

    def _wait_a_tick(self, timeout: float) -> None:
        """gunicorn 25 and 26 wait for an event as long as their grace lasts, and end nothing that is idle meanwhile."""
        super().wait_for_and_dispatch_events(min(timeout, _TICK))

    def _take_the_short_way(self) -> None:
        """Without TLS and HTTP/2 nothing below is special, and two calls less for each request can be measured."""
        for name in ("handle", "finish_request"):
            if getattr(type(self), name) is getattr(ThreadWorker, name):
                setattr(self, name, getattr(super(), name))

    def _give_up(self) -> None:
        """The drain is over: end idle connections politely, and what is being answered by leaving."""
        waiting = self._end_waiting()
        self._end_idle(self.keepalived_conns, math.inf)
        self._end_idle(self.pending_conns, math.inf)
        deadline = time.monotonic() + _LAST_LINGER
        while self._lingering and (left := deadline - time.monotonic()) > 0:
            self.wait_for_and_dispatch_events(left)
        self.report_cut(waiting)
        self.leaves_at_once = True

    def _end_waiting(self) -> list[str]:
        """No thread begins anything from now on: end what waits for one. Returns the words for each request among
        that, and those that still come."""
        waiting: list[str] = []
        pool: Any = self.tpool
        queue, finish = self.method_queue, self.finish_request
        if not isinstance(pool, ThreadPoolExecutor):  # a subclass has its own
            return waiting

        def end(conn: Any) -> None:
            if (words := unread_request(conn.sock, conn.parser)) is not None:
                waiting.append(words)
            self._close_idle(conn)

        def finish_or_end(conn: Any, fs: Any) -> None:
            end(conn) if fs.cancelled() else finish(conn, fs)

        setattr(self, "enqueue_req", end)  # noqa: B010  methods, to mypy
        setattr(self, "finish_request", finish_or_end)  # noqa: B010
        pool.shutdown(wait=False, cancel_futures=True)
        fd: Any = queue.fileno()
        queue.run_callbacks(fd, _ALL)
        return waiting

    def show_in_flight(self) -> None:
        # A request that waits for a thread is one that the drain has to finish.
        waiting = getattr(self.tpool, "_work_queue", None)
        count = len(self.in_flight) + (0 if waiting is None else waiting.qsize())
        self.board[IN_FLIGHT] = min(count, 255)

    def handle_quit(self, sig: int, frame: Any) -> None:
        if self.end_drain_now():
            self.method_queue.defer(_nothing)
        else:
            self.report_cut()
            Worker.handle_quit(self, sig, frame)  # see `run`

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
            patience = min(patience, max(BEAT, next(iter(self._lingering.values())) - now))
        return patience

    def linger(self, client: Any) -> None:
        """End a connection; gunicorn waits for the client's end on the main thread."""
        try:
            linger.begin(client)
            self.poller.register(client, selectors.EVENT_READ, self._on_lingering)
        except (OSError, ValueError):
            util.close(client)  # the client was quicker
        else:
            self._lingering[client] = time.monotonic() + linger.SECONDS
            self.nr_conns += 1

    def _on_lingering(self, client: Any) -> None:
        # An accept in the same pass over the events may have ended it.
        if client in self._lingering and linger.is_over(client):
            self._end(client)

    def murder_keepalived(self, force: bool = False) -> None:
        # Also called by the loop in which gunicorn's worker stops.
        now = time.monotonic()
        while self._lingering:
            client, until = next(iter(self._lingering.items()))
            if until > now:
                break
            self._end(client)
        self._end_idle(self.keepalived_conns, math.inf if force else now)

    def murder_pending(self) -> None:
        if self.pending_conns:
            self._end_idle(self.pending_conns, time.monotonic())

    def _end_idle(self, waiting: Any, now: float) -> None:
        """End the idle connections whose time is over; serve those whose next request is here.

        gunicorn closes them at once: a request that is just arriving gets an RST."""
        while waiting and waiting[0].timeout <= now:
            conn = waiting.popleft()
            self.poller.unregister(conn.sock)
            if is_waiting(conn.sock) and now < math.inf:
                conn.data_ready = True
                self.enqueue_req(conn)
            else:
                self._close_idle(conn)

    def _close_idle(self, conn: Any) -> None:
        if conn.is_http2:
            conn.parser.say_goaway()
        self.nr_conns -= 1
        conn.close(graceful=True)

    def _tell_idle(self) -> None:
        """End the idle HTTP/2 connections: with their word for that, it harms no request."""
        self._must_tell_idle = False
        if self.drain.accepting:
            return
        kept: Any = self.keepalived_conns
        for conn in [conn for conn in kept if conn.is_http2 and conn.parser.may_be_dismissed()]:
            kept.remove(conn)
            self.poller.unregister(conn.sock)
            self._close_idle(conn)

    def _end(self, client: Any) -> None:
        del self._lingering[client]
        self.nr_conns -= 1
        self.poller.unregister(client)
        util.close(client)

    def _on_link(self, _fd: int) -> None:
        self.read_link()

    def on_phase(self) -> None:
        # Not here: it may be within a pass over the poller's events.
        self._must_tell_idle = True
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
            if exc.errno in NO_DESCRIPTORS and self._lingering:
                for lingering in list(self._lingering):
                    self._end(lingering)
            elif exc.errno not in NOBODY_WAITS:
                raise
            return
        finally:
            board[ACCEPTING] = 0
        if len(self._lingering) > self._most_lingering:
            # One for one: what has been idle lingers with the descriptors that it had.
            self._end(next(iter(self._lingering)))
        self.nr_conns += 1
        conn = Connection(self, client, address, listener.getsockname())
        # gunicorn lets a thread of the pool wait for the first byte, up to 5 s: silent clients take them all.
        if is_waiting(client):
            conn.data_ready = True
            self.enqueue_req(conn)
        else:
            self._await_data(conn)

    def _await_data(self, conn: Any) -> None:
        """Let the poller wait for a connection's first bytes, as long as gunicorn's thread and poller would."""
        now = time.monotonic()
        if conn.timeout is None:
            conn.timeout = now + DEFAULT_WORKER_DATA_TIMEOUT + self.cfg.keepalive
        elif conn.timeout <= now:
            # A handshake has one time, however often the client says a byte of it.
            self._close_idle(conn)
            return
        if not self.alive:
            # gunicorn's thread would end the handshake first: it has begun, and a request is to come.
            conn.timeout = min(conn.timeout, now + linger.SECONDS)
        conn.sock.setblocking(False)
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def handle(self, conn: Any) -> Any:
        conn.is_special = False
        try:
            kept = super().handle(conn)
        except ClientsTurn:
            kept = _DEFER
        conn.is_special = kept and (kept is _DEFER or conn.is_http2 or conn.has_read_ahead())
        return kept

    def finish_request(self, conn: Any, fs: Any) -> None:
        if not conn.is_special:
            if self.alive or fs.cancelled() or fs.exception() is not None or not fs.result():
                super().finish_request(conn, fs)
            else:
                self._keep_for_one_more(conn)
        elif fs.result() is not _DEFER:
            if not conn.is_http2:
                self.enqueue_req(conn)
            elif self.alive:
                self._park(conn)
            else:
                self._close_idle(conn)
        else:
            self._await_data(conn)

    def _keep_for_one_more(self, conn: Any) -> None:
        """The client was told that its connection is kept, just before the worker was stopped or had served its
        `max_requests`: the next answer will say otherwise. As gunicorn 27 does; older ones close it."""
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + min(self.cfg.keepalive, linger.SECONDS)
        self.keepalived_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))

    def _park(self, conn: Any) -> None:
        """Let the poller wait for an idle HTTP/2 connection; in gunicorn's worker it keeps a thread."""
        conn.sock.setblocking(False)
        # Without a keep-alive time it may stay, as in gunicorn 27.
        conn.timeout = time.monotonic() + (self.cfg.keepalive or math.inf)
        self.keepalived_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))
        # It may have become idle only after the others were told.
        self._must_tell_idle = True

    def handle_http2(self, conn: Any) -> bool:
        conn.parser.parks = True
        super().handle_http2(conn)
        if conn.parser.unpark():
            return True
        conn.parser.end()
        return False

    def handle_request(self, req: Any, conn: Any) -> bool:
        entry = self.begin_request(req)
        try:
            kept: bool = super().handle_request(req, conn)
            return kept
        finally:
            self.end_request(entry)
