"""The hand-over, as two state machines that decide everything and do nothing.

This module imports no os, signal, socket or time. A machine is told what happened (an event, in the past tense) and
what time it is, and answers what to do (actions, in the imperative), in order. Only the arbiter performs actions, and
only these machines decide: a stray "if an upgrade is running" elsewhere is a mistake.

`Predecessor` is the serving master, the one that gets SIGUSR2::

    SERVING -> BOOTING -> PAUSING -> OPENING -> PROBATION -> COMMITTING -> DRAINING -> GONE
       ^          |          |          |           |            |            |
       +- ENDING <+----------+----------+-----------+------------+------------+

`Successor` is the master that it has executed::

    BOOTING -> READY -> OPEN -> SOLE            (and HALTING, from each of the first three)

What an operator asks (`Request`) is an event like a signal, and is granted or refused in every state. A check is an
upgrade that goes no further than BOOTING.

Rules, each of which the exploration in the tests checks in every reachable state:

* On the way forward two generations never accept at the same time: the gate opens only after every old worker is
  paused or was given its second to say so. On the way back the old one accepts at once, beside a new one that ends.
* Somebody accepts, or a bounded timer is running that will make somebody accept.
* The peer's death is an event like any other (`...Closed`, `...Exited`) and is handled in every state.
* Whatever happens, a later SIGUSR2 finds the way back to BOOTING.
* One deadline per machine. A `Tick` before it changes nothing.

An event that a state has no use for is listed in the machine's `ignored` table with the reason; any other is a bug and
raises `Unexpected`, and changes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from gunicorn_hot.value import Value

# --- events -----------------------------------------------------------------------------------------------------


class Event(Value):
    """Something that happened."""


class Tick(Event):
    """Time went by."""


class UpgradeRequested(Event):
    """The operator wants an upgrade: SIGUSR2 to this master, or one that the predecessor passed on.

    `id`: the request's; "" for a mere signal."""

    id: str = ""


class Request(Event):
    """An operator has asked for something; `by`: who, in words."""

    id: str = ""
    by: str = ""


class CheckRequested(Request):
    """Would an upgrade work? Boot a successor, and end it when it is ready."""


class AbortRequested(Request):
    """End the upgrade that is under way, however far it is, as long as it is not committed."""


class RollbackRequested(Request):
    """Take back what is in probation."""


class CommitRequested(Request):
    """End the probation now."""


class StopRequested(Event):
    """The operator stops this master; `how` is gunicorn's name of the signal: term, int or quit."""

    how: str


class ReloadRequested(Event):
    """SIGHUP."""


class ResizeRequested(Event):
    """SIGTTIN, SIGTTOU or SIGWINCH; `how` is gunicorn's name of the signal."""

    how: str


# what the predecessor sees


class SuccessorSpawned(Event):
    pid: int


class SpawnFailed(Event):
    reason: str


class SuccessorGreeted(Event):
    """It is one of ours, and has its sockets."""


class SuccessorReady(Event):
    """All of its workers are ready."""


class ReadyReported(Event):
    """ReportReady has been performed, and the successor is still there; `workers`: the pids that can be paused."""

    workers: frozenset[int]


class WorkerPaused(Event):
    """The worker cannot accept any more."""

    pid: int


class WorkerGone(Event):
    """One of our workers has been reaped."""

    pid: int


class AllWorkersGone(Event):
    """The last of our workers has been reaped, or there is none to drain."""


class DoneReported(Event):
    """ReportDone has been performed, and the successor is still there."""


class SuccessorWaits(Event):
    """The successor says what keeps it from being ready, and how far it is; "" if it has not."""

    what: str


class GateOpened(Event):
    """The successor's workers accept."""


class SuccessorCommitted(Event):
    """The successor owns the pid file and all else that there is only one of."""


class SuccessorFailed(Event):
    """The successor says itself that it cannot go on."""

    reason: str


class SuccessorLeft(Event):
    """The committed successor ends on purpose, or has a successor of its own that would take over from it.

    Its death is then no reason to take back."""


class SuccessorStayed(Event):
    """Its own upgrade has failed: if it dies now, this master is the only one left to take back."""


class SuccessorClosed(Event):
    """EOF on the channel; `error` when the stream broke in another way."""

    error: str | None = None


class SuccessorExited(Event):
    """The successor has been reaped; `status` in words: "exited with code 1", "was killed by SIGKILL"."""

    status: str


# what the successor sees


class WorkersCounted(Event):
    """The number of workers that are ready at this moment, or that are wanted, has changed."""

    ready: int
    total: int


class WorkerFailed(Event):
    """A worker ended before it was ready."""

    reason: str


class WorkerDied(Event):
    """A worker that had been ready ended in a way that nobody asked for; `alive` are left of `total`."""

    reason: str
    alive: int
    total: int


class GateOrdered(Event):
    """The predecessor's workers are paused: open the gate."""


class CommitOrdered(Event):
    """The probation is over: become the sole owner."""


class PredecessorClosed(Event):
    """The predecessor is gone."""


# --- actions ----------------------------------------------------------------------------------------------------


class Action(Value):
    """Something to do."""


class Log(Action):
    level: str
    text: str


class Tell(Action):
    """Send the peer a message that is only a type; `id`: of the request that is passed on by it."""

    type: str
    id: str = ""


class Refuse(Action):
    """Let whoever has sent the request `id` know why it is not granted."""

    id: str
    reason: str


class Stop(Action):
    """Do what gunicorn does on this signal: term, int or quit."""

    how: str


class Reload(Action):
    """Do what gunicorn does on SIGHUP."""


class Resize(Action):
    """Do what gunicorn does on this signal: ttin, ttou or winch."""

    how: str


# of the predecessor


class StartSuccessor(Action):
    """Fork and exec; answered by SuccessorSpawned or SpawnFailed.

    `id`: of the request; `check`: the successor will only be tried."""

    id: str = ""
    check: bool = False


class EndSuccessor(Action):
    """SIGTERM to the successor."""


class KillSuccessor(Action):
    """SIGKILL to the successor."""


class PauseWorkers(Action):
    """Tell all workers to accept nothing new; answered by WorkerPaused, by each."""


class ResumeWorkers(Action):
    """Tell all workers to accept again."""


class DrainWorkers(Action):
    """Tell all workers to finish what they hold within `timeout` seconds, and to leave."""

    timeout: float


class CutWorkers(Action):
    """Tell all workers that their time is over: report what is cut, and leave."""


class KillWorkers(Action):
    """SIGKILL to the workers that did not leave."""


class RestoreOwnership(Action):
    """Make the outside say again that this master is the service: pid file, control socket, title."""


class ReleaseOwnership(Action):
    """Stop owning what the successor is about to own."""


class ReportReady(Action):
    """Log it, call on_upgrade_ready, and look once more whether the successor lives; answered by ReadyReported."""


class ReportFailure(Action):
    """Log it, and call on_upgrade_failed; `aborted`: an operator has wanted it so."""

    reason: str
    aborted: bool = False


class ReportChecked(Action):
    """Log that an upgrade would have worked, up to here."""


class ReportDone(Action):
    """Log it, call on_upgrade_done, and look once more whether the successor lives; answered by DoneReported."""


class StopService(Action):
    """Let whoever is the service now be stopped too, by this signal: term, int or quit."""

    how: str


class KeepPid(Action):
    """When this master would exit, become the holder of the service's pid instead."""


class Leave(Action):
    """The upgrade is complete: exit with 0."""


# of the successor


class OpenGate(Action):
    """Let the workers accept: those held now, and each later one at once."""


class TakeOwnership(Action):
    """Take the pid file and all else that there is only one of."""


class TellFailed(Action):
    """Tell the predecessor why this generation cannot go on."""

    reason: str


class EndPredecessor(Action):
    """SIGTERM to a stock gunicorn, which knows no other words."""


class Halt(Action):
    """End this generation."""

    reason: str


class RequestUpgrade(Action):
    """Deliver UpgradeRequested to this process's own Predecessor machine."""

    id: str = ""


# --- the machinery of both --------------------------------------------------------------------------------------


class Unexpected(Exception):
    """An event came in a state in which it cannot come."""


Actions = tuple[Action, ...]
_M = TypeVar("_M", bound="Machine")


class Machine:
    """A table of (state, event type) -> handler, and one deadline."""

    table: dict[tuple[Enum, type[Event]], Callable[[Any, Any, float], Actions]]
    ignored: dict[tuple[Enum, type[Event]], str]
    state: Enum

    def __init__(self) -> None:
        #: When the current state's patience ends, on the clock of `now`, or None.
        self.deadline: float | None = None

    def step(self, event: Event, now: float) -> Actions:
        """Take one event, change state, and return what to do, in order.

        `now` is in seconds, on any monotonic clock. Raises Unexpected, with nothing changed."""
        key = (self.state, type(event))
        if isinstance(event, Tick) and (self.deadline is None or now < self.deadline):
            return ()
        handler = self.table.get(key)
        if handler is not None:
            return handler(self, event, now)
        if key in self.ignored:
            return ()
        raise Unexpected(f"{type(event).__name__} in state {self.state.name}")

    def copy(self: _M) -> _M:
        """Return an independent machine in the same state."""
        return copy.copy(self)


_H = TypeVar("_H", bound=Callable[..., Actions])


def _on(machine: type[Machine], states: list[Any], *events: type[Event]) -> Callable[[_H], _H]:
    def enter(handler: _H) -> _H:
        for state in states:
            for event in events:
                assert (state, event) not in machine.table, (state, event)
                machine.table[state, event] = handler
        return handler

    return enter


def _ignore(machine: type[Machine], why: str, states: list[Any], *events: type[Event]) -> None:
    for state in states:
        for event in events:
            assert (state, event) not in machine.table, (state, event)
            machine.ignored[state, event] = why


# --- the predecessor --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """The bounds of every wait, in seconds; None or 0 as said by each setting."""

    ready: float = 60.0
    #: After cut-over; 0: commit at once.
    probation: float = 5.0
    drain: float = 30.0
    #: What to do with a successor that is no gunicorn_hot: leave the service to it, or end it.
    leave: bool = False
    #: This master's pid is the service's, and stays that.
    keeps_pid: bool = False
    #: For a worker to say that it is paused, and for the successor to say that its gate is open. Clients wait.
    cutover: float = 1.0
    #: For the successor to say that it has committed. Nobody waits: its workers serve.
    commit: float = 5.0
    #: For a successor that serves nobody to end after SIGTERM, and for workers to leave after they were cut.
    end: float = 5.0


class PredecessorState(Enum):
    SERVING = "serving"
    BOOTING = "booting a successor"
    PAUSING = "pausing workers"
    OPENING = "waiting for the successor to accept"
    PROBATION = "in probation"
    COMMITTING = "committing"
    DRAINING = "draining"
    ENDING = "ending the successor"
    GONE = "gone"


_P = PredecessorState
_UPGRADING = [_P.BOOTING, _P.PAUSING, _P.OPENING, _P.PROBATION, _P.COMMITTING]
_PAUSED = [_P.PAUSING, _P.OPENING, _P.PROBATION, _P.COMMITTING]


class Then(Enum):
    """What follows when the successor has ended."""

    SERVE = "serve on"
    UPGRADE = "start a fresh successor"
    STOP = "stop"


class Predecessor(Machine):
    """The serving master's side of the hand-over."""

    table = {}
    ignored = {}

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits
        self.state: PredecessorState = _P.SERVING
        #: BOOTING: whether the successor has spoken.
        self.greeted = False
        #: BOOTING: what the successor has said that it waits for.
        self.waits = ""
        #: Workers that may still accept (PAUSING).
        self.awaited: frozenset[int] = frozenset()
        #: ENDING: what comes next, and whether it was reported why the upgrade failed.
        self.then = Then.SERVE
        #: ENDING: the request of the upgrade that comes next.
        self.next_id = ""
        #: The successor is only tried, and will be ended when it is ready.
        self.check = False
        self.stop_how = "term"
        self.reported = False
        #: ENDING: its channel has ended, and it was not told to; it may take this long when it is.
        self.patience: float | None = None
        #: DRAINING: the successor's end is no reason to take back.
        self.alone = False
        #: DRAINING: the deadline has passed, and the workers were told.
        self.cut = False

    @property
    def accepting(self) -> bool:
        """Whether this master's workers accept, so that missing ones are worth booting."""
        ending = self.state is _P.ENDING and self.then is not Then.STOP
        return ending or self.state in (_P.SERVING, _P.BOOTING)

    def _become(self, state: PredecessorState, now: float, patience: float | None = None) -> None:
        self.state = state
        self.deadline = None if patience is None else now + patience


def _give_up(
    self: Predecessor, now: float, reason: str | None, patience: float, then: Then = Then.SERVE, aborted: bool = False
) -> Actions:
    """End a successor that is still a process; `reason` None: its exit status will tell."""
    resume: Actions = () if self.state is _P.BOOTING or then is Then.STOP else (ResumeWorkers(),)
    restore: Actions = (RestoreOwnership(),) if self.state in (_P.COMMITTING, _P.DRAINING) else ()
    self._become(_P.ENDING, now, patience)
    self.then, self.reported = then, reason is not None
    report: Actions = (ReportFailure(reason, aborted),) if reason is not None else ()
    return (*resume, *restore, *report, EndSuccessor())


def _give_up_hung(self: Predecessor, now: float, reason: str) -> Actions:
    """End a successor that does not answer: SIGTERM would not be answered either."""
    *first, _ = _give_up(self, now, reason, 0)
    self.deadline = None
    return (*first, KillSuccessor())


def _resume_serving(self: Predecessor, now: float) -> Actions:
    """The successor is no more: what now?"""
    self.alone = self.cut = self.check = False
    self.patience = None
    if self.then is Then.STOP:
        self._become(_P.GONE, now)
        return (Stop(self.stop_how),)
    if self.then is Then.UPGRADE:
        return (Tell("staying"), *_start(self, UpgradeRequested(self.next_id), now))
    self._become(_P.SERVING, now)
    # To a predecessor that still drains, if there is one.
    return (Tell("staying"),)


def _patience(self: Predecessor) -> float:
    """How long a successor may take to end: one that has served may hold requests."""
    served = self.state in (_P.OPENING, _P.PROBATION, _P.COMMITTING, _P.DRAINING)
    return max(self.limits.drain, self.limits.end) if served else self.limits.end


@_on(Predecessor, [_P.SERVING], UpgradeRequested, CheckRequested)
def _start(self: Predecessor, event: UpgradeRequested | CheckRequested, now: float) -> Actions:
    self._become(_P.BOOTING, now, self.limits.ready or None)
    self.then, self.reported, self.greeted, self.waits, self.next_id = Then.SERVE, False, False, "", ""
    self.check = isinstance(event, CheckRequested)
    return (StartSuccessor(event.id, self.check),)


@_on(Predecessor, [_P.SERVING], AbortRequested, RollbackRequested, CommitRequested)
def _nothing_under_way(self: Predecessor, event: Request, now: float) -> Actions:
    return (Refuse(event.id, "no upgrade is under way"),)


@_on(Predecessor, [*_UPGRADING, _P.ENDING, _P.DRAINING], CheckRequested)
@_on(Predecessor, [_P.COMMITTING, _P.DRAINING], AbortRequested)
@_on(Predecessor, [_P.BOOTING, _P.PAUSING, _P.OPENING, _P.COMMITTING, _P.DRAINING, _P.ENDING], RollbackRequested)
@_on(Predecessor, [_P.BOOTING, _P.PAUSING, _P.OPENING, _P.COMMITTING, _P.DRAINING, _P.ENDING], CommitRequested)
def _not_now(self: Predecessor, event: Request, now: float) -> Actions:
    return (Refuse(event.id, f"not while the master is {self.state.value}"),)


@_on(Predecessor, [_P.BOOTING, _P.PAUSING, _P.OPENING, _P.PROBATION], AbortRequested)
@_on(Predecessor, [_P.PROBATION], RollbackRequested)
def _abort(self: Predecessor, event: Request, now: float) -> Actions:
    word = "aborted" if isinstance(event, AbortRequested) else "rolled back"
    reason = f"{word} by {event.by or 'an operator'}"
    return _give_up(self, now, reason, _patience(self), aborted=True)


@_on(Predecessor, [_P.ENDING], AbortRequested)
def _abort_the_next(self: Predecessor, event: AbortRequested, now: float) -> Actions:
    if self.then is not Then.UPGRADE:
        return _not_now(self, event, now)
    self.then = Then.SERVE
    reason = f"aborted by {event.by or 'an operator'}"
    return (Log("info", f"Upgrade: the next one is {reason}"), *_refuse_next(self, reason))


def _refuse_next(self: Predecessor, reason: str) -> Actions:
    id, self.next_id = self.next_id, ""
    return (Refuse(id, reason),) if id else ()


@_on(Predecessor, [_P.SERVING], ReloadRequested)
def _reload(self: Predecessor, event: ReloadRequested, now: float) -> Actions:
    return (Reload(),)


@_on(Predecessor, [_P.SERVING, _P.BOOTING, _P.ENDING], ResizeRequested)
def _resize(self: Predecessor, event: ResizeRequested, now: float) -> Actions:
    return (Resize(event.how),)


@_on(Predecessor, [*_UPGRADING, _P.ENDING, _P.DRAINING], ReloadRequested)
def _refuse_reload(self: Predecessor, event: ReloadRequested, now: float) -> Actions:
    return (Log("warning", f"SIGHUP ignored: this master is {self.state.value}"),)


@_on(Predecessor, [*_PAUSED, _P.DRAINING], ResizeRequested)
def _refuse_resize(self: Predecessor, event: ResizeRequested, now: float) -> Actions:
    return (Log("warning", f"SIG{event.how.upper()} ignored: this master is {self.state.value}"),)


@_on(Predecessor, [_P.SERVING], StopRequested)
def _stop(self: Predecessor, event: StopRequested, now: float) -> Actions:
    self._become(_P.GONE, now)
    return (Stop(event.how),)


@_on(Predecessor, [_P.DRAINING], StopRequested)
def _stop_draining(self: Predecessor, event: StopRequested, now: float) -> Actions:
    self._become(_P.GONE, now)
    ended = Log("info", "Drain ended early")
    if self.limits.keeps_pid:
        # Whoever signals this pid means the service.
        return (ended, StopService(event.how), KeepPid(), Stop(event.how))
    # The successor is the service now; only what this master still holds ends early.
    return (ended, Stop(event.how))


@_on(Predecessor, _UPGRADING, StopRequested)
def _stop_upgrading(self: Predecessor, event: StopRequested, now: float) -> Actions:
    # SIGINT and SIGQUIT want it quick.
    patience = _patience(self) if event.how == "term" else self.limits.end
    self.stop_how = event.how
    return _give_up(self, now, f"this master was stopped by SIG{event.how.upper()}", patience, Then.STOP)


@_on(Predecessor, [_P.ENDING], StopRequested)
def _stop_ending(self: Predecessor, event: StopRequested, now: float) -> Actions:
    again = self.then is Then.STOP
    self.then, self.stop_how = Then.STOP, event.how
    return (KillSuccessor(),) if again or event.how != "term" else ()


@_on(Predecessor, [_P.BOOTING], SuccessorSpawned)
def _spawned(self: Predecessor, event: SuccessorSpawned, now: float) -> Actions:
    # "leaving" is for this master's own predecessor, if that one still drains: should this master die now, its
    # successor takes over, and a third generation that takes back as well would make two services of one.
    what = "Upgrade check" if self.check else "Upgrade"
    return (Log("info", f"{what}: booting successor with pid: {event.pid}"), Tell("leaving"))


@_on(Predecessor, [_P.BOOTING], SuccessorGreeted)
def _greeted(self: Predecessor, event: SuccessorGreeted, now: float) -> Actions:
    self.greeted = True
    return ()


@_on(Predecessor, [_P.BOOTING], SuccessorWaits)
def _waits(self: Predecessor, event: SuccessorWaits, now: float) -> Actions:
    self.waits = event.what
    return ()


@_on(Predecessor, [_P.BOOTING], SpawnFailed)
def _spawn_failed(self: Predecessor, event: SpawnFailed, now: float) -> Actions:
    self._become(_P.SERVING, now)
    self.check = False
    return (ReportFailure(f"the successor could not be started: {event.reason}"),)


@_on(Predecessor, [_P.BOOTING], UpgradeRequested)
def _replace(self: Predecessor, event: UpgradeRequested, now: float) -> Actions:
    self._become(_P.ENDING, now, self.limits.end)
    self.then, self.reported, self.next_id = Then.UPGRADE, True, event.id
    return (Log("info", "Upgrade: asked for again, replacing the booting successor"), EndSuccessor())


@_on(Predecessor, [_P.BOOTING], SuccessorReady)
def _ready(self: Predecessor, event: SuccessorReady, now: float) -> Actions:
    if self.check:
        self._become(_P.ENDING, now, self.limits.end)
        self.then, self.reported = Then.SERVE, True
        return (ReportChecked(), EndSuccessor())
    # The hook in this may take its time. So nobody is paused, and no bound of the cut-over runs, before it is done.
    return (ReportReady(),)


@_on(Predecessor, [_P.BOOTING], ReadyReported)
def _cut_over(self: Predecessor, event: ReadyReported, now: float) -> Actions:
    self._become(_P.PAUSING, now, self.limits.cutover)
    self.awaited = event.workers
    return (PauseWorkers(),) if self.awaited else (PauseWorkers(), *_open(self, now))


def _open(self: Predecessor, now: float) -> Actions:
    self.awaited = frozenset()
    self._become(_P.OPENING, now, self.limits.cutover)
    return (Tell("open"),)


@_on(Predecessor, [_P.PAUSING], WorkerPaused, WorkerGone)
def _paused(self: Predecessor, event: WorkerPaused | WorkerGone, now: float) -> Actions:
    if event.pid not in self.awaited:
        return ()
    self.awaited -= {event.pid}
    return () if self.awaited else _open(self, now)


@_on(Predecessor, [_P.PAUSING], Tick)
def _pause_overdue(self: Predecessor, event: Tick, now: float) -> Actions:
    pids = ", ".join(map(str, sorted(self.awaited)))
    text = f"Upgrade: no answer to the pause in {self.limits.cutover:g}s from worker {pids}; going on"
    return (Log("warning", text), *_open(self, now))


@_on(Predecessor, [_P.OPENING], GateOpened)
def _opened(self: Predecessor, event: GateOpened, now: float) -> Actions:
    if self.limits.probation:
        self._become(_P.PROBATION, now, self.limits.probation)
        text = f"Upgrade: cut over, in probation for {self.limits.probation:g}s (hot_probation)"
        return (Log("info", text),)
    return (Log("info", "Upgrade: cut over"), *_commit(self, Tick(), now))


@_on(Predecessor, [_P.PROBATION], Tick)
def _commit(self: Predecessor, event: Tick, now: float) -> Actions:
    self._become(_P.COMMITTING, now, self.limits.commit)
    return (ReleaseOwnership(), Tell("commit"))


@_on(Predecessor, [_P.PROBATION], CommitRequested)
def _commit_now(self: Predecessor, event: CommitRequested, now: float) -> Actions:
    text = f"Upgrade: the probation is ended by {event.by or 'an operator'}"
    return (Log("info", text), *_commit(self, Tick(), now))


@_on(Predecessor, [_P.COMMITTING], SuccessorCommitted)
def _committed(self: Predecessor, event: SuccessorCommitted, now: float) -> Actions:
    self._become(_P.DRAINING, now, self.limits.drain)
    self.alone = self.cut = False
    return (DrainWorkers(self.limits.drain),)


@_on(Predecessor, [_P.COMMITTING], SuccessorLeft)
def _committed_and_left(self: Predecessor, event: SuccessorLeft, now: float) -> Actions:
    # Only who has committed leaves: its "committed" was lost with a peer that was gone before it could be read.
    actions = _committed(self, SuccessorCommitted(), now)
    self.alone = True
    return actions


@_on(Predecessor, [_P.BOOTING], Tick)
def _not_ready(self: Predecessor, event: Tick, now: float) -> Actions:
    reason = f"not ready in {self.limits.ready:g}s (hot_ready_timeout)"
    if self.greeted:
        return _give_up(self, now, f"{reason}: {self.waits}" if self.waits else reason, self.limits.end)
    if self.limits.leave and not self.check:
        self._become(_P.GONE, now)
        text = f"The successor has not spoken in {self.limits.ready:g}s; leaving the service to it (hot_leave)"
        return (Log("warning", text), Stop("term"))
    hint = "it has said nothing: does its configuration import on_starting from gunicorn_hot?"
    return _give_up(self, now, f"{reason}; {hint}", self.limits.end)


@_on(Predecessor, [_P.OPENING], Tick)
def _not_open(self: Predecessor, event: Tick, now: float) -> Actions:
    reason = f"the successor was ready but did not accept in {self.limits.cutover:g}s"
    return _give_up_hung(self, now, reason)


@_on(Predecessor, [_P.COMMITTING], Tick)
def _not_committed(self: Predecessor, event: Tick, now: float) -> Actions:
    reason = f"the successor did not answer to the commit in {self.limits.commit:g}s"
    return _give_up_hung(self, now, reason)


@_on(Predecessor, _UPGRADING, SuccessorFailed)
def _failed(self: Predecessor, event: SuccessorFailed, now: float) -> Actions:
    return _give_up(self, now, event.reason, _patience(self))


@_on(Predecessor, _UPGRADING, SuccessorClosed)
def _closed(self: Predecessor, event: SuccessorClosed, now: float) -> Actions:
    if event.error:
        return _give_up(self, now, f"the channel to the successor broke: {event.error}", _patience(self))
    return _await_death(self, now)


def _await_death(self: Predecessor, now: float) -> Actions:
    """The end of the channel is a death under way: how it ends is the reason, which a SIGTERM from here would spoil."""
    self.patience = _patience(self)
    *rest, _ = _give_up(self, now, None, min(self.limits.cutover, self.patience))
    return tuple(rest)


@_on(Predecessor, _UPGRADING, SuccessorExited)
def _exited(self: Predecessor, event: SuccessorExited, now: float) -> Actions:
    resume: Actions = () if self.state is _P.BOOTING else (ResumeWorkers(),)
    self.then = Then.SERVE
    return (
        *resume,
        RestoreOwnership(),
        ReportFailure(f"the successor {event.status}"),
        *_resume_serving(self, now),
    )


@_on(Predecessor, [_P.ENDING], SuccessorExited)
def _ended(self: Predecessor, event: SuccessorExited, now: float) -> Actions:
    report: Actions = () if self.reported else (ReportFailure(f"the successor {event.status}"),)
    restore: Actions = () if self.then is Then.STOP else (RestoreOwnership(),)
    return (*restore, *report, *_resume_serving(self, now))


@_on(Predecessor, [_P.ENDING], Tick)
def _end_overdue(self: Predecessor, event: Tick, now: float) -> Actions:
    if self.patience is not None:
        self.deadline, self.patience = now + self.patience, None
        return (EndSuccessor(),)
    self.deadline = None
    return (Log("warning", "The successor did not end in time, killing it"), KillSuccessor())


@_on(Predecessor, [_P.ENDING], SuccessorFailed)
def _why_it_ends(self: Predecessor, event: SuccessorFailed, now: float) -> Actions:
    if self.reported:
        return ()
    self.reported = True
    return (ReportFailure(event.reason),)


@_on(Predecessor, [_P.ENDING], UpgradeRequested)
def _upgrade_after_end(self: Predecessor, event: UpgradeRequested, now: float) -> Actions:
    if self.then is Then.STOP:
        refuse: Actions = (Refuse(event.id, "the service is being stopped"),) if event.id else ()
        return (Log("warning", "SIGUSR2 ignored: this master is being stopped"), *refuse)
    refuse = _refuse_next(self, "asked for again: that request counts")
    self.then, self.next_id = Then.UPGRADE, event.id
    return (Log("info", "Upgrade: asked for, begins when the last successor has ended"), *refuse)


@_on(Predecessor, [*_PAUSED, _P.DRAINING], UpgradeRequested)
def _pass_on(self: Predecessor, event: UpgradeRequested, now: float) -> Actions:
    return (Log("info", "Upgrade: asked for again, passed on to the successor"), Tell("upgrade", event.id))


@_on(Predecessor, [_P.DRAINING], SuccessorLeft)
def _successor_left(self: Predecessor, event: SuccessorLeft, now: float) -> Actions:
    self.alone = True
    return ()


@_on(Predecessor, [_P.DRAINING], SuccessorStayed)
def _successor_stayed(self: Predecessor, event: SuccessorStayed, now: float) -> Actions:
    self.alone = False
    return ()


@_on(Predecessor, [_P.DRAINING], SuccessorClosed, SuccessorFailed)
def _take_back(self: Predecessor, event: SuccessorClosed | SuccessorFailed, now: float) -> Actions:
    if self.alone:
        return ()
    reason = event.reason if isinstance(event, SuccessorFailed) else event.error
    return _give_up(self, now, reason, _patience(self)) if reason is not None else _await_death(self, now)


@_on(Predecessor, [_P.DRAINING], SuccessorExited)
def _take_back_from_dead(self: Predecessor, event: SuccessorExited, now: float) -> Actions:
    if self.alone:
        return ()
    self.then = Then.SERVE
    return (
        ResumeWorkers(),
        RestoreOwnership(),
        ReportFailure(f"the successor {event.status} after the commit; taking back"),
        *_resume_serving(self, now),
    )


@_on(Predecessor, [_P.DRAINING], AllWorkersGone)
def _drained(self: Predecessor, event: AllWorkersGone, now: float) -> Actions:
    self.deadline = None
    return (ReportDone(),)


@_on(Predecessor, [_P.DRAINING], DoneReported)
def _done(self: Predecessor, event: DoneReported, now: float) -> Actions:
    self._become(_P.GONE, now)
    return (KeepPid(), Leave()) if self.limits.keeps_pid else (Leave(),)


@_on(Predecessor, [_P.DRAINING], Tick)
def _drain_overdue(self: Predecessor, event: Tick, now: float) -> Actions:
    if self.cut:
        self.deadline = None
        return (Log("warning", f"Workers did not leave in {self.limits.end:g}s, killing them"), KillWorkers())
    self.cut = True
    self.deadline = now + self.limits.end
    text = f"Drain: {self.limits.drain:g}s are over (hot_drain_timeout), cutting what is left"
    return (Log("warning", text), CutWorkers())


_ignore(
    Predecessor,
    "a worker that ends or answers matters only while the pause is awaited",
    [_P.SERVING, _P.BOOTING, _P.OPENING, _P.PROBATION, _P.COMMITTING, _P.DRAINING, _P.ENDING],
    WorkerPaused,
    WorkerGone,
)
_ignore(
    Predecessor,
    "only a drain ends with the last worker; in every other state missing workers are booted again",
    [_P.SERVING, *_UPGRADING, _P.ENDING],
    AllWorkersGone,
)
_ignore(
    Predecessor,
    "the successor has died while the end of the drain was reported, and was taken back from",
    [_P.SERVING, _P.BOOTING, _P.ENDING, _P.GONE],
    DoneReported,
)
_ignore(
    Predecessor,
    "the successor has died while it was reported that it is ready",
    [_P.SERVING, _P.ENDING, _P.GONE],
    ReadyReported,
)
_ignore(
    Predecessor,
    "what keeps a successor from being ready is of interest while it boots",
    [state for state in _P if state is not _P.BOOTING],
    SuccessorWaits,
)
_ignore(
    Predecessor,
    "said by a successor that is being ended",
    [_P.ENDING],
    SuccessorGreeted,
    SuccessorReady,
    GateOpened,
    SuccessorCommitted,
    SuccessorLeft,
    SuccessorStayed,
    SuccessorClosed,
)
_ignore(
    Predecessor,
    "said or done by a successor that had been given up, and has ended since",
    [_P.SERVING],
    SuccessorFailed,
    SuccessorClosed,
    SuccessorExited,
)
_ignore(Predecessor, "no deadline is set in this state", [_P.SERVING, _P.GONE], Tick)
_ignore(
    Predecessor,
    "this master is leaving",
    [_P.GONE],
    UpgradeRequested,
    CheckRequested,
    AbortRequested,
    RollbackRequested,
    CommitRequested,
    StopRequested,
    ReloadRequested,
    ResizeRequested,
    WorkerPaused,
    WorkerGone,
    AllWorkersGone,
    SuccessorGreeted,
    SuccessorReady,
    GateOpened,
    SuccessorCommitted,
    SuccessorFailed,
    SuccessorLeft,
    SuccessorStayed,
    SuccessorClosed,
    SuccessorExited,
)


# --- the successor ----------------------------------------------------------------------------------------------


class SuccessorState(Enum):
    BOOTING = "booting"
    READY = "ready, waiting for the gate"
    OPEN = "in probation"
    SOLE = "serving"
    HALTING = "halting"


_S = SuccessorState
_UNCOMMITTED = [_S.BOOTING, _S.READY, _S.OPEN]


class Successor(Machine):
    """The new master's side of the hand-over, until it is the sole owner of the service.

    `stock`: the predecessor is a plain gunicorn, which has no channel: it gets SIGTERM once this side is ready."""

    table = {}
    ignored = {}

    def __init__(self, stock: bool = False) -> None:
        super().__init__()
        self.state: SuccessorState = _S.BOOTING
        self.stock = stock
        #: An upgrade was asked for before this master was the one to do it.
        self.upgrade_wanted = False
        #: By this request.
        self.upgrade_id = ""
        #: Abnormal deaths of workers since the gate opened.
        self.deaths = 0


def _upgrade_if_wanted(self: Successor) -> Actions:
    wanted, id = self.upgrade_wanted, self.upgrade_id
    self.upgrade_wanted, self.upgrade_id = False, ""
    return (RequestUpgrade(id),) if wanted else ()


@_on(Successor, [_S.BOOTING], WorkersCounted)
def _counted(self: Successor, event: WorkersCounted, now: float) -> Actions:
    if event.ready < event.total or not event.total:
        return (Tell("progress"),)
    if self.stock:
        self.state = _S.OPEN
        text = f"All {event.total} workers are ready, stopping the predecessor, which is no gunicorn_hot"
        return (Log("info", text), OpenGate(), EndPredecessor())
    self.state = _S.READY
    return (Tell("progress"), Tell("ready"))


@_on(Successor, [_S.READY], GateOrdered)
def _open_gate(self: Successor, event: GateOrdered, now: float) -> Actions:
    self.state = _S.OPEN
    return (OpenGate(), Tell("opened"))


@_on(Successor, [_S.OPEN], CommitOrdered)
def _take_over(self: Successor, event: CommitOrdered, now: float) -> Actions:
    self.state = _S.SOLE
    return (TakeOwnership(), Tell("committed"), *_upgrade_if_wanted(self))


@_on(Successor, _UNCOMMITTED, PredecessorClosed)
def _orphaned(self: Successor, event: PredecessorClosed, now: float) -> Actions:
    gate: Actions = () if self.state is _S.OPEN else (OpenGate(),)
    expected = self.stock and self.state is _S.OPEN
    self.state = _S.SOLE
    log: Actions = () if expected else (Log("warning", "The predecessor is gone, going on without it"),)
    return (*log, *gate, TakeOwnership(), *_upgrade_if_wanted(self))


@_on(Successor, [_S.BOOTING], WorkerFailed)
def _worker_failed(self: Successor, event: WorkerFailed, now: float) -> Actions:
    self.state = _S.HALTING
    return (TellFailed(event.reason), Halt(event.reason))


@_on(Successor, [_S.OPEN], WorkerDied, WorkerFailed)
def _worker_died(self: Successor, event: WorkerDied | WorkerFailed, now: float) -> Actions:
    if self.stock:
        # The predecessor is already stopping: there is nobody to go back to.
        return ()
    self.deaths += 1
    if isinstance(event, WorkerDied):
        if event.alive and self.deaths <= event.total:
            return ()
        left = "none is left" if not event.alive else f"{self.deaths} deaths of {event.total} workers"
        reason = f"its workers keep dying in the probation ({left}): {event.reason}"
    else:
        reason = f"a worker could not be booted again in the probation: {event.reason}"
    self.state = _S.HALTING
    return (TellFailed(reason), Halt(reason))


@_on(Successor, _UNCOMMITTED, StopRequested)
def _stop_uncommitted(self: Successor, event: StopRequested, now: float) -> Actions:
    self.state = _S.HALTING
    return (TellFailed(f"the successor was stopped by SIG{event.how.upper()}"), Stop(event.how))


@_on(Successor, _UNCOMMITTED, UpgradeRequested)
def _upgrade_later(self: Successor, event: UpgradeRequested, now: float) -> Actions:
    refuse: Actions = (Refuse(self.upgrade_id, "asked for again: that request counts"),) if self.upgrade_id else ()
    self.upgrade_wanted, self.upgrade_id = True, event.id
    return (Log("info", "Upgrade: asked for, begins when this master has taken over"), *refuse)


@_on(Successor, [_S.SOLE], UpgradeRequested)
def _upgrade_now(self: Successor, event: UpgradeRequested, now: float) -> Actions:
    return (RequestUpgrade(event.id),)


@_on(Successor, _UNCOMMITTED, ReloadRequested)
def _refuse_reload_yet(self: Successor, event: ReloadRequested, now: float) -> Actions:
    return (Log("warning", "SIGHUP ignored: this master has not taken over yet"),)


@_on(Successor, _UNCOMMITTED, ResizeRequested)
def _refuse_resize_yet(self: Successor, event: ResizeRequested, now: float) -> Actions:
    return (Log("warning", f"SIG{event.how.upper()} ignored: this master has not taken over yet"),)


@_on(Successor, [_S.SOLE], PredecessorClosed)
def _predecessor_left(self: Successor, event: PredecessorClosed, now: float) -> Actions:
    return (Log("info", "The predecessor has left"),)


_ignore(
    Successor,
    "READY was said and stays true: a worker lost at the gate is booted again and waits there",
    [_S.READY],
    WorkersCounted,
    WorkerFailed,
    WorkerDied,
)
_ignore(
    Successor,
    "a ready worker that dies before READY is booted again; READY waits for it",
    [_S.BOOTING],
    WorkerDied,
)
_ignore(Successor, "READY was said; the count is only of interest before", [_S.OPEN], WorkersCounted)
_ignore(
    Successor,
    "after the commit gunicorn's own rules are in force",
    [_S.SOLE],
    WorkersCounted,
    WorkerFailed,
    WorkerDied,
)
_ignore(
    Successor,
    "the predecessor's order crossed this side's decision to take over without it",
    [_S.SOLE],
    GateOrdered,
    CommitOrdered,
)
_ignore(
    Successor,
    "this master is halting; the predecessor will read why, or EOF",
    [_S.HALTING],
    WorkersCounted,
    WorkerFailed,
    WorkerDied,
    GateOrdered,
    CommitOrdered,
    PredecessorClosed,
    StopRequested,
    UpgradeRequested,
    ReloadRequested,
    ResizeRequested,
)
_ignore(Successor, "this machine sets no deadline: the predecessor bounds every wait", list(SuccessorState), Tick)


def event_types(machine: type[Machine]) -> list[type[Event]]:
    """Return every event type that some state of `machine` handles or ignores."""
    return sorted({event for _, event in (*machine.table, *machine.ignored)}, key=lambda t: t.__name__)
