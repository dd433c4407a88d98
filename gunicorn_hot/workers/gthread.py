"""The hot twin of gunicorn's gthread worker: a poller on the main thread, requests on a pool."""

from __future__ import annotations

import selectors
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker as StockThreadWorker

from gunicorn_hot.workers.base import HotWorker

_TICK = 1.0


class ThreadWorker(HotWorker, StockThreadWorker):
    def run(self) -> None:
        if not self.pass_gate():
            return
        queue: Any = self.method_queue
        link = self.link.worker_end
        self.poller.register(queue.fileno(), selectors.EVENT_READ, queue.run_callbacks)
        self.poller.register(link.fileno(), selectors.EVENT_READ, self._on_link)
        while self.alive and not self.drain.done(self.nr_conns):
            self.notify()
            self.set_accept_enabled(self.drain.accepting and self.nr_conns < self.worker_connections)
            now = time.monotonic()
            if self.drain.overdue(now):
                self.report_cut()
                self.leaves_at_once = True
                return
            self.wait_for_and_dispatch_events(timeout=self._patience(now))
            self.murder_keepalived()
            self.murder_pending()
        if not link.closed:
            self.poller.unregister(link.fileno())
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
        return patience

    def _on_link(self, _fd: int) -> None:
        fd = self.link.worker_end.fileno()
        self.read_link()
        if self.link.worker_end.closed:
            self.poller.unregister(fd)

    def accept(self, listener: Any) -> None:
        board = self.link.board
        board.set_accepting(True)
        try:
            self.read_link()
            if self.drain.accepting:
                super().accept(listener)
        finally:
            board.set_accepting(False)

    def handle_request(self, req: Any, conn: Any) -> bool:
        key = self.begin_request(req)
        try:
            kept: bool = super().handle_request(req, conn)
            return kept
        finally:
            self.end_request(key)
