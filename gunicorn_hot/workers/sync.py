"""The hot twin of gunicorn's sync worker: one request at a time, nothing held in between."""

from __future__ import annotations

import errno
import os
import select
from typing import Any

from gunicorn import util
from gunicorn.workers.sync import SyncWorker as StockSyncWorker

from gunicorn_hot.workers.base import HotWorker

_NOBODY_WAITS = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED)


class SyncWorker(HotWorker, StockSyncWorker):
    def run(self) -> None:
        if self.pass_gate():
            super().run()

    def run_for_one(self, timeout: float) -> None:
        (listener,) = self.sockets
        while self.alive and not self.drain.done(0):
            self.notify()
            # As gunicorn does: accept until nobody waits, and only then pay for a select.
            accepted = listener in self.sockets and self._accept_one(listener)
            # The drain may have been among what was read before the accept: then nothing would end this wait.
            if not accepted and not self.drain.done(0):
                self.wait(timeout)

    def run_for_multiple(self, timeout: float) -> None:
        while self.alive and not self.drain.done(0):
            self.notify()
            for ready in self.wait(timeout):
                if ready in self.sockets:
                    self._accept_one(ready)

    def wait(self, timeout: float) -> list[Any]:
        """Wait for a connection, a signal, or the master; return what is readable."""
        link = self.link.worker_end
        sources: list[Any] = [self.PIPE[0]] if link.closed else [self.PIPE[0], link]
        if self.drain.accepting:
            sources += self.sockets
        ready, _, _ = select.select(sources, [], [], timeout)
        if self.PIPE[0] in ready:
            os.read(self.PIPE[0], 4096)
        if link in ready:
            self.read_link()
        return ready

    def _accept_one(self, listener: Any) -> bool:
        board = self.link.board
        board.set_accepting(True)
        try:
            self.read_link()
            if not self.drain.accepting:
                return False
            client, addr = listener.accept()
        except OSError as exc:
            if exc.errno not in _NOBODY_WAITS:
                raise
            return False
        finally:
            board.set_accepting(False)
        client.setblocking(True)
        util.close_on_exec(client)
        self.handle(listener, client, addr)
        return True

    def handle_request(self, listener: Any, req: Any, client: Any, addr: Any) -> Any:
        key = self.begin_request(req)
        try:
            return super().handle_request(listener, req, client, addr)
        finally:
            self.end_request(key)
