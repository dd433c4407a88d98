"""What every hot worker has: the link to its master, the gate, and the requests in flight."""

from __future__ import annotations

import ctypes
import errno
import gc
import math
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from gunicorn.http.wsgi import Response
from gunicorn.sock import ssl_context

from gunicorn_hot import app, holds, listeners, priority, settings
from gunicorn_hot.drain import Drain, InFlight
from gunicorn_hot.link import DRAINS, IN_FLIGHT, SENT, Link
from gunicorn_hot.workers.numbering import number_wsgi
from gunicorn_hot.workers.pipeline import more_received

if TYPE_CHECKING:
    from gunicorn.workers.base import Worker as _Base
else:
    _Base = object

_REASON_BYTES = 8192
_PR_SET_PDEATHSIG = 1
#: Made in the master: each worker would pay for its own.
_prctl: Any = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_ORPHAN_GRACE_SECONDS = 2
#: s; a heartbeat costs a system call, and its master looks for one once a second: more often than this is waste.
BEAT = 0.01
#: What an accept says that has found no connection. EINVAL: a successor that had no use for the listener ended it.
NOBODY_WAITS = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED, errno.EINVAL)
#: What it says for which there are no means left.
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

#: The hot worker that this process is, or None in a master.
current: HotWorker | None = None


def _same(value: Any) -> Any:
    return value


class HotWorker(_Base):
    """Mixed into a gunicorn worker class, before it.

    The adapter of each worker type overrides `run`: it calls `pass_gate` first, then waits for its events in its own
    way, calls `read_link` when the link is readable, sets ACCEPTING on the `board` and asks `may_accept` before it
    accepts, and asks `drain` whether it is done."""

    #: Whether `pause` and `resume` are obeyed. A class that cannot is drained by SIGTERM alone.
    can_pause = True
    #: Why not.
    why_not = ""
    #: Methods of the stock class that its twin does not call any more: to override one of them would have no effect.
    bypasses: ClassVar[tuple[str, ...]] = ()
    #: Set in the master before it forks: others serve while this worker loads the application.
    loads_beside_others: ClassVar[bool] = False

    if TYPE_CHECKING:
        pid: int  # type: ignore[assignment]

    # An instance with more than 30 attributes in its dictionary, of which gunicorn has up to 27, would lose CPython's
    # fast way to all of them, which a request takes some hundred times. So the twin's own are slots, and what only
    # a few workers ever set, or only a master, is a default of the class.
    __slots__ = (
        "_is_leaving", "_read_again", "_reading", "_received", "_recycle_at",
        "board", "drain", "gate_open", "in_flight", "link",
    )

    #: In the master: the worker has said that it is ready.
    is_ready = False
    #: In the master: the number of the last pause that it has answered; a busy one answers after its request.
    answered_pause = 0
    #: In the master: which of its sockets this worker accepts from, with reuse_port.
    slots: frozenset[int] = frozenset()
    #: In the master: why it could not boot, in its own words.
    failure: str | None = None
    #: In the master: the traceback of that.
    output = ""
    #: Set when it leaves with connections open: a normal exit would wait for the threads that serve them.
    leaves_at_once = False
    #: What it has told its master to wait for, and in the master: what it was told.
    waits = ""
    _has_reported = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # In the master, before the fork.
        super().__init__(*args, **kwargs)
        self.link = Link()
        self.drain = Drain(more_received)
        self.board = self.link.board
        self.in_flight: set[InFlight] = set()
        self.gate_open = False
        #: Messages read from the link, modulo 256: what SENT says when there is nothing to read.
        self._received = 0
        self._reading = self._read_again = False
        self._is_leaving = False
        #: `max_requests`, while a hold keeps this worker from being recycled.
        self._recycle_at: int | None = None

    # --- booting

    def init_process(self) -> None:
        global current
        current = self
        app.enter(self)
        try:
            super().init_process()
        except BaseException as exc:
            if not self.booted:
                self._tell_why(exc)
            raise
        if not self.leaves_at_once:
            app.wait_for_callbacks()

    def _tell_why(self, exc: BaseException) -> None:
        output = traceback.format_exc()
        if isinstance(exc, holds.NotReady):
            reason, output = str(exc), ""
        elif isinstance(exc, SystemExit):
            reason = f"exited with code {exc.code or 0} while it loaded the application"
        else:
            reason = "".join(traceback.format_exception_only(type(exc), exc)).strip()
        self.tell_failure(reason, output)

    def tell_failure(self, reason: str, output: str) -> None:
        """Tell the master why this worker cannot boot; `output`: what its application has to say about that."""
        self.link.worker_end.send("failed", reason=reason[-_REASON_BYTES:], output=output[-_REASON_BYTES:])

    def load_wsgi(self) -> None:
        # Here, because a change of user or group would have cleared it.
        self._die_with_master(signal.SIGKILL)
        if self.cfg.is_ssl:
            # gunicorn reads the certificate with each connection: clients would be the first to notice a bad one.
            ssl_context(self.cfg)
        if self.loads_beside_others:
            priority.step_back()
        number_wsgi(app.generation())
        super().load_wsgi()

    def _die_with_master(self, sig: int) -> None:
        """Let the kernel send `sig` when the master dies. Linux only.

        A worker that loads the application reads no link, and one that hangs in it never will."""
        if _prctl is None:
            return
        _prctl(_PR_SET_PDEATHSIG, int(sig))
        if os.getppid() != self.ppid:
            os.kill(os.getpid(), sig)

    def pass_gate(self) -> bool:
        """Become ready, say so, and wait until the master opens the gate; heartbeats go on.

        Returns False when it never will: the worker was stopped, or its master died. Raises NotReady when the
        application says that it cannot be ready: the boot has failed then, as if it could not be loaded."""
        self.booted = False
        if not self.wait_until_released():
            return False
        if self.cfg.hot_check is not None:
            from gunicorn_hot import check

            self.say_waiting(check.what(self.cfg.hot_check))
            check.run(self)
        self.booted = True
        self.say_ready()
        while self.alive and not self.link.worker_end.closed:
            self.read_link()
            if self.gate_open:
                self.leave_gate()
                return True
            self._wait_for_news()
        return False

    # The steps of `pass_gate`, for workers that take them in an event loop.

    def wait_until_released(self) -> bool:
        """Wait until the application holds this worker no longer. Returns False when it was stopped meanwhile.

        Raises NotReady when the application gives up."""
        holds.wake_with(self._wake)
        while (held := holds.held_by()) is not None:
            self.say_waiting(held)
            self._wait_for_news()
            self.read_link()
            if not self.alive or self.link.worker_end.closed:
                return False
        return True

    def say_waiting(self, what: str) -> None:
        """Tell the master what keeps this worker from being ready, for the case that it takes too long."""
        if what != self.waits:
            self.waits = what
            self.link.worker_end.send("waiting", what=what)

    def say_ready(self) -> None:
        """Tell the master that this worker is ready, and that it waits for the gate."""
        holds.end()
        priority.step_forward()
        self.link.worker_end.send("ready")

    async def become_ready(self, application: Any, state: dict[str, Any] | None = None, root_path: str = "") -> None:
        """Do on the event loop what must be done before `say_ready`: wait for the holds, and check.

        For a task beside the one that says heartbeats. Raises NotReady."""
        await holds.released(self.say_waiting)
        if self.cfg.hot_check is not None:
            from gunicorn_hot import check

            self.say_waiting(check.what(self.cfg.hot_check))
            await check.run_async(self, application, state=state, root_path=root_path)

    def leave_gate(self) -> None:
        """The gate is open: from now on the master's death is an order to drain, also to a worker that is too busy to
        read its link."""
        self._die_with_master(signal.SIGUSR2)

    def _wait_for_news(self) -> None:
        """Wait for the master, a signal, or the application; at most until the next heartbeat is due."""
        self.notify()
        sources: list[Any] = [self.link.worker_end, self.PIPE[0]]
        ready, _, _ = select.select(sources, [], [], self.timeout or 1.0)
        if self.PIPE[0] in ready:
            os.read(self.PIPE[0], 4096)

    def _wake(self) -> None:
        """End the wait of the main thread, or greenlet; from any other."""
        try:
            os.write(self.PIPE[1], b".")
        except OSError:
            pass  # it is full: the wait will end anyway

    # --- the master's orders

    def may_accept(self) -> bool:
        """Whether the master has no objection, at this moment; ACCEPTING must have been set on the board before."""
        if self.board[SENT] != self._received:
            self.read_link()
        return self.drain.accepting

    def read_link(self) -> None:
        """Obey what the master has said; never waits."""
        if self._reading:  # a signal handler has interrupted a call of this
            self._read_again = True
            return
        self._reading = True
        try:
            self._read_again = False
            end = self.link.worker_end
            for message in end.receive():
                self._received = (self._received + 1) % 256
                if message.type == "pause":
                    self.drain.pause()
                    self.show_in_flight()
                    self.on_phase()
                    end.send("paused", number=message.fields.get("number"))
                elif message.type == "resume":
                    # A successor that had committed may have ended some of them.
                    self.sockets = [listener for listener in self.sockets if listeners.is_listening(listener)]
                    self.drain.resume()
                    app.take_back()
                    self._is_leaving = False
                    self.on_phase()
                elif message.type == "drain":
                    # The master ends the drain, by SIGQUIT: this worker's own deadline is only for a master that dies.
                    self._start_drain(float(message.fields["timeout"]) + _ORPHAN_GRACE_SECONDS)
                elif message.type == "open":
                    self.gate_open = True
                elif message.type == "hold":
                    self._recycle_at = self._recycle_at or self.max_requests
                    self.max_requests = sys.maxsize
                elif message.type == "release" and self._recycle_at is not None:
                    self.max_requests, self._recycle_at = self._recycle_at, None
            if end.closed:
                self.on_phase()
            if end.closed and self.gate_open and not self.drain.draining:
                # The master died. What we hold is finished, and nobody is left to bound that but the kernel.
                timeout = settings.drain_timeout(self.cfg)
                self.log.info("Master is gone, draining for %gs at most: %s", timeout, self)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(math.ceil(timeout) + _ORPHAN_GRACE_SECONDS)
                self._start_drain(timeout)
                # Nobody can tell us to resume, and whoever starts the service anew wants the addresses.
                self.close_listeners()
        finally:
            self._reading = False
        if self._read_again:
            self.read_link()

    def _start_drain(self, timeout: float) -> None:
        self.drain.drain(time.monotonic(), timeout)
        self.show_in_flight()
        self.on_phase()
        self.begin_to_leave()

    def begin_to_leave(self) -> None:
        """Tell the application, and the hook, that this worker drains, or was stopped, or has served its
        `max_requests`; once. On the main thread."""
        app.announce()
        if self._is_leaving:
            return
        self._is_leaving = True
        try:
            self.cfg.on_drain(self)
        except Exception:
            self.log.exception("Exception in on_drain hook")

    def is_leaving(self) -> bool:
        """Whether this worker was told to drain or to stop; from any thread, also while nobody reads the link."""
        return self.board[DRAINS] != 0 or self.drain.draining or not self.alive

    def close_listeners(self) -> None:
        """Close this worker's copies of the listening sockets, for good."""
        sockets: list[Any] = list(self.sockets)
        self.sockets = []
        self.on_phase()
        for listener in sockets:
            # A request that has just been accepted still asks its listener for this.
            listener.getsockname = partial(_same, listener.getsockname())
            listener.close()

    def on_phase(self) -> None:
        """Called when `drain` has changed its phase, the listeners have changed, or the link has ended."""

    def is_parent_alive(self) -> bool:
        # gunicorn's workers compare parent pids, and leave at once; ours get EOF on the link, and drain.
        return True

    # --- requests

    def begin_request(self, request: Any) -> InFlight:
        """Note that `request` is being answered; `end_request` takes what this returns.

        Every response that is begun from the pause on says that the connection will close; pipelined ones: the last."""
        drain = self.drain
        entry = InFlight(request, drain, time.monotonic())
        request.should_close = entry
        self.in_flight.add(entry)
        if not drain.accepting:
            self.show_in_flight()
        return entry

    def end_request(self, entry: InFlight) -> None:
        self.in_flight.discard(entry)
        entry.end()
        if not self.drain.accepting:
            self.show_in_flight()

    def show_in_flight(self) -> None:
        self.board[IN_FLIGHT] = min(len(self.in_flight), 255)

    def under_way(self) -> list[tuple[Any, ...]]:
        """Return the requests that are being answered: method, path, when each began, on the monotonic clock, and, if
        that is known, words for how many bytes of its answer were sent."""
        entries = list(self.in_flight)
        sent = self.bytes_sent([entry.request for entry in entries]) if entries else {}
        return [
            (getattr(entry.request, "method", "?"), getattr(entry.request, "uri", "?"), entry.started)
            + ((f"{sent[id(entry.request)]} bytes sent",) if id(entry.request) in sent else ())
            for entry in entries
        ]

    def report_cut(self, waiting: Sequence[str] = ()) -> None:
        """Log each request that is cut because this worker leaves now; once, whoever notices the deadline first.

        `waiting`: the words for those that it has received, and never begun."""
        if self._has_reported:
            return
        self._has_reported = True
        now = time.monotonic()
        cut = self.under_way()
        for method, path, started, *sent in cut:
            of_it = "".join(f", {words}" for words in sent)
            self.log.warning("Cut: %s %s after %.1fs%s (worker pid: %s)", method, path, now - started, of_it, self.pid)
        for words in waiting:
            self.log.warning("Cut: %s, which was never begun (worker pid: %s)", words, self.pid)
        if cut or waiting:
            self.leaves_at_once = True
            self.link.worker_end.send("cut", count=len(cut) + len(waiting))

    def bytes_sent(self, requests: list[Any]) -> dict[int, int]:
        """Return, by a request's identity, how many bytes of its answer's body were written, where that is known."""
        # Nobody has noted the answers: that would cost each request something. They are found once, when it matters.
        wanted = set(map(id, requests))
        sent = {}
        for found in gc.get_objects():
            # By its type: an isinstance would ask the proxies of the application who they are.
            is_one = issubclass(type(found), Response) and id(found.req) in wanted
            # gunicorn does not count what the kernel copies from a file.
            if is_one and (found.sent or not found.headers_sent):
                sent[id(found.req)] = int(found.sent)
        return sent

    def init_signals(self) -> None:
        super().init_signals()
        # A request to the master, which this process was a copy of.
        signal.signal(signal.SIGURG, signal.SIG_DFL)
        signal.signal(signal.SIGUSR2, self.handle_orphaned)
        signal.siginterrupt(signal.SIGUSR2, False)

    def handle_orphaned(self, sig: int, frame: Any) -> None:
        """The master has died, or it has told a busy worker to drain.

        The latter only concerns the request under way, so it changes nothing here: the link tells the rest."""
        if self.board[DRAINS]:
            app.announce()
        if not self.board[DRAINS] or os.getppid() != self.ppid:
            self.read_link()

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        app.announce()

    def end_drain_now(self) -> bool:
        """The master's deadline has come: what is left to do is the main loop's. False if there is no drain to end."""
        if not (self.alive and self.drain.draining):
            return False
        self.cfg.worker_int(self)
        self.drain.deadline = time.monotonic()
        return True

    def handle_quit(self, sig: int, frame: Any) -> None:
        self.report_cut()
        super().handle_quit(sig, frame)
