"""The hot twin of gunicorn's sync worker: one request at a time; what a client need not be waited for is not."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import time
from typing import Any

from gunicorn import http, util
from gunicorn.http.errors import NoMoreData
from gunicorn.workers.sync import SyncWorker as StockSyncWorker

from gunicorn_hot.link import ACCEPTING
from gunicorn_hot.workers import linger, tls
from gunicorn_hot.workers.base import BEAT, NO_DESCRIPTORS, NOBODY_WAITS, HotWorker

#: s; how long a draining worker waits for a client's TLS handshake, or its first byte. As gunicorn's gthread does.
_FIRST_BYTE = 5.0
#: s, when others are waiting for the worker to leave.
_LAST_LINGER = 0.1


class SyncWorker(HotWorker, StockSyncWorker):
    bypasses = ("accept", "wait")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Connections that we have ended and the client has not, by descriptor, and when we stop to wait for it; oldest
        #: first.
        self._lingering: dict[int, tuple[Any, float]] = {}
        self._most_lingering = 0

    def run(self) -> None:
        if not self.pass_gate():
            return
        self._most_lingering = linger.most()
        self.on_phase()
        super().run()
        self.begin_to_leave()
        self.on_phase()
        # Clients wait for the one that replaces a worker, and everybody for one whose time is over.
        is_late = self.nr >= self.max_requests or self._has_reported
        until = time.monotonic() + (_LAST_LINGER if is_late else linger.SECONDS)
        while self._lingering and (left := until - time.monotonic()) > 0:
            self.notify()
            self._wait(left)

    def run_for_one(self, timeout: float) -> None:
        if len(self.sockets) != 1:  # the only one was ended by a successor that has failed since
            return self.run_for_multiple(timeout)
        (listener,) = self.sockets
        drain = self.drain
        lingering = self._lingering
        beat_at = 0.0
        while self.alive and not (drain.draining and not lingering):
            now = time.monotonic()
            if now >= beat_at:
                beat_at = now + BEAT
                self.notify()
                if lingering:
                    self._wait(0)
            # As gunicorn does: accept until nobody waits, and only then pay for a wait.
            # The drain may be among what was read before the accept: then nothing would end a wait.
            if not self._accept_one(listener) and (lingering or not drain.draining):
                self._wait(timeout)

    def on_phase(self) -> None:
        #: The listeners by descriptor.
        self._listeners = {listener.fileno(): listener for listener in self.sockets}
        #: All that a wait looks at.
        self._poll = select.poll()
        self._watch(self.PIPE[0])
        if not self.link.worker_end.closed:
            self._watch(self.link.worker_end.fileno())
        if self.alive and self.drain.accepting:
            for fd in self._listeners:
                self._watch(fd)
        for fd in self._lingering:
            self._watch(fd)

    def _watch(self, fd: int) -> None:
        self._poll.register(fd, select.POLLIN)

    def run_for_multiple(self, timeout: float) -> None:
        while self.alive and not (self.drain.draining and not self._lingering):
            self.notify()
            for ready in self._wait(timeout):
                if ready in self._listeners:
                    self._accept_one(self._listeners[ready])

    def _wait(self, timeout: float) -> list[int]:
        """Wait for a connection, a signal, the master, or the end of one that lingers; return what is readable."""
        if self._lingering:
            timeout = min(timeout, self._end_late())
        ready = [fd for fd, _ in self._poll.poll(timeout * 1000)]
        for fd in ready:
            if fd in self._lingering:
                if linger.is_over(self._lingering[fd][0]):
                    self._end(fd)
            elif fd == self.PIPE[0]:
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
            if exc.errno in NO_DESCRIPTORS and self._lingering:
                for fd in list(self._lingering):
                    self._end(fd)
            elif exc.errno not in NOBODY_WAITS:
                raise
            return False
        finally:
            board[ACCEPTING] = 0
        client.setblocking(True)
        util.close_on_exec(client)
        self.handle(listener, client, addr)
        return True

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        # As gunicorn's from 25.3 to 27, but for what a drain does not wait for, and the last line.
        req = None
        try:
            patience = time.monotonic() + _FIRST_BYTE
            if self.cfg.is_ssl:
                client = tls.wrap(client, self.cfg)
                if not self._shake_hands(client, patience):
                    return
            if not self._speaks(client, patience):
                return
            parser = http.get_parser(self.cfg, client, addr)
            req = next(parser)
            self.handle_request(listener, req, client, addr)
        except NoMoreData as exc:
            self.log.debug("Ignored premature client disconnection. %s", exc)
        except StopIteration as exc:
            self.log.debug("Closing connection. %s", exc)
        except ssl.SSLError as exc:
            if exc.args[0] == ssl.SSL_ERROR_EOF:
                self.log.debug("ssl connection closed")
            else:
                self.log.debug("Error processing SSL request.")
                self.handle_error(req, client, addr, exc)
        except OSError as exc:
            if exc.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                self.log.debug("Ignoring a connection that has ended: %s", exc)
            else:
                self.log.exception("Socket error processing request.")
        except BaseException as exc:
            self.handle_error(req, client, addr, exc)
        finally:
            self._linger(client)

    def _shake_hands(self, client: ssl.SSLSocket, patience: float) -> bool:
        client.setblocking(False)
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                if not self._hears(client, patience):
                    return False
        client.setblocking(True)
        return True

    def _speaks(self, client: socket.socket, patience: float) -> bool:
        """Wait for the first byte; returns False for a client that has nothing to say while this worker drains."""
        try:
            # Not the method of a TLS socket, which has no flags: that there is something is all we want to know.
            socket.socket.recv(client, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            return True
        except BlockingIOError:
            return self._hears(client, patience)
        except OSError:
            return True  # whoever reads will say what it is

    def _hears(self, client: socket.socket, patience: float) -> bool:
        """Wait until there is something to read; returns False when this worker drains and its patience is at an end.

        No heartbeats meanwhile: before a drain gunicorn's `timeout` ends such a wait, as in its own worker."""
        link = self.link.worker_end
        while (self.alive and not self.drain.draining) or time.monotonic() < patience:
            poll = select.poll()
            poll.register(client, select.POLLIN)
            if not link.closed:
                poll.register(link, select.POLLIN)
            ready = [fd for fd, _ in poll.poll(1000)]
            if client.fileno() in ready:
                return True
            if ready:
                self.read_link()
        return False

    def _linger(self, client: Any) -> None:
        try:
            linger.begin(client)
        except (OSError, ValueError):
            util.close(client)
            return
        if len(self._lingering) >= self._most_lingering:
            self._end(next(iter(self._lingering)))
        fd = client.fileno()
        self._lingering[fd] = client, time.monotonic() + linger.SECONDS
        self._watch(fd)

    def _end_late(self) -> float:
        """Close the lingering connections whose time is over; returns in how many seconds the next one's will be."""
        now = time.monotonic()
        for fd, (_, until) in list(self._lingering.items()):
            if until > now:
                return until - now
            self._end(fd)
        return 0.0  # there is none: a drain may be at its end

    def _end(self, fd: int) -> None:
        client, _ = self._lingering.pop(fd)
        try:
            self._poll.unregister(fd)
        except KeyError:
            pass  # a signal handler has just made a new one (on_phase), without it
        util.close(client)

    def handle_request(self, listener: Any, req: Any, client: Any, addr: Any) -> Any:
        entry = self.begin_request(req)
        if self.nr + 1 >= self.max_requests:
            self.begin_to_leave()  # it may be a long one
        try:
            return super().handle_request(listener, req, client, addr)
        finally:
            self.end_request(entry)
