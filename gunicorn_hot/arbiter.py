"""The one module that overrides gunicorn's Arbiter.

It turns signals, reaped children, messages and the clock into events, gives them to the machines of `handover`, and
performs the actions that come back. It decides nothing about an upgrade itself.
"""

from __future__ import annotations

import gc
import os
import queue
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gunicorn import util
from gunicorn.errors import HaltServer

from gunicorn_hot import (
    app,
    dirty,
    early_output,
    handover,
    holds,
    inheritance,
    listeners,
    pace,
    pidfile,
    private,
    request,
    settings,
    slots,
    supervisors,
)
from gunicorn_hot.handover import PredecessorState, SuccessorState, Then
from gunicorn_hot.keeper import Keeper
from gunicorn_hot.link import Link
from gunicorn_hot.predecessor import Predecessor
from gunicorn_hot.processes import in_words, reap, signal_name, wait
from gunicorn_hot.protocol import Message
from gunicorn_hot.reporter import Reporter
from gunicorn_hot.successor import Successor, command
from gunicorn_hot.systemd import Manager, Phase
from gunicorn_hot.wakeup import Wakeup
from gunicorn_hot.workers import base as workers_base
from gunicorn_hot.workers import twin

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter as _Base
    from gunicorn.glogging import Logger

    from gunicorn_hot.workers.base import HotWorker
else:
    _Base = object


def adopt(server: Any) -> None:
    """Turn a running arbiter into a hot one; called once, from `on_starting`, before it has workers.

    Raises OSError when the environment names a channel that is none."""
    if isinstance(server, HotArbiter):  # two parts of a configuration have asked for it
        return
    # Beside gunicorn's signals the one by which the command line asks; see `request`.
    signals = {
        "SIGNALS": [*server.SIGNALS, request.SIGNAL],
        "SIG_NAMES": {**server.SIG_NAMES, request.SIGNAL: "urg"},
    }
    server.__class__ = type(f"Hot{type(server).__name__}", (HotArbiter, type(server)), signals)
    server.become_hot()
    # What is loaded by now lives as long as the process. Out of the collector's sight it costs the workers neither time
    # nor copied pages; that buys back what our own modules add to the heap that every full collection walks.
    gc.collect()
    gc.freeze()


#: What a successor says; what a predecessor says is open, commit and upgrade.
_TO_PREDECESSOR = ("hello", "progress", "waiting", "ready", "opened", "committed", "failed", "leaving", "staying")
#: What still counts when its end comes in the same read.
_LAST_WORDS = ("hello", "failed", "leaving", "staying")
_RESPAWN_SECONDS = 5.0
#: s; in which gunicorn's quick stop should end, and the dirty arbiter after its workers.
_QUICK_STOP = 2.0
#: s; in which the kernel should have closed all that a process had open which was killed.
_DEATH = 1.0


class HotArbiter(_Base):
    """Mixed into the class of the running arbiter, before it."""

    if TYPE_CHECKING:
        log: Logger
        WORKERS: dict[int, HotWorker]  # type: ignore[misc,assignment]
        LISTENERS: list[Any]  # type: ignore[misc]
        _control_server: Any
        _get_control_socket_path: Any
        _stop_control_server: Any

    def become_hot(self) -> None:
        """Do what a constructor would have done."""
        # Again: the configuration file may have imported this package only inside its own on_starting.
        inheritance.claim(os.environ)
        self.START_CTX["args"] = command()
        # Where this process was started, not where `chdir` has taken it since: the command may name relative paths.
        self.START_CTX["cwd"] = self.cfg.settings["chdir"].default
        self.predecessor = Predecessor.of_this_process(self.master_pid)
        self.successor: Successor | None = None
        # gunicorn says READY=1 before it has workers; it finds no address to say that to.
        self.manager = Manager(os.environ.pop(Manager.VARIABLE, None))
        self.held = inheritance.held()
        self.generation = inheritance.generation()
        app.number(self.generation)
        self.keeper: Keeper | None = None
        self._keeps_pid = False
        #: `pidfile`, while gunicorn must not see it.
        self._pidfile_setting: str | None = None
        #: Whom a successor that has left has left the service to.
        self._heir = 0
        self._has_served = False
        self._decide_whose_pid()
        self.outgoing = handover.Predecessor(self._limits())
        self.incoming: handover.Successor | None = None
        self.wakeup_pipe = Wakeup()
        self._events: list[handover.Event] = []
        self._feeding = False
        self._stopping = False
        self._cut = 0
        #: Why the last upgrade has failed; empty if it has not.
        self._failure = ""
        #: What its application has written, if that was why.
        self._output = ""
        #: Pauses ordered so far: an answer to an earlier one counts for nothing.
        self._pauses = 0
        self._since = time.monotonic()
        self._gate_open = True
        #: The successor owns the sockets' files; what this master does with its copies is its own affair.
        self._handed_over = False
        #: Indices, in the predecessor's list, of sockets that this generation's configuration does not name.
        self._unused_listeners: list[int] = []
        #: The same in this master's own list, as its successor has said.
        self._to_end: list[int] = []
        #: The successor is only tried.
        self._is_check = False
        #: When a worker may be booted again, after one could not load the application.
        self._spawn_after = 0.0
        #: Pids of workers that this master has killed itself: their end is no riddle.
        self._killed: set[int] = set()
        self._is_up = False
        #: How fast workers are started while a predecessor serves; whether it still keeps some back.
        self._pace = pace.Pace()
        self._is_keeping_back = False
        #: What was last said to the predecessor about it.
        self._waits = ""
        #: Workers are booted because the operator wants more of them.
        self._growing = False
        self._last_title = ""
        #: What is heard of the dirty workers, if there are any.
        self._dirty: dirty.Reports | None = None
        #: When the dirty arbiter, which was told to stop, should have ended.
        self._dirty_ends: float | None = None
        dirty.let_report(self.cfg)
        self.reporter = Reporter(self)
        self._use_twin()
        self.slots = slots.Slots(self.cfg, self.log)
        # With preload_app the application may hold us: it was loaded before this.
        holds.wake_with(self.wakeup_pipe.wake)
        if self.predecessor is not None:
            # gunicorn reads it in start(), which is past that; workers and the application need not know.
            os.environ.pop("GUNICORN_PID", None)
            stock = self.predecessor.channel is None
            self.incoming = handover.Successor(stock=stock)
            told = inheritance.variables
            if (inherited := listeners.inherit(self.cfg, self.log, told, os.environ)) is not None:
                self.LISTENERS, self._unused_listeners = inherited
                self.systemd = listeners.ACTIVATED_VARIABLE in told
            self._gate_open = self.cfg.hot_cutover == "overlap" and not inheritance.is_check()
            if self.slots.used and not self.LISTENERS:
                os.environ.pop(listeners.DESCRIPTORS_VARIABLE, None)  # a stock gunicorn left an empty one
            if self.predecessor.channel is not None:
                self.wakeup_pipe.watch(self.predecessor.channel.fileno(), self._on_predecessor)
            elif (fd := self.predecessor.death()) is not None:
                self.wakeup_pipe.watch(fd, self._on_stock_predecessor_gone)
        slots.number(self.LISTENERS)
        if self.slots.used and not self.systemd and os.environ.get("LISTEN_PID") != str(os.getpid()):
            if self.LISTENERS and not slots.all_of(self.LISTENERS):
                self.log.warning("reuse_port needs a start without a predecessor: its socket was bound without that")
            self.LISTENERS = self.slots.open(self.LISTENERS, range(self.num_workers), self._gate_open)

    def _use_twin(self) -> None:
        self.worker_class = twin(self.worker_class)
        if not self.worker_class.can_pause:
            self.log.warning(
                "Worker class %s cannot pause (%s): in an upgrade old and new workers accept side by side until the "
                "commit, and the old ones are then drained by SIGTERM, by its own rules",
                self.cfg.worker_class_str,
                self.worker_class.why_not,
            )

    def _decide_whose_pid(self) -> None:
        if self.held is not None:
            return  # by the first master
        self._spare_stock_predecessor()
        facts = supervisors.Facts.of_this_process(self.cfg, self.master_pid)
        keeps, reason = supervisors.decide(self.cfg.hot_pid, facts)
        self.log.info("hot_pid: %s, %s", "stable" if keeps else "follow", reason)
        if keeps:
            self.keeper = Keeper(self.cfg.hot_ready_timeout, self.manager.send)
            if self.cfg.hot_leave:
                self.log.warning("hot_leave has no effect: whoever watches this pid would miss the service")

    def _spare_stock_predecessor(self) -> None:
        """Exit with 1, before there is a worker, if somebody waits for a stock predecessor's pid."""
        stock = self.predecessor
        if stock is None or stock.channel is not None or not stock.is_parent:
            return
        who = supervisors.who_misses(self.cfg.hot_pid, supervisors.Facts.of_stock(self.cfg, stock.pid))
        if who:
            self.log.error(
                "Upgrade failed: the predecessor (pid: %s) is a stock gunicorn, whose pid cannot be kept: %s. It "
                "serves on. Restart the service once with this configuration; or, if whoever watches it goes by the "
                "pid file, set hot_pid to 'follow'",
                stock.pid,
                who,
            )
            raise SystemExit(1)

    def _come_up(self) -> None:
        """gunicorn's start() is behind us: there are sockets, and whoever waits for this master can be told so."""
        self._is_up = True
        if self.manager.address is not None:
            # Workers and the application may have something to say themselves.
            os.environ[Manager.VARIABLE] = self.manager.address
        if self.held is not None:
            self.wakeup_pipe.watch(self.held.fileno(), self._on_holder)
        early_output.release(inheritance.variables)
        self._tell("hello", pid=self.pid)

    def _limits(self) -> handover.Limits:
        cfg = self.cfg
        return handover.Limits(
            ready=cfg.hot_ready_timeout,
            probation=cfg.hot_probation,
            drain=settings.drain_timeout(cfg),
            leave=cfg.hot_leave and self.keeper is None and self.held is None,
            keeps_pid=self.keeper is not None,
        )

    # --- the two machines

    def feed(self, event: handover.Event) -> None:
        """Give an event to the machine that it concerns, and perform what it answers.

        An action may cause further events; they are taken in order, after the current actions are done."""
        self._events.append(event)
        if self._feeding or self._stopping:
            return
        self._feeding = True
        try:
            while self._events:
                self._step(self._events.pop(0))
        finally:
            self._feeding = False
            self._events.clear()
        self._show()

    def _step(self, event: handover.Event) -> None:
        machine: handover.Machine = self.outgoing
        if self._is_incoming and not isinstance(event, handover.SuccessorExited):
            assert self.incoming is not None
            machine = self.incoming
        before = machine.state
        try:
            actions = machine.step(event, time.monotonic())
        except handover.Unexpected as exc:
            self.log.error("Upgrade: ignored what cannot happen: %s", exc)
            return
        if machine.state is not before:
            self.log.debug("Upgrade: %s -> %s on %s", before.name, machine.state.name, event)
            if isinstance(before, PredecessorState):
                self.reporter.moved(before, self._state)
        for action in actions:
            self.perform(action)

    @property
    def _is_incoming(self) -> bool:
        """Whether this master has not taken over yet, so that what happens concerns its Successor machine."""
        return self.incoming is not None and self.incoming.state is not SuccessorState.SOLE

    @property
    def _state(self) -> PredecessorState:
        return self.outgoing.state

    def perform(self, action: handover.Action) -> None:
        """Do one action."""
        match action:
            case handover.Log(level, text):
                getattr(self.log, level)("%s", text)
            case handover.Tell(type, id):
                self._tell(type, **({"id": id} if id else {}))
            case handover.TellFailed(reason):
                self._tell("failed", reason=reason, output=self._output)
            case handover.Refuse(id, reason):
                self._refuse(id, reason)
            case handover.StartSuccessor(id, check):
                self._start_successor(id, check)
            case handover.EndSuccessor():
                self._signal_successor(signal.SIGTERM)
            case handover.KillSuccessor():
                self._signal_successor(signal.SIGKILL)
            case handover.PauseWorkers():
                self._pause_workers()
            case handover.ResumeWorkers():
                self._tell_workers("resume")
            case handover.DrainWorkers(timeout):
                self._drain_workers(timeout)
            case handover.CutWorkers():
                super().kill_workers(signal.SIGQUIT)
            case handover.KillWorkers():
                super().kill_workers(signal.SIGKILL)
            case handover.RestoreOwnership():
                self._restore_ownership()
            case handover.ReleaseOwnership():
                # The successor takes what there is: nothing is nobody's in between.
                self.reporter.releases()
            case handover.TakeOwnership():
                self._take_ownership()
            case handover.OpenGate():
                self._open_gate()
            case handover.EndPredecessor():
                assert self.predecessor is not None
                self.predecessor.terminate()
            case handover.RequestUpgrade(id):
                self._events.append(handover.UpgradeRequested(id))
            case handover.ReportReady():
                self._report_ready()
            case handover.ReportChecked():
                self._report_checked()
            case handover.ReportFailure(reason, aborted):
                self._report_failure(reason, aborted)
            case handover.Reload():
                super().handle_hup()
            case handover.Resize(how):
                self._growing = True
                try:
                    getattr(super(), f"handle_{how}")()
                finally:
                    self._growing = False
            case handover.Halt(reason):
                raise HaltServer(reason, self.WORKER_BOOT_ERROR)
            case handover.Stop(how):
                getattr(super(), f"handle_{how}")()
            case handover.ReportDone():
                self._report_done()
            case handover.StopService(how):
                self._stop_service(how)
            case handover.KeepPid():
                self._keeps_pid = True
            case handover.Leave():
                raise StopIteration
            case _:
                raise AssertionError(action)

    # --- the other master

    def _tell(self, type: str, **fields: Any) -> None:
        """Send a message to the peer that it is meant for: these to the predecessor, all others to the successor."""
        if type in _TO_PREDECESSOR:
            if self.predecessor is not None and self.predecessor.channel is not None:
                if type == "progress":
                    ready, total = self._counts()
                    loading = [pid for pid, worker in self.WORKERS.items() if not worker.is_ready]
                    fields = {"ready": ready, "total": total, "loading": loading}
                elif type == "committed":
                    fields = {"unused": self._unused_listeners}
                elif type == "leaving" and self.successor is not None:
                    fields = {"successor": self.successor.pid}
                self.predecessor.channel.send(type, **fields)
        elif self.successor is not None:
            self.successor.channel.send(type, **fields)

    def _start_successor(self, id: str, check: bool) -> None:
        self._since = time.monotonic()
        self._output = ""
        self._is_check = check
        if check:
            self.log.info("Upgrade check: would it work? Nothing changes hands")
        else:
            self._failure = ""
        self.reporter.began(id, check)
        if self.cfg.pidfile is not None:
            # Ours, if it could not be removed at our commit; the successor would take it for another service's.
            _try(self.log, pidfile.remove, self.cfg.pidfile + ".2", self.pid)
        hold = None
        try:
            hold = self._hold_successor()
            self.successor = Successor.start(self, self.generation + 1, hold, self.reporter.path, check)
        except OSError as exc:
            self._events.append(handover.SpawnFailed(str(exc)))
            return
        finally:
            if hold is not None:
                os.close(hold)
        self.reexec_pid = self.successor.pid
        # A worker recycled by max_requests would come back with the new release.
        self._tell_workers("hold")
        self.wakeup_pipe.watch(self.successor.channel.fileno(), self._on_successor)
        self._events.append(handover.SuccessorSpawned(self.successor.pid))

    def _signal_successor(self, sig: int) -> None:
        if self.successor is not None:
            self.successor.signal(sig)

    def _on_successor(self) -> None:
        """The channel to the successor is readable."""
        successor = self.successor
        assert successor is not None
        fd = successor.channel.fileno()
        messages = successor.channel.receive()
        if successor.channel.closed:
            self.wakeup_pipe.forget(fd)
            # What a dead peer wished for is void: only why it ended still counts. So READY and death in one read
            # is a death.
            messages = [message for message in messages if message.type in _LAST_WORDS]
        for message in messages:
            if self.successor is not successor:
                return  # it was found dead, and was reaped, because of what it has said before
            try:
                self._from_successor(message)
            except (ArithmeticError, LookupError, TypeError, ValueError) as exc:
                self.feed(handover.SuccessorFailed(f"its message {message.type!r} is not understood: {exc!r}"))
        if successor.channel.closed:
            self.feed(handover.SuccessorClosed(successor.channel.error))

    def _from_successor(self, message: Message) -> None:
        successor = self.successor
        assert successor is not None
        fields = message.fields
        if message.type == "hello":
            successor.greeted = True
            self.feed(handover.SuccessorGreeted())
        elif message.type == "progress":
            before = successor.ready
            successor.ready, successor.total = int(fields["ready"]), int(fields["total"])
            successor.loading = [int(pid) for pid in fields.get("loading", [])]
            if self._state is PredecessorState.BOOTING and successor.ready != before:
                what = "Upgrade check" if self._is_check else "Upgrade"
                self.log.info("%s: %s of %s workers ready", what, successor.ready, successor.total)
            self.feed(handover.SuccessorWaits(successor.lacks()))
        elif message.type == "waiting":
            successor.waits = str(fields["what"])
            self.feed(handover.SuccessorWaits(successor.lacks()))
        elif message.type == "ready":
            self.feed(handover.SuccessorReady())
        elif message.type == "opened":
            self.feed(handover.GateOpened())
        elif message.type == "committed":
            unused = {int(index) for index in fields.get("unused", [])}
            self._to_end = sorted(unused & set(range(len(self.LISTENERS))))
            self.feed(handover.SuccessorCommitted())
        elif message.type == "failed":
            self._output = str(fields.get("output", ""))
            self.feed(handover.SuccessorFailed(str(fields.get("reason", "for a reason that it did not say"))))
        elif message.type == "leaving":
            self._heir = int(fields.get("successor", 0))
            self.feed(handover.SuccessorLeft())
        elif message.type == "staying":
            self.feed(handover.SuccessorStayed())
        elif self.reporter.hear(message.type, fields, is_successor=True):
            self._show()
        else:
            self.log.debug("Upgrade: skipped a message of type %r", message.type)

    def _on_predecessor(self) -> None:
        """The channel to the predecessor is readable."""
        assert self.predecessor is not None
        channel = self.predecessor.channel
        assert channel is not None
        fd = channel.fileno()
        messages = channel.receive()
        if channel.closed:
            self.wakeup_pipe.forget(fd)
        for message in messages:
            self._from_predecessor(message)
        if channel.closed:
            if channel.error:
                self.log.warning("The channel to the predecessor broke: %s", channel.error)
            private.forget(self.predecessor)
            if self.held is not None and self.held.holder() == self.predecessor.pid and not self.reporter.was_left:
                # It has died, and the service's pid with it: there is nothing left to take over.
                self.held.wait_end(_DEATH)
                self._on_holder()
            was_served = not self._is_incoming
            self._feed_incoming(handover.PredecessorClosed())
            if was_served:
                self.reporter.predecessor_left()
            self._take_request()

    def _on_stock_predecessor_gone(self) -> None:
        assert self.predecessor is not None
        fd = self.predecessor.death()
        assert fd is not None
        self.wakeup_pipe.forget(fd)
        private.forget(self.predecessor)
        self.feed(handover.PredecessorClosed())

    # --- the service's pid, where it stays

    def _hold_successor(self) -> int | None:
        """Return a new descriptor, for a successor, of the channel to the process that has the service's pid.

        None: the service has its master's pid. Raises OSError."""
        if self.held is not None:
            return os.dup(self.held.fileno())
        if self.keeper is None:
            return None
        self._forget_held()
        self.keeper.pidfile = os.path.abspath(self.cfg.pidfile) if self.cfg.pidfile else ""
        fd = self.keeper.open()
        self.wakeup_pipe.watch(self.keeper.fileno(), self._on_held)
        return fd

    def _on_held(self) -> None:
        """The channel to the masters that are held by this one is readable, or at its end."""
        assert self.keeper is not None
        if not self.keeper.receive(time.monotonic()):
            self.wakeup_pipe.forget(self.keeper.fileno())

    def _forget_held(self) -> None:
        """What such a master says is of no interest any more."""
        if self.keeper is not None and self.keeper.is_open:
            self.wakeup_pipe.forget(self.keeper.fileno())
            self.keeper.hold.masters.clear()

    def _on_holder(self) -> None:
        """The channel to the holder may be at its end."""
        assert self.held is not None
        if self.held.has_ended():
            self.wakeup_pipe.forget(self.held.fileno())
            self.log.warning("The process that had the service's pid is gone, stopping")
            self.feed(handover.StopRequested("term"))

    def _announce(self) -> None:
        assert self.held is not None
        self.held.announce(self.pid, self.generation, str(self.cfg.proc_name), self.cfg.pidfile)

    def _stop_service(self, how: str) -> None:
        assert self.keeper is not None
        if self.keeper.is_open:
            self._on_held()
        self.manager.tell(Phase.STOPPING, "Stopping", time.monotonic())
        self.keeper.send(self.keeper.hold.signalled(getattr(signal, f"SIG{how.upper()}")))

    def _become_holder(self) -> None:
        """Go on as another program, with this pid; never returns."""
        assert self.keeper is not None
        self.log.info(
            "Upgrade: this process only keeps the service's pid from now on, for master with pid: %s",
            self.keeper.hold.master,
        )
        self.keeper.become_holder(self.log, self.SIG_QUEUE)

    def _end_listeners(self, indices: list[int]) -> None:
        """The committed successor has no use for these; whoever connects to them should be refused, and not wait."""
        for index in reversed(indices):
            listener = self.LISTENERS.pop(index)
            self.log.info("Upgrade: closing %s, which the successor does not serve", listener)
            listeners.end(listener)

    def _from_predecessor(self, message: Message) -> None:
        if message.type == "open":
            self._feed_incoming(handover.GateOrdered())
        elif message.type == "commit":
            self._feed_incoming(handover.CommitOrdered())
        elif message.type == "upgrade":
            self._feed_incoming(handover.UpgradeRequested(str(message.fields.get("id", ""))))
        elif self.reporter.hear(message.type, message.fields, is_successor=False):
            self._show()
        else:
            self.log.debug("Upgrade: skipped a message of type %r", message.type)

    def _feed_incoming(self, event: handover.Event) -> None:
        """Give what the predecessor did to the Successor machine; after the take-over that is a late word."""
        if self._is_incoming:
            self.feed(event)
            return
        assert self.incoming is not None
        for action in self.incoming.step(event, time.monotonic()):
            if isinstance(action, handover.RequestUpgrade):
                self.feed(handover.UpgradeRequested(action.id))
            else:
                self.perform(action)

    # --- the workers

    def spawn_worker(self) -> int:
        name, self.proc_name = self.proc_name, str(self.cfg.proc_name)
        workers_base.HotWorker.loads_beside_others = self._is_incoming and self._boot_limit() > 0
        everybodys, served = self.slots.next(self.LISTENERS, self._served_slots(), self.num_workers, self._gate_open)
        self.LISTENERS = slots.of_worker(everybodys, served)
        try:
            pid: int = super().spawn_worker()
        except OSError:
            Link.close_unforked()
            raise
        except SystemExit as exc:
            worker = workers_base.current
            if worker is not None and worker.leaves_at_once:
                # Threads are still busy with what was cut, and the interpreter would wait for them.
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(exc.code if isinstance(exc.code, int) else int(exc.code is not None))
            raise
        finally:
            # gunicorn calls a master that has not taken over "app.2"; its workers will outlive that.
            self.proc_name = name
            self.LISTENERS = everybodys
        worker = self.WORKERS[pid]
        worker.link.become_master()
        worker.slots = served
        self.wakeup_pipe.watch(worker.link.master_end.fileno(), lambda: self._on_worker(worker))
        if self._gate_open:
            worker.link.tell("open")
        return pid

    def _served_slots(self) -> list[frozenset[int]]:
        return [worker.slots for worker in self.WORKERS.values()]

    def spawn_workers(self) -> None:
        # gunicorn sleeps up to 0.1 s after each, so that workers do not start at the same instant.
        if time.monotonic() < self._spawn_after:
            return
        if self._is_held():
            return
        holds.end()
        for _ in range(self._workers_to_start()):
            if self.successor is not None and not self._growing:
                self.log.warning("Upgrade: a worker has died and is replaced; the new one loads what is deployed now")
            try:
                self.spawn_worker()
            except OSError as exc:
                self._spawn_after = time.monotonic() + _RESPAWN_SECONDS
                self.log.error("Cannot boot a worker: %s; next try in %gs", exc, _RESPAWN_SECONDS)
                return
            if self._is_incoming:
                self._count_workers()  # the predecessor should know who keeps it waiting

    def _boot_limit(self) -> int:
        limit: int | None = self.cfg.hot_boot_concurrency
        return pace.default_limit() if limit is None else limit

    def _workers_to_start(self) -> int:
        """Return how many of the missing workers to start now."""
        missing = self.num_workers - len(self.WORKERS)
        limit = self._boot_limit()
        if not limit or not self._is_incoming:
            # Nobody serves beside us, or fewer than there should: the missing ones are needed at once.
            return missing
        loading = [pid for pid, worker in self.WORKERS.items() if not worker.is_ready]
        room = pace.room(limit, len(loading), self._pace.demand(loading, time.monotonic()))
        self._is_keeping_back = room < missing
        return min(room, missing)

    def _is_held(self) -> bool:
        """Whether the application, which this master has preloaded, holds it: then no worker is forked yet."""
        try:
            held = holds.held_by()
        except holds.NotReady as exc:
            raise HaltServer(f"The application cannot be ready: {exc}", self.WORKER_BOOT_ERROR) from exc
        if held is None:
            return False
        if not self.WORKERS:
            limit = self.cfg.hot_ready_timeout
            if limit and time.monotonic() - self._since > limit and not self._is_bounded:
                raise HaltServer(f"Not ready in {limit:g}s (hot_ready_timeout): {held}", self.WORKER_BOOT_ERROR)
            self._tell_what_we_wait_for(f"the master is {held}")
        return True

    def _tell_what_we_wait_for(self, what: str) -> None:
        if what != self._waits:
            self._waits = what
            if what:
                self.log.info("Waiting: %s", what)
            if self._is_incoming:
                self._tell("waiting", what=what)

    @property
    def _is_bounded(self) -> bool:
        """Whether a hot predecessor's hot_ready_timeout bounds the boot of this whole generation."""
        return self.incoming is not None and self._is_incoming and not self.incoming.stock

    def _on_worker(self, worker: Any) -> None:
        """A worker's link is readable."""
        end = worker.link.master_end
        fd = end.fileno()
        messages = end.receive()
        if end.closed:
            self.wakeup_pipe.forget(fd)
        for message in messages:
            try:
                self._from_worker(worker, message)
            except (ArithmeticError, LookupError, TypeError, ValueError) as exc:
                # Code of the application may have written into the link; it can harm no other worker.
                self.log.error("Message of worker (pid:%s) not understood: %s (%r)", worker.pid, message, exc)

    def _from_worker(self, worker: Any, message: Message) -> None:
        if message.type == "ready":
            worker.is_ready = True
            worker.waits = ""
            self._tell_what_workers_wait_for()
            self.log.debug("Worker ready (pid: %s)", worker.pid)
            self._count_workers()
        elif message.type == "paused":
            worker.answered_pause = int(message.fields["number"])
            if worker.answered_pause == self._pauses:
                self.feed(handover.WorkerPaused(worker.pid))
        elif message.type == "waiting":
            worker.waits = str(message.fields["what"])
            self._tell_what_workers_wait_for()
        elif message.type == "failed":
            worker.failure = str(message.fields.get("reason", ""))
            worker.output = str(message.fields.get("output", ""))
        elif message.type == "cut":
            self._cut += int(message.fields.get("count", 0))

    def _tell_what_workers_wait_for(self) -> None:
        waiting = [worker for worker in self.WORKERS.values() if worker.waits]
        self._tell_what_we_wait_for(f"worker (pid: {waiting[0].pid}) is {waiting[0].waits}" if waiting else "")

    def _counts(self) -> tuple[int, int]:
        """Return how many workers are ready, and how many there should be; of a successor, dirty ones too."""
        ready, total = self._web_counts()
        if self._is_incoming and self._dirty is not None:
            return ready + self._dirty.loaded, total + self._dirty.wanted
        return ready, total

    def _web_counts(self) -> tuple[int, int]:
        ready = sum(worker.is_ready for worker in self.WORKERS.values())
        return ready, max(self.num_workers, len(self.WORKERS))

    def _count_workers(self) -> None:
        if self._is_incoming:
            self.feed(handover.WorkersCounted(*self._counts()))
        else:
            self._show()

    def _tell_workers(self, type: str, **fields: Any) -> None:
        for worker in self.WORKERS.values():
            worker.link.tell(type, **fields)

    def _may_accept(self) -> list[int]:
        """Return the pids of workers that could accept a connection, now or after what they are doing."""
        return [worker.pid for worker in self.WORKERS.values() if worker.is_ready and worker.can_pause]

    def _pause_workers(self) -> None:
        self._pauses += 1
        self._tell_workers("pause", number=self._pauses)
        for worker in self.WORKERS.values():
            # It will read the pause before it can accept again: no need to wait until it has.
            if not worker.link.accepting:
                self._events.append(handover.WorkerPaused(worker.pid))

    def _drain_workers(self, timeout: float) -> None:
        self._since = time.monotonic()
        self._handed_over = True
        self._cut = 0
        self._stop_control_server()
        self._end_listeners(self._to_end)
        self.log.info(
            "Upgrade: committed to successor with pid: %s; draining %s requests in %s workers, %gs at most "
            "(hot_drain_timeout)",
            self.successor.pid if self.successor else "?",
            self._in_flight(),
            len(self.WORKERS),
            timeout,
        )
        for worker in list(self.WORKERS.values()):
            worker.link.tell("drain", timeout=timeout)
            if not worker.is_ready:
                # It holds nothing, and would read this only when it has loaded the application.
                self.kill_worker(worker.pid, signal.SIGKILL)
            elif not worker.can_pause:
                self.kill_worker(worker.pid, signal.SIGTERM)
            elif worker.answered_pause != self._pauses:
                # It is busy, and will not read the link before it has ended the request that may want to know.
                self.kill_worker(worker.pid, signal.SIGUSR2)
        if not self.WORKERS:
            self._events.append(handover.AllWorkersGone())

    def _in_flight(self) -> int:
        """Return how many requests the paused or draining workers are answering."""
        return sum(map(self._in_flight_of, self.WORKERS.values()))

    def _in_flight_of(self, worker: HotWorker) -> int:
        # One that has not answered is busy with something, and may have said already with how much.
        is_busy = worker.can_pause and worker.is_ready and worker.answered_pause != self._pauses
        return max(worker.link.in_flight, int(is_busy))

    def _open_gate(self) -> None:
        self._gate_open = True
        slots.listen(self.LISTENERS, self.cfg.backlog)
        self._tell_workers("open")

    def murder_workers(self) -> None:
        now = time.monotonic()
        limit = self.cfg.hot_ready_timeout
        for pid, worker in list(self.WORKERS.items()):
            if worker.is_ready and self._state is not PredecessorState.DRAINING:
                continue
            # gunicorn's `timeout` is for workers that serve: a boot and a drain have bounds of their own.
            worker.tmp.notify()
            if not worker.is_ready and limit and now - worker.link.made_at > limit and not self._is_bounded:
                why = f": {worker.waits}" if worker.waits else ""
                self.log.critical("Worker not ready in %gs (hot_ready_timeout) (pid:%s)%s", limit, pid, why)
                self.kill_worker(pid, signal.SIGKILL if worker.aborted else signal.SIGABRT)
                worker.aborted = True
        super().murder_workers()

    def manage_workers(self) -> None:
        if not self._is_up:
            self._come_up()
        self._is_keeping_back = False
        if self.outgoing.accepting:
            super().manage_workers()
            if not self._is_incoming:
                self.LISTENERS = self.slots.end_unserved(self.LISTENERS, self._served_slots(), self.num_workers)
        elif self._state is PredecessorState.DRAINING and not self.WORKERS:
            # The last one was reaped by somebody else, a hook for example.
            self.feed(handover.AllWorkersGone())

    def kill_worker(self, pid: int, sig: int) -> None:
        worker = self.WORKERS.get(pid)
        leaving = self._stopping or self._state is PredecessorState.DRAINING
        if sig == signal.SIGKILL and worker is not None and (leaving or not worker.is_ready):
            self._killed.add(pid)
        super().kill_worker(pid, sig)

    def reap_workers(self) -> None:
        """Do as gunicorn's, which tells nobody how a child has ended: an upgrade may fail by that."""
        # What the dead have said comes before that they are dead.
        self._read_links()
        ended = reap()
        workers = [self.WORKERS.pop(pid) for pid in ended if pid in self.WORKERS]
        if self.successor is not None and self.successor.pid in ended:
            self.successor.has_ended(ended.pop(self.successor.pid))
        self._reap_successor()
        if self.keeper is not None:
            self.keeper.reaped(ended, time.monotonic())
        codes = {worker: os.waitstatus_to_exitcode(ended.pop(worker.pid)) for worker in workers}
        for worker, code in codes.items():
            self._worker_ended(worker, code)
        for pid, status in ended.items():
            self._other_ended(pid, status)
        for code in codes.values():
            if code == self.WORKER_BOOT_ERROR:
                self._survive(HaltServer("Worker failed to boot.", code))
            elif code == self.APP_LOAD_ERROR:
                self._survive(HaltServer("App failed to load.", code))
        if workers and not self.WORKERS and not self._is_incoming:
            self.feed(handover.AllWorkersGone())

    def _worker_ended(self, worker: HotWorker, code: int) -> None:
        pid = worker.pid
        # gunicorn's lines, except about who was killed by us.
        if code > 0:
            self.log.error("Worker (pid:%s) exited with code %s.", pid, code)
        elif code == -signal.SIGKILL and pid in self._killed:
            self.log.info("Killed worker (pid: %s)%s", pid, "" if worker.is_ready else ", which was still loading")
        elif code == -signal.SIGKILL:
            self.log.error("Worker (pid:%s) was sent SIGKILL! Perhaps out of memory?", pid)
        elif code == -signal.SIGTERM:
            self.log.info("Worker (pid:%s) was sent SIGTERM!", pid)
        elif code:
            self.log.warning("Worker (pid:%s) was sent %s!", pid, signal_name(-code))
        worker.tmp.close()
        try:
            self.cfg.child_exit(self, worker)
        except ChildProcessError:
            pass  # a hook that has waited for the worker, which gunicorn forgives
        finally:
            self._forget_worker(worker, code)

    def _other_ended(self, pid: int, status: int) -> None:
        if pid != self.dirty_arbiter_pid:
            # As PID 1 we get every orphan.
            self.log.debug("Reaped unknown child process (pid:%s, status:%s)", pid, status)
        elif hasattr(self, "handle_dirty_arbiter_exit"):
            self.handle_dirty_arbiter_exit(pid, status)
        else:  # gunicorn 25, which sees here that it is gone
            self.reap_dirty_arbiter()

    def _reap_successor(self) -> None:
        successor = self.successor
        if successor is None or (status := successor.reap()) is None:
            return
        self.reexec_pid = 0
        if not successor.channel.closed:
            # Its last words may have come since the channel was read.
            self._on_successor()
        if successor.exit_code is not None:
            if self.keeper is not None and self.keeper.is_open:
                self._on_held()
                self.keeper.hold.exited(successor.pid, successor.exit_code, time.monotonic())
            elif self.held is not None and self._handed_over:
                self.held.successor_exited(successor.pid, successor.exit_code)
        if words := successor.early_words():
            self._output = words
            self.log.error("Upgrade: the successor has written:\n%s", words)
        self._forget_successor()
        self.feed(handover.SuccessorExited(status))

    def _survive(self, halt: HaltServer) -> None:
        """A worker could not load the application, which ends gunicorn: not while others serve.

        What is on the disk may be the release that has just been refused."""
        if self._stopping:
            return  # another one has failed too; gunicorn would end by this exception, and with another status
        if self._is_incoming or not any(worker.is_ready for worker in self.WORKERS.values()):
            raise halt
        self._spawn_after = time.monotonic() + _RESPAWN_SECONDS
        self.log.error("%s The other workers serve on; next try in %gs", halt.reason, _RESPAWN_SECONDS)

    def _read_links(self) -> None:
        if self.successor is not None and not self.successor.channel.closed:
            self._on_successor()
        for worker in list(self.WORKERS.values()):
            if not worker.link.master_end.closed:
                self._on_worker(worker)

    def _forget_successor(self) -> None:
        successor = self.successor
        assert successor is not None
        if not successor.channel.closed:
            self.wakeup_pipe.forget(successor.channel.fileno())
        successor.close()
        if self.cfg.pidfile is not None:
            _try(self.log, pidfile.remove, self.cfg.pidfile + ".2", successor.pid)
        self.successor = None
        self._tell_workers("release")

    def _forget_worker(self, worker: HotWorker, code: int) -> None:
        self._killed.discard(worker.pid)
        if not worker.link.master_end.closed:
            # Its last words may have come since the links were read.
            self._on_worker(worker)
        if not worker.link.master_end.closed:
            self.wakeup_pipe.forget(worker.link.master_end.fileno())
        worker.link.close()
        if not self._is_incoming:
            self.feed(handover.WorkerGone(worker.pid))
        elif not worker.is_ready:
            self._output = worker.output
            why = f"failed to boot: {worker.failure}" if worker.failure else f"{in_words(code)} before it was ready"
            self.feed(handover.WorkerFailed(f"worker (pid: {worker.pid}) {why}"))
        elif code:
            alive, total = self._web_counts()
            self.feed(handover.WorkerDied(f"worker (pid: {worker.pid}) {in_words(code)}", alive, total))

    # --- ownership of what there is only one of

    def _take_ownership(self) -> None:
        assert self.predecessor is not None
        self.log.info("Upgrade: this master has taken over from pid: %s", self.predecessor.pid)
        self.master_pid = 0
        self.master_name = "Master"
        self.proc_name = str(self.cfg.proc_name)
        if self.held is not None:
            # The file names the holder, and is the holder's to write.
            self._announce()
        elif self.pidfile is not None:
            self.pidfile.fname = self.cfg.pidfile
            _try(self.log, pidfile.replace, self.cfg.pidfile, self.pid)
        if self.pidfile is not None:
            _try(self.log, pidfile.remove, self.cfg.pidfile + ".2", self.pid)
        if self.held is not None:
            self.pidfile = None
        self._start_control_server()
        self.reporter.takes_over(is_orphan=self._predecessor_left)
        self._take_request()

    def _restore_ownership(self) -> None:
        self._handed_over = False
        self.reporter.takes_back()
        self._forget_held()
        if self.held is not None:
            self._announce()
        if self.pidfile is not None and pidfile.read(str(self.pidfile.fname)) != self.pid:
            _try(self.log, pidfile.replace, str(self.pidfile.fname), self.pid)
        if self._control_server is None or not self._control_server.has_file:
            self._stop_control_server()
            self._start_control_server()

    def _start_control_server(self) -> None:
        # gunicorn starts it with the first workers; its path is the predecessor's until the commit.
        if self._is_incoming or self._control_server is not None or self.cfg.control_socket_disable:
            return
        # Not before: it imports asyncio, which a gevent worker must be able to patch.
        from gunicorn_hot.control import ControlServer

        try:
            server = ControlServer(self, self._get_control_socket_path(), self.cfg.control_socket_mode)
            server.start()
        except Exception as exc:
            self.log.warning("Failed to start control socket: %s", exc)
        else:
            self._control_server = server

    # --- dirty workers

    def spawn_dirty_arbiter(self) -> Any:
        # It is forked within start(), and keeps the standard error that it finds.
        early_output.release(inheritance.variables)
        if self.dirty_arbiter_pid:
            return None
        self._forget_dirty()
        self._dirty = dirty.Reports()
        try:
            pid = super().spawn_dirty_arbiter()
        except OSError:
            self._dirty.forked(None)
            raise
        self._dirty.forked(self.dirty_arbiter)
        self.wakeup_pipe.watch(self._dirty.channel.fileno(), self._on_dirty)
        return pid

    def manage_dirty_arbiter(self) -> None:
        try:
            super().manage_dirty_arbiter()
        except OSError as exc:
            self.log.error("Cannot boot the dirty arbiter: %s", exc)  # gunicorn would end

    def _forget_dirty(self) -> None:
        if self._dirty is not None:
            if not self._dirty.channel.closed:
                self.wakeup_pipe.forget(self._dirty.channel.fileno())
            self._dirty.close()
            self._dirty = None

    def _on_dirty(self) -> None:
        """A dirty worker, or the dirty arbiter, has said something."""
        assert self._dirty is not None
        fd = self._dirty.channel.fileno()
        try:
            failed = self._dirty.receive()
        except (ArithmeticError, LookupError, TypeError, ValueError) as exc:
            failed = []
            self.log.warning("A message of a dirty worker is not understood: %r", exc)
        if self._dirty.channel.closed:
            self.wakeup_pipe.forget(fd)
        if self._is_incoming:
            for pid in failed:
                reason = f"dirty worker (pid: {pid}) ended before it had loaded its applications"
                self.feed(handover.WorkerFailed(reason))
            self._count_workers()

    def _get_dirty_pidfile_path(self) -> str:
        """Return a name that no other generation's dirty arbiter has, which would take it over, and remove it."""
        path: str = super()._get_dirty_pidfile_path()  # type: ignore[misc]
        return path if self.predecessor is None else f"{path.removesuffix('.pid')}.{self.pid}.pid"

    def kill_dirty_arbiter(self, sig: int) -> None:
        # gunicorn stops it first, and what workers still answer may need it.
        if self._stopping and sig == signal.SIGTERM and self.WORKERS:
            return
        if self._stopping and sig == signal.SIGKILL and self.dirty_arbiter_pid:
            # Without their arbiter dirty workers would never end, and it kills them itself when its own time is over.
            if self._dirty_ends is None:
                self._stop_dirty_arbiter(signal.SIGTERM)
            wait(self.dirty_arbiter_pid, max(0.0, (self._dirty_ends or 0.0) - time.monotonic()))
        if self._stopping and sig in (signal.SIGTERM, signal.SIGQUIT):
            self._stop_dirty_arbiter(sig)
        else:
            super().kill_dirty_arbiter(sig)

    def _stop_dirty_arbiter(self, sig: int) -> None:
        patience = _QUICK_STOP if sig == signal.SIGQUIT else self.cfg.dirty_graceful_timeout + _QUICK_STOP
        self._dirty_ends = min(self._dirty_ends or sys.maxsize, time.monotonic() + patience)
        super().kill_dirty_arbiter(sig)

    def reap_dirty_arbiter(self) -> None:
        super().reap_dirty_arbiter()
        if self._stopping and self.dirty_arbiter_pid and not self.WORKERS and self._dirty_ends is None:
            self.kill_dirty_arbiter(signal.SIGTERM)

    def maybe_promote_master(self) -> None:
        # A hot predecessor's death is an EOF on the channel, and that of a stock one an event where there is a pidfd.
        stock = self.predecessor if self._is_incoming else None
        if stock is not None and stock.channel is None and stock.death() is None and not stock.is_parent:
            self.feed(handover.PredecessorClosed())

    # --- reports

    def _report_ready(self) -> None:
        took = time.monotonic() - self._since
        assert self.successor is not None
        self.log.info("Upgrade: successor with pid: %s is ready after %.2fs", self.successor.pid, took)
        self._call_hook("on_upgrade_ready", self)
        # The hook may have taken its time: a successor that has died meanwhile is no reason to pause anybody.
        self._read_links()
        self._reap_successor()
        self._events.append(handover.ReadyReported(frozenset(self._may_accept())))

    def _report_checked(self) -> None:
        took = time.monotonic() - self._since
        self.log.info("Upgrade check: an upgrade would work, ready after %.2fs; ending the successor", took)
        self.reporter.checked()

    def _report_failure(self, reason: str, aborted: bool) -> None:
        self.reporter.failed(reason, self._output, aborted)
        if self._is_check:
            self.log.error("Upgrade check: an upgrade would fail: %s", reason)
            return
        self.log.error("Upgrade failed: %s", reason)
        self._failure = reason.strip().split("\n")[-1]
        self._call_hook("on_upgrade_failed", self, reason)

    def _call_hook(self, name: str, *args: Any) -> None:
        try:
            getattr(self.cfg, name)(*args)
        except Exception:
            self.log.exception("Exception in %s hook", name)

    def _report_done(self) -> None:
        took = time.monotonic() - self._since
        self.log.info("Upgrade: done, drained in %.2fs, %s requests cut", took, self._cut)
        self._call_hook("on_upgrade_done", self)
        # The hook may have taken its time: if the successor has died meanwhile, there is still somebody to take back.
        self._read_links()
        self._reap_successor()
        self._events.append(handover.DoneReported())

    def _show(self) -> None:
        """Let the process's title, the status file and the service manager tell what happens."""
        self._retitle()
        self.reporter.show()
        if (seen := self._phase()) is not None:
            self.manager.tell(*seen, time.monotonic(), self.held)

    def _phase(self) -> tuple[Phase, str] | None:
        """Return what the service manager should know; None: it is not this master's turn to speak."""
        if self._is_incoming:
            return None
        state = self._state
        if state is PredecessorState.DRAINING:
            if self.keeper is not None or self.held is not None:
                return None  # the successor does, through the holder
            pid = self.successor.pid if self.successor else "?"
            return Phase.READY, f"Serving, by master {pid}; the old one is draining"
        if state is PredecessorState.GONE:
            return None
        if state is PredecessorState.SERVING or (self._is_check and self.outgoing.then is not Then.STOP):
            if self.held is None and self.predecessor is not None and not self._predecessor_left:
                return None  # the manager listens to its main process alone
            if not self._has_served:
                ready, total = self._counts()
                if ready < total:
                    return Phase.STARTING, f"Starting: {ready} of {total} workers ready"
                self._has_served = True
            failed = f"; upgrade failed: {self._failure}" if self._failure else ""
            return Phase.READY, f"Serving, generation {self.generation}{failed}"
        if state is PredecessorState.ENDING:
            if self.outgoing.then is Then.STOP:
                return Phase.STOPPING, "Stopping"
            if self.outgoing.then is Then.UPGRADE:
                return Phase.RELOADING, "Upgrading again"
            return Phase.RELOADING, f"Upgrade failed: {self._failure}" if self._failure else "Ending the successor"
        if state is PredecessorState.BOOTING:
            ready, total = (self.successor.ready, self.successor.total) if self.successor else (0, 0)
            return Phase.RELOADING, f"Upgrading: {ready} of {total or '?'} workers ready"
        return Phase.RELOADING, f"Upgrading: {state.value}"

    def _retitle(self) -> None:
        name = self.cfg.proc_name
        title = f"master [{name}]{self._title()}"
        if title != self._last_title:
            util._setproctitle(title)  # type: ignore[attr-defined]
            self._last_title = title

    def _title(self) -> str:
        if self._is_incoming:
            assert self.incoming is not None
            ready, total = self._counts()
            if self.incoming.state is SuccessorState.BOOTING:
                return f" booting, {ready} of {total} workers ready"
            return f" {self.incoming.state.value}"
        if self._state is PredecessorState.DRAINING:
            return f" draining, {self._in_flight()} in flight"
        if self._state is PredecessorState.BOOTING and self.successor is not None:
            doing = "checking" if self._is_check else "upgrading"
            return f" {doing}, {self.successor.ready} of {self.successor.total or '?'} workers ready"
        if self._state is PredecessorState.SERVING:
            return ""
        return f" {self._state.value}"

    # --- signals

    def wakeup(self) -> None:
        super().wakeup()
        self.wakeup_pipe.wake()

    def wait_for_signals(self, timeout: float | None = 1.0) -> Iterator[int]:  # type: ignore[override]
        """Wait, and return the signals that have come, each to be taken only when its turn is: the holder gets what a
        master that leaves has not looked at."""
        timeout = 1.0 if timeout is None else timeout
        machine: handover.Machine = self.outgoing
        if machine.deadline is not None:
            timeout = max(0.0, min(timeout, machine.deadline - time.monotonic()))
        if self._is_keeping_back:
            timeout = min(timeout, pace.LOOK)
        timeout = self.reporter.wait(timeout)
        # Also with a signal at hand: what the peer has said before it must not be judged after a deadline or a SIGTERM.
        self.wakeup_pipe.wait(timeout if self.SIG_QUEUE.empty() else 0)
        self.feed(handover.Tick())
        return self._queued_signals()

    def _queued_signals(self) -> Iterator[int]:
        while True:
            try:
                sig = self.SIG_QUEUE.get_nowait()
            except queue.Empty:
                return
            if sig != self.WAKEUP_REQUEST:
                yield sig

    def reexec(self) -> None:
        self.feed(handover.UpgradeRequested())

    def handle_usr1(self) -> None:
        super().handle_usr1()
        if self.keeper is not None and self._handed_over:
            # Whoever rotates logs knows this pid alone.
            self.keeper.send(self.keeper.hold.signalled(signal.SIGUSR1))

    def handle_hup(self) -> None:
        self.feed(handover.UpgradeRequested() if self.cfg.hot_hup else handover.ReloadRequested())

    def handle_term(self) -> None:
        self.feed(handover.StopRequested("term"))

    def handle_int(self) -> None:
        self.feed(handover.StopRequested("int"))

    def handle_quit(self) -> None:
        self.feed(handover.StopRequested("quit"))

    def handle_ttin(self) -> None:
        self.feed(handover.ResizeRequested("ttin"))

    def handle_ttou(self) -> None:
        self.feed(handover.ResizeRequested("ttou"))

    def handle_winch(self) -> None:
        self.feed(handover.ResizeRequested("winch"))

    def handle_urg(self) -> None:
        self._take_request()

    # --- requests

    def _take_request(self) -> None:
        """Do what the command line asks, if there is a request. One that has not taken over leaves it to the other."""
        if self._is_incoming or not self.reporter.path:
            return
        try:
            asked = request.take(self.reporter.path)
        except request.RequestError as exc:
            self.log.warning("Request ignored: %s", exc)
            return
        if asked is None:
            return
        self.log.info("Request: %s, by %s", asked.command, asked.by or "an operator")
        match asked.command:
            case "upgrade":
                self.feed(handover.UpgradeRequested(asked.id))
            case "check":
                self.feed(handover.CheckRequested(asked.id, asked.by))
            case "abort":
                self.feed(handover.AbortRequested(asked.id, asked.by))
            case "rollback":
                self.feed(handover.RollbackRequested(asked.id, asked.by))
            case "commit":
                self.feed(handover.CommitRequested(asked.id, asked.by))
            case _:
                self._refuse(asked.id, f"{asked.command!r} is none of {', '.join(request.COMMANDS)}")
                self._show()

    def _refuse(self, id: str, reason: str) -> None:
        self.log.warning("Request refused: %s", reason)
        self.reporter.refuse(id, reason)
        if self._handed_over or self.reporter.is_silent:
            self._tell("refused", id=id, reason=reason)

    # --- gunicorn's own life cycle

    def setup(self, app: Any) -> None:
        # Again on SIGHUP, with the configuration read anew.
        super().setup(app)
        for line in settings.misspelt(self.cfg):
            self.log.error("Ignored: %s", line)
        dirty.let_report(self.cfg)
        self._use_twin()
        self.slots = slots.Slots(self.cfg, self.log)
        self.outgoing.limits = self._limits()
        if self.held is not None:
            self._announce()
            # gunicorn's reload would write this master's pid into the file that names the holder.
            self._pidfile_setting = self.cfg.pidfile
            self.cfg.set("pidfile", None)

    def reload(self) -> None:
        try:
            super().reload()
        finally:
            if self._pidfile_setting is not None:
                self.cfg.set("pidfile", self._pidfile_setting)
                self._pidfile_setting = None

    def stop(self, graceful: bool = True) -> None:
        self._stopping = True
        if self._is_incoming:
            # Nobody is served here, or the predecessor's workers are waiting to serve them.
            graceful = graceful and self._gate_open
        elif not self._handed_over and self.held is None and self._predecessor_left:
            self.manager.tell(Phase.STOPPING, "Stopping", time.monotonic())
        if self._is_incoming or self._handed_over or not self._predecessor_left:
            # The socket files are the other generation's too.
            self._close_listeners()
        self._close_listeners(but=lambda listener: not listeners.is_abstract(listener))
        self._read_links()
        self.reporter.stops()
        for worker in list(self.WORKERS.values()):
            if not worker.is_ready:
                # It serves nobody. A SIGTERM is lost on one that was just forked, and does not end one that hangs while
                # it loads the application: gunicorn would wait for it as long as for requests.
                self.kill_worker(worker.pid, signal.SIGKILL)
        kept = _KeptSignals(self.SIG_QUEUE)
        if self._keeps_pid:
            self.SIG_QUEUE = kept  # type: ignore[assignment]
        try:
            super().stop(graceful)
        finally:
            self.SIG_QUEUE = kept.back()

    @property
    def _predecessor_left(self) -> bool:
        """Whether nobody is left who could take back. Its process may have become the holder."""
        predecessor = self.predecessor
        if predecessor is None:
            return True
        if predecessor.channel is None:
            return not predecessor.is_parent
        return predecessor.channel.closed

    def _close_listeners(self, but: Callable[[Any], bool] = lambda _: False) -> None:
        """Close our copies, and leave it at that; those for which `but` is true stay open.

        What only this generation has bound, and never came to serve, ends with it."""
        for listener in self.LISTENERS:
            if not but(listener):
                if self._is_incoming and listeners.is_new(listener):
                    listeners.end(listener)
                else:
                    listener.close()
        self.LISTENERS = [listener for listener in self.LISTENERS if listener.sock is not None]

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        # Before the predecessor may take back: its own would be the one whose file is removed.
        self._stop_control_server()
        if exit_status:
            self._tell("failed", reason=reason or f"halted with status {exit_status}", output=self._output)
        elif not self._is_incoming:
            self._tell("leaving")
        if self._handed_over:
            self._tell("drained", **self.reporter.leaves())
        if self._keeps_pid:
            self.pidfile = None  # it stays
        try:
            super().halt(reason, exit_status)
        except Exception:
            if self._keeps_pid:
                self.log.exception("Exception while leaving")
                self._become_holder()
            raise
        except SystemExit:
            self.reporter.ends(on_purpose=not exit_status)
            if self._keeps_pid:
                self._become_holder()
            elif self._handed_over and self.held is None and (heir := self._heir_pid()):
                # As late as possible: a main process that is announced and then dies is missed for seconds.
                self.manager.send(f"MAINPID={heir}")
            raise

    def _heir_pid(self) -> int:
        """Return the pid of the master that this one leaves the service to."""
        return self._heir if self.successor is None else self.successor.pid


class _KeptSignals:
    """A queue of signals for a master that will be the holder, while gunicorn's stop() takes them and forgets them."""

    def __init__(self, signals: Any) -> None:
        self._signals = signals
        self._kept: list[int] = []
        self.put_nowait = signals.put_nowait

    def get_nowait(self) -> int:
        sig: int = self._signals.get_nowait()
        self._kept.append(sig)
        if sig in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            return signal.SIGQUIT  # the service is to stop, so this master is in a hurry
        raise queue.Empty

    def back(self) -> Any:
        """Return the queue, with all that came."""
        for sig in self._kept:
            self._signals.put_nowait(sig)
        return self._signals


def _try(log: Any, function: Any, *args: Any) -> None:
    """Call a function of the pid file; what it cannot do is logged, and stops no upgrade."""
    try:
        function(*args)
    except OSError as exc:
        log.warning("Pid file: %s", exc)
