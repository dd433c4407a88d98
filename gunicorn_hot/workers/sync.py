"""The hot twin of gunicorn's sync worker: one request at a time, nothing held in between."""

from __future__ import annotations

import os
import select
import socket
import time
from typing import Any

from gunicorn import util
from gunicorn.workers.sync import SyncWorker as StockSyncWorker

from gunicorn_hot.link import ACCEPTING
from gunicorn_hot.workers.base import NOBODY_WAITS, HotWorker

#: s; how long a draining worker waits for the first byte of a connection. As gunicorn's gthread does.
_FIRST_BYTE = 5.0


class SyncWorker(HotWorker, StockSyncWorker):
    def run(self) -> None:
        if self.pass_gate():
            self.on_phase()
            super().run()

    def run_for_one(self, timeout: float) -> None:
        if len(self.sockets) != 1:  # the only one was ended by a successor that has failed since
            return self.run_for_multiple(timeout)
        (listener,) = self.sockets
        drain = self.drain
        while self.alive and not drain.draining:
            self.notify()
            # As gunicorn does: accept until nobody waits, and only then pay for a select.
            # The drain may be among what was read before the accept: then nothing would end a wait.
            if not self._accept_one(listener) and not drain.draining:
                self._wait(timeout)

    def on_phase(self) -> None:
        #: The listeners by descriptor, and all that a wait looks at: numbers, which select takes as they are.
        self._listeners = {listener.fileno(): listener for listener in self.sockets}
        self._sources = [self.PIPE[0]]
        if not self.link.worker_end.closed:
            self._sources.append(self.link.worker_end.fileno())
        if self.drain.accepting:
            self._sources += self._listeners

    def run_for_multiple(self, timeout: float) -> None:
        while self.alive and not self.drain.draining:
            self.notify()
            for ready in self._wait(timeout):
                if ready in self._listeners:
                    self._accept_one(self._listeners[ready])

    def _wait(self, timeout: float) -> list[int]:
        """Wait for a connection, a signal, or the master; return the descriptors that are readable."""
        ready, _, _ = select.select(self._sources, [], [], timeout)
        for fd in ready:
            if fd == self.PIPE[0]:
                os.read(fd, 4096)
            elif fd not in self._listeners:
                self.read_link()
        return ready

    def _accept_one(self, listener: Any) -> bool:
        board = self.board
        board[ACCEPTING] = 1
        try:
            if not self.may_accept():
                return False
            client, addr = listener.accept()
        except OSError as exc:
            if exc.errno not in NOBODY_WAITS:
                raise
            return False
        finally:
            board[ACCEPTING] = 0
        client.setblocking(True)
        util.close_on_exec(client)
        if self._speaks(client):
            self.handle(listener, client, addr)
        else:
            util.close(client)
        return True

    def _speaks(self, client: socket.socket) -> bool:
        """Wait for the first byte; returns False for a client that has nothing to say while this worker drains.

        No heartbeats meanwhile: before a drain gunicorn's `timeout` ends such a wait, as in its own worker."""
        try:
            client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            return True
        except BlockingIOError:
            pass
        except OSError:
            return True  # whoever reads will say what it is
        patience = time.monotonic() + _FIRST_BYTE
        link = self.link.worker_end
        while (self.alive and not self.drain.draining) or time.monotonic() < patience:
            sources: list[Any] = [client] if link.closed else [client, link]
            ready, _, _ = select.select(sources, [], [], 1.0)
            if client in ready:
                return True
            if ready:
                self.read_link()
        return False

    def handle_request(self, listener: Any, req: Any, client: Any, addr: Any) -> Any:
        entry = self.begin_request(req)
        try:
            return super().handle_request(listener, req, client, addr)
        finally:
            self.end_request(entry)
