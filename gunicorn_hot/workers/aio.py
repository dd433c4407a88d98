"""What the hot workers on an asyncio event loop (asyncio's own, or uvloop) have in common.

All that concerns the master happens on the loop's thread: the link is read by a reader of the loop, and connections
are accepted here and not by the loop's own servers, which ask nobody: after a pause that came while the application
kept the loop busy, they would accept once more. What an accepted connection speaks is the adapter's protocol class."""

from __future__ import annotations

import _socket
import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from gunicorn_hot import app
from gunicorn_hot.link import ACCEPTING
from gunicorn_hot.workers.base import NO_DESCRIPTORS, NOBODY_WAITS, HotWorker
from gunicorn_hot.workers.lifespan import Lifespan, LifespanFailed

_TICK = 1.0
#: Connections taken at once, as asyncio's servers do; and s to wait when there are no descriptors left.
_ACCEPTS = 100
_REST = 1.0
#: s; what a draining worker gives a client for its TLS handshake and its first byte, beyond the time that an idle
#: connection is kept: it may have been accepted only now. As in the other workers.
_FIRST_BYTE = 5.0
#: s; how long a client may take to close a connection that we have ended, as in gunicorn's `util.close_graceful`.
_LINGER = 2.0
_LINGER_READ = 65536
#: s after what is left was cut: for websockets to take their leave, for the application to shut down, for its tasks to
#: be cancelled; and for all of that, should the application keep the loop busy. The master kills after 5.
_GOODBYE = 1.0
_LAST_SHUTDOWN = 2.0
_LAST_CANCEL = 0.5
_QUIT = 4


class _Client(socket.socket):
    """An accepted connection, at half the price: Python's own class asks for enumerations that nobody needs here, and
    its `accept` makes two more of them. The loops call these by way of that class; what they get is what it wraps."""

    __slots__ = ()  # what it has are those of Python's class

    __init__ = _socket.socket.__init__
    family = _socket.socket.family  # type: ignore[assignment]
    type = _socket.socket.type  # type: ignore[assignment]
    detach = _socket.socket.detach


class AioWorker(HotWorker):
    """Mixed into a gunicorn worker class that runs an event loop, before it.

    The adapter makes the protocols, keeps `connections`, and calls `on_connection_lost`."""

    # For the reason that the base has.
    __slots__ = (
        "_arriving", "_ended_at", "_has_said_ready", "_idle_timer", "_is_open", "_is_quitting", "_is_resting",
        "_is_stopping", "_is_terminated", "_lifespan", "_lingering", "_link_fd", "_news", "_tls", "_watched",
        "connections", "drains_since",
    )

    loop: Any
    #: The open connections' protocols; those that are still in their TLS handshake are not among them.
    connections: set[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connections = set()
        self._news: asyncio.Event | None = None
        self._lifespan: Lifespan | None = None
        self._tls: Any = None
        #: Readers of the loop: listeners by descriptor, and the link.
        self._watched: dict[int, Any] = {}
        self._link_fd: int | None = None
        self._is_open = self._is_resting = False
        self._has_said_ready = False
        #: What makes their transports, by what it waits for: of connections that have none yet, or are in their TLS
        #: handshake.
        self._arriving: dict[Any, Any] = {}
        self._lingering: dict[int, tuple[Any, Any]] = {}
        #: SIGTERM came; SIGQUIT or SIGINT came; the first of them was acted on.
        self._is_terminated = self._is_quitting = self._is_stopping = False
        #: When all open connections were first seen to be ended by us.
        self._ended_at: float | None = None
        self._idle_timer: Any = None
        #: Since when this worker drains.
        self.drains_since = 0.0

    # --- what an adapter says

    def make_loop(self) -> Any:
        """Return the event loop to run, not yet running."""
        raise NotImplementedError

    def make_lifespan(self) -> Lifespan:
        """On the loop, with the application loaded."""
        raise NotImplementedError

    def root_path(self) -> str:
        """Return the part of every path that belongs to no application."""
        raise NotImplementedError

    def make_tls(self) -> Any:
        """Return the context for TLS, or None."""
        raise NotImplementedError

    def protocol_factory(self) -> Callable[[], Any]:
        """Return what makes the protocol of a new connection."""
        raise NotImplementedError

    def keep_alive(self) -> float:
        """Seconds that an idle connection is kept."""
        raise NotImplementedError

    def idle_since(self, connection: Any) -> float | None:
        """Since when the connection, which has no timer of its own, waits for the first byte of a request.

        None if it does not: it is one with a request under way, or it will end by itself."""
        raise NotImplementedError

    def has_asked(self, connection: Any) -> bool:
        """Whether a request has ever come on a connection of which `idle_since` is known."""
        return False

    def close_idle(self, connection: Any) -> None:
        """End a connection of which `idle_since` is known."""
        raise NotImplementedError

    def stop_connection(self, connection: Any) -> None:
        """The worker was stopped by SIGTERM: close the connection as soon as nothing is under way on it."""
        if self.idle_since(connection) is not None:
            self.close_idle(connection)

    def restart_websocket(self, connection: Any) -> bool:
        """Close the connection with 1012 (Service Restart), if it is a websocket's; return whether it is."""
        raise NotImplementedError

    def abandon(self, connection: Any) -> None:
        """What is left is cut now: see to it that the connection's client gets no answer to that, but an end."""

    def has_left(self, connection: Any) -> bool:
        """Whether the connection has ended, and, as far as is known, what the application does for it."""
        return connection not in self.connections

    def is_idle(self) -> bool:
        """Whether nothing is left to do, without any connection."""
        return True

    def on_tick(self) -> None:
        """Called once a second, and when something has happened."""

    # --- the worker's life

    def init_signals(self) -> None:
        # gunicorn's own, which act at once, in every phase. The stock workers' wait for the event loop.
        Worker.init_signals(self)
        signal.signal(signal.SIGURG, signal.SIG_DFL)
        signal.signal(signal.SIGUSR2, self.handle_orphaned)
        signal.siginterrupt(signal.SIGUSR2, False)

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._is_terminated = True
        self.alive = False
        self.wake()
        app.announce()

    def handle_quit(self, sig: int, frame: Any) -> None:
        if self._news is None:
            return super().handle_quit(sig, frame)
        self.report_cut()
        was_alive, self.alive = self.alive, False
        if not self._is_quitting:
            self._is_quitting = True
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_QUIT)
        if was_alive:
            self.cfg.worker_int(self)
        self.wake()

    def wake(self) -> None:
        """Let the main coroutine look at what has happened; from anywhere, a signal handler too."""
        if self._news is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._news.set)

    def _on_signal(self) -> None:
        os.read(self.PIPE[0], 4096)

    def run(self) -> None:
        loop = self.loop = self.make_loop()
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._serve())
        except LifespanFailed as exc:
            self.log.error("ASGI lifespan startup failed: %s", exc)
            # A framework says it with a traceback; its last line is the reason.
            self.tell_failure(f"lifespan startup failed: {str(exc).strip().splitlines()[-1]}", str(exc))
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        except BaseException as exc:
            if self._has_said_ready:
                raise
            self._tell_why(exc)
            if not isinstance(exc, Exception):
                raise
            self.log.exception("Exception in worker process")
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        finally:
            self._close_loop()

    def _close_loop(self) -> None:
        loop = self.loop
        try:
            if self.leaves_at_once:
                for connection in list(self.connections):
                    self.abandon(connection)
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                # A task may refuse; what was cut cannot hold us up, nor can the threads that it waits for.
                timeout = _LAST_CANCEL if self.leaves_at_once else None
                done, _ = loop.run_until_complete(asyncio.wait(tasks, timeout=timeout))
                for task in done:
                    if not task.cancelled() and task.exception() is not None:
                        self.log.debug("Cleanup error: %s", task.exception())
            if not self.leaves_at_once:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
        except Exception as exc:
            self.log.debug("Cleanup error: %s", exc)
        finally:
            loop.close()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        # The interpreter writes there for each signal: one that comes just before the loop waits ends the wait.
        self.loop.add_reader(self.PIPE[0], self._on_signal)
        if await self._start() and await self._pass_gate():
            await self._work()
        await self._shut_down()

    async def _start(self) -> bool:
        """Start the application; False if this worker was stopped meanwhile."""
        self.prepare()
        self._tls = self.make_tls()
        self._lifespan = self.make_lifespan()
        app.use_loop(self.loop)
        if not await self._unless_stopped(self._start_up(self._lifespan)):
            return False
        lifespan = self._lifespan
        return await self._unless_stopped(self.become_ready(lifespan.app, lifespan.state, self.root_path()))

    async def _start_up(self, lifespan: Lifespan) -> None:
        self.log.debug("%s", await lifespan.startup())

    async def _unless_stopped(self, work: Any) -> bool:
        """Await `work`; returns False if this worker was stopped meanwhile."""
        task = self.loop.create_task(work)
        task.add_done_callback(self._on_done)
        while self.alive and not task.done():
            await self._wait(_TICK)
        if not task.done():
            task.cancel()
            return False
        task.result()
        return True

    def prepare(self) -> None:
        """Called on the loop before the application's startup. May raise."""

    async def _pass_gate(self) -> bool:
        """As `pass_gate`, while the application's own tasks go on."""
        end = self.link.worker_end
        self._has_said_ready = True
        self.say_ready()
        if not end.closed:
            self._link_fd = end.fileno()
            self.loop.add_reader(self._link_fd, self._on_link)
        while self.alive:
            self.read_link()
            if self.gate_open:
                self.leave_gate()
                return True
            if end.closed:
                return False
            self.notify()
            self.on_tick()
            await self._wait(_TICK)
        return False

    async def _work(self) -> None:
        self._is_open = True
        self._follow()
        drain = self.drain
        #: The end of what the application does because of the drain.
        callbacks: Any = None
        while not self._is_quitting:
            now = time.monotonic()
            if not self.alive and not self._is_stopping:
                self._stop(now)
            self.notify()
            self.on_tick()
            if not drain.accepting:
                self.show_in_flight()
            if not (drain.draining and self._is_empty(now)):
                callbacks = None
            elif callbacks is None:
                callbacks = self.loop.create_task(app.callbacks_ended())
                callbacks.add_done_callback(self._on_done)
            elif callbacks.done():
                return
            if drain.overdue(now):
                break
            await self._wait(drain.wait(now, _TICK))
        await self._cut()

    def _stop(self, now: float) -> None:
        """The worker was stopped, or has served its `max_requests`: finish, as long as a SIGTERM's grace lasts."""
        self._is_stopping = True
        self.begin_to_leave()
        # The master kills when that is over; websockets should be told before.
        timeout = self.cfg.graceful_timeout
        timeout -= min(_GOODBYE, timeout / 4)
        self.drain.drain(now, timeout)
        self.drain.deadline = min(self.drain.deadline or now + timeout, now + timeout)
        self._follow()
        if self._is_terminated:
            for connection in list(self.connections):
                self.stop_connection(connection)

    async def _cut(self) -> None:
        """The time is over: say so to whom it can be said."""
        self.report_cut()
        self._is_open = False
        self._follow()
        # Threads of what was cut may go on; a normal exit would wait for them.
        self.leaves_at_once = True
        websockets = [connection for connection in list(self.connections) if self.restart_websocket(connection)]
        deadline = time.monotonic() + _GOODBYE
        while (left := deadline - time.monotonic()) > 0:
            if not self._lingering and all(map(self.has_left, websockets)):
                break
            await self._wait(left)

    async def _shut_down(self) -> None:
        """Let the application shut down: until it has, or, after a cut, for a last moment."""
        if self._lifespan is None or (self._is_quitting and not self.drain.draining):
            return
        deadline = time.monotonic() + _LAST_SHUTDOWN if self.leaves_at_once else None
        task = self.loop.create_task(self._lifespan.shutdown(self.log.error))
        task.add_done_callback(self._on_done)
        while not task.done():
            self.notify()
            now = time.monotonic()
            patience = _TICK if deadline is None else min(_TICK, deadline - now)
            if patience <= 0 or (deadline is None and (self._is_quitting or self.drain.overdue(now))):
                self.log.warning("Cut: the application's shutdown (worker pid: %s)", self.pid)
                self.leaves_at_once = True
                return
            await self._wait(patience)
        if not task.cancelled() and task.exception() is not None:
            self.log.error("ASGI lifespan shutdown error: %s", task.exception())

    async def _wait(self, patience: float) -> None:
        """Wait until something happens, `patience` seconds at most."""
        news = self._news
        assert news is not None
        timer = self.loop.call_later(patience, news.set)
        await news.wait()
        timer.cancel()
        news.clear()

    def _on_done(self, _task: Any) -> None:
        assert self._news is not None
        self._news.set()

    # --- the master's orders

    def _on_link(self) -> None:
        self.read_link()
        # At once: a request that came with a pause is answered in the next turn of the loop.
        self._follow()

    def on_phase(self) -> None:
        # Perhaps in a signal handler, in the midst of the loop's own work.
        if self._news is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._follow)

    def close_listeners(self) -> None:
        self.loop.call_soon_threadsafe(self._close_listeners)

    def _close_listeners(self) -> None:
        self._is_open = False
        self._follow()
        super().close_listeners()

    def _follow(self) -> None:
        """Do what follows from the phase: read the listeners or not, and the link while there is one."""
        drain = self.drain
        accepts = drain.accepting and self.alive and self._is_open and not self._is_resting
        listeners: list[Any] = list(self.sockets) if accepts else []
        wanted = {listener.fileno(): listener for listener in listeners}
        for fd in [fd for fd in self._watched if fd not in wanted]:
            self.loop.remove_reader(fd)
            del self._watched[fd]
        for fd, listener in wanted.items():
            if fd not in self._watched:
                self.loop.add_reader(fd, self._acceptor(listener.sock))
                self._watched[fd] = listener
        if self.link.worker_end.closed and self._link_fd is not None:
            self.loop.remove_reader(self._link_fd)
            self._link_fd = None
        if drain.draining and self._idle_timer is None:
            self.drains_since = time.monotonic()
            self._idle_timer = self.loop.call_later(self.keep_alive(), self._close_idle)
        elif self._idle_timer is not None and not drain.draining:
            # After a rollback: it would come too soon in the next drain.
            self._idle_timer.cancel()
            self._idle_timer = None
        self._on_done(None)

    # --- connections

    def _acceptor(self, listener: Any) -> Callable[[], None]:
        """Return what accepts from a listening socket when that is readable.

        All that it needs is at hand: with uvloop a new connection costs little else, and a benchmark shows it."""
        accept, family, kind, proto = listener._accept, int(listener.family), int(listener.type), listener.proto
        board, may_accept, advance = self.board, self.may_accept, self._advance
        connect, make_protocol, tls = self.loop.connect_accepted_socket, self.protocol_factory(), self._tls

        def on_readable() -> None:
            # Until nobody waits, although to learn that is an exception. Connections that are taken in one turn of the
            # loop go on in step, and a turn that finds many requests is cheaper for each of them: taking them one
            # at a time cost asyncio 4 % of the throughput, for as long as they were kept.
            for _ in range(_ACCEPTS):
                board[ACCEPTING] = 1
                try:
                    if not (self.alive and may_accept()):
                        self._on_done(None)
                        return
                    fd, _address = accept()
                except OSError as exc:
                    self._on_accept_error(exc)
                    return
                finally:
                    board[ACCEPTING] = 0
                # Both loops make it non-blocking.
                client = _Client(family, kind, proto, fd)
                client._io_refs, client._closed = 0, False
                advance(connect(make_protocol, client, ssl=tls))

        return on_readable

    def _on_accept_error(self, exc: OSError) -> None:
        if exc.errno in NOBODY_WAITS:
            return
        if exc.errno not in NO_DESCRIPTORS:
            raise exc
        self.log.error("Cannot accept: %s; next try in %gs", exc, _REST)
        self._is_resting = True
        self._follow()
        self.loop.call_later(_REST, self._rested)

    def _rested(self) -> None:
        self._is_resting = False
        self._follow()

    def _advance(self, connecting: Any) -> None:
        """Go on with the making of a connection's transport. A task does no more than this, at a cost that a
        benchmark of new connections shows."""
        try:
            waiter = connecting.send(None)
            self._arriving[waiter] = connecting
            waiter.add_done_callback(self._on_arrived)
            return
        except StopIteration:
            pass
        except (OSError, asyncio.CancelledError) as exc:
            # A client that speaks no TLS, or has gone. The loop has closed the socket.
            self.log.debug("Connection lost in its handshake: %s", exc)
        except Exception:
            self.log.exception("Cannot serve a connection")
        if not self.drain.accepting:
            self._on_done(None)

    def _on_arrived(self, waiter: Any) -> None:
        self._advance(self._arriving.pop(waiter))

    def on_connection_lost(self, connection: Any, exc: Exception | None) -> None:
        """Called by a protocol when its connection has ended; nothing of its output is left in this process."""
        if not self.drain.accepting or self._is_quitting:
            if exc is None:
                self._linger(connection.transport)
            self._on_done(None)

    def _linger(self, transport: Any) -> None:
        """Read on for a while, so that no RST overtakes the response, and a request that crosses our end gets none
        (RFC 9112 9.6). Only while we close what clients would keep; TLS has a farewell of its own."""
        try:
            sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        except (OSError, AttributeError):
            return
        try:
            sock.setblocking(False)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()  # the client was quicker
            return
        fd = sock.fileno()
        self._lingering[fd] = sock, self.loop.call_later(_LINGER, self._end_linger, fd)
        self.loop.add_reader(fd, self._on_lingering, fd)

    def _on_lingering(self, fd: int) -> None:
        try:
            if self._lingering[fd][0].recv(_LINGER_READ):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._end_linger(fd)

    def _end_linger(self, fd: int) -> None:
        sock, timer = self._lingering.pop(fd)
        timer.cancel()
        self.loop.remove_reader(fd)
        sock.close()
        self._on_done(None)

    def _is_empty(self, now: float) -> bool:
        """Whether a draining worker holds nothing any more."""
        if self._arriving or self._lingering or not all(map(_is_ended, self.connections)):
            self._ended_at = None
            return False
        if not self.connections:
            return self.is_idle()
        # Only clients are left that do not close a connection that we have ended.
        self._ended_at = self._ended_at or now
        return now - self._ended_at >= _LINGER and self.is_idle()

    def _close_idle(self) -> None:
        """End the connections that had nothing to say for as long as idle ones are kept; other timers see to others."""
        self._idle_timer = None
        if not self.drain.draining:
            return
        now = time.monotonic()
        patience = self.keep_alive()
        left = patience or _TICK
        if self._arriving:
            rest = self.drains_since + patience + _FIRST_BYTE - now
            if rest > 0:
                left = min(left, rest)
            else:
                for waiter in list(self._arriving):
                    waiter.cancel()
        for connection in list(self.connections):
            since = self.idle_since(connection)
            if since is None:
                continue
            rest = since + patience - now
            if not self.has_asked(connection):
                rest += _FIRST_BYTE
            if rest > 0:
                left = min(left, rest)
            else:
                self.close_idle(connection)
        self._idle_timer = self.loop.call_later(max(left, 0.01), self._close_idle)


def _is_ended(connection: Any) -> bool:
    transport = connection.transport
    return bool(transport.is_closing()) and not transport.get_write_buffer_size()
