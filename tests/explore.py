"""Explores every interleaving of an upgrade: both machines of `handover`, over a fake wire, breadth first.

A `World` is a few master processes and what is around them, as plain tuples: it can be hashed, and two histories
that end in the same world are explored once. A `Move` is something that the environment does: a master reads its
channel, a worker is ready, a bound is over, a process is killed. `Model.moves` lists the moves that are possible in
a world, and `Model.apply` makes one: it feeds the machines and performs their actions as `gunicorn_hot.arbiter` does.
What the machines rely on in the arbiter is listed in `Shell`, and nowhere else.

There may be more than two masters: a successor that is told to upgrade starts a third while the first still drains.

What the model leaves out, or makes coarser, and why that is sound:

* A channel is read to its end in one move, as `Channel.receive` does. "progress" and "hello" cause no event.
* A worker's death and its reaping are one move; so are "ready" and the master's reading of it. Each causes events
  in its own master only, and the move may come at any time.
* A worker that accepts reads a pause whenever it wants to (a busy one: late, or never in time). All other orders
  take effect at once, because only a worker that could accept is a danger.
* The workers of a master that is dead or stopping are gone at once: their link ends, or they get SIGTERM, and either
  way they accept nothing more.
* Time is in no state. A deadline is set or not, and `Tick` comes when it is over.
* Where the service keeps its pid, the first master becomes the holder when it would exit. A holder decides by the real
  `holder.Hold`; it hears an announcement when it next has to act, and reaps at once what has come to it.
"""

from __future__ import annotations

import gc
import signal
from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from gunicorn_hot import handover
from gunicorn_hot.handover import PredecessorState as P
from gunicorn_hot.handover import SuccessorState as S
from gunicorn_hot.handover import Then
from gunicorn_hot.holder import Hold

#: Who owns the pid file, when it is no master of this world: nobody, or one that is dead.
NOBODY, STALE = -1, -2

#: Master.term: the loop reads each channel once more, and then takes its signals (`wait_for_signals`).
PENDING, READ_PREDECESSOR, READ_SUCCESSOR = 1, 2, 4

#: A bound that ends here is the ordinary course of things; elsewhere somebody was too slow: a fault.
PATIENT = (P.PROBATION, P.DRAINING)
UPGRADING = (P.BOOTING, P.PAUSING, P.OPENING, P.PROBATION, P.COMMITTING)


#: What a successor says, and what of it counts when its end comes in the same read: as in the arbiter. "hello" and
#: "progress" cause no event.
TO_PREDECESSOR = ("progress", "ready", "opened", "committed", "failed", "leaving", "staying")
LAST_WORDS = ("failed", "leaving", "staying")


#: What an operator may ask of a master, beside signals.
REQUESTS = {
    "is asked to check": handover.CheckRequested(),
    "is asked to abort": handover.AbortRequested(),
    "is asked to roll back": handover.RollbackRequested(),
    "is asked to commit": handover.CommitRequested(),
}


class Move(NamedTuple):
    """Something that the environment does to master number `who`; `what` is a worker's pid."""

    name: str
    who: int
    what: int = -1

    def __str__(self) -> str:
        worker = f" (worker {self.what})" if self.what >= 0 else ""
        return f"master {self.who} {self.name}{worker}"


class Worker(NamedTuple):
    pid: int
    #: "booting", "held" at the gate, "accepting", "paused", "draining", "ended": was cut or killed
    phase: str
    #: Not read yet: only a worker that accepts, or that boots, lets its master wait.
    orders: tuple[str, ...] = ()
    #: Its second to answer the pause is over, and it may go on accepting until it has read it.
    late: bool = False
    #: Answers "paused" that its master has not read yet.
    said: int = 0


class Master:
    """A master process, in the making of a move. Between two moves it is the tuple of its fields."""

    #: status: "alive"; "stopping", in gunicorn's stop(), deaf to all; "dead", not reaped yet; "reaped", in a move;
    #: "holding": it is the holder
    #: parent, child: numbers of masters, or -1; also -1: a parent that is gone, whose EOF may be unread
    #: out, inc: the two machines, as numbers of Model.machines; inc is -1 in a master that was no successor
    #: up, down: what is in the channel to the parent, by direction; up_eof, down_eof: EOF was read there
    #: broken: the channel has ended though both live, by an error at the "parent"'s or the "child"'s end
    #: term: SIGTERM is pending, and which channels were read since (see PENDING); doomed: its parent has given it up
    #: owns: it is the service, as far as it knows
    FIELDS = (
        "status", "parent", "child", "out", "inc", "gate", "workers", "up", "down", "up_eof", "down_eof",
        "broken", "term", "doomed", "owns",
    )  # fmt: skip
    __slots__ = FIELDS
    status: str
    parent: int
    child: int
    out: int
    inc: int
    gate: bool
    workers: tuple[Worker, ...]
    up: tuple[str, ...]
    down: tuple[str, ...]
    up_eof: bool
    down_eof: bool
    broken: str
    term: int
    doomed: bool
    owns: bool

    def __init__(self, values: tuple[Any, ...]) -> None:
        for name, value in zip(self.FIELDS, values, strict=True):
            setattr(self, name, value)


_freeze_master = attrgetter(*Master.FIELDS)
_OUT, _INC, _WORKERS = (Master.FIELDS.index(name) for name in ("out", "inc", "workers"))


class World(NamedTuple):
    masters: tuple[tuple[Any, ...], ...]
    #: The master that the pid file names.
    pidfile: int
    #: Whether the unix socket's file is there.
    socket: bool
    #: "": the service must be up in the end. "stopped": the operator has stopped it. "lost": the faults have left
    #: no master that could serve.
    over: str
    faults: int
    signals: int
    #: The master whose pid is the service's and stays that, or -1: the service has the pid of its master.
    keeper: int = -1
    #: Those who have announced themselves to it, in order, and those whose word it has not heard yet; -1: is dead.
    announced: tuple[int, ...] = ()
    unheard: tuple[int, ...] = ()
    #: The holder was told to stop the service.
    stopping: bool = False


class Violation(AssertionError):
    """An invariant does not hold."""


class _LeftLoop(Exception):
    """StopIteration or HaltServer: the master leaves its main loop, whatever it was doing."""


@dataclass(frozen=True)
class Bounds:
    """What keeps a world finite."""

    #: Deaths, broken channels, failed forks and boots, and bounds that are over before the answer came.
    faults: int = 2
    #: SIGUSR2 and SIGTERM from the operator, after the first SIGUSR2; with `requests` these, too.
    signals: int = 1
    old_workers: int = 2
    new_workers: int = 1
    probation: float = 5.0
    #: Let an answer of a worker lie in its link.
    slow_links: bool = False
    #: A channel may break between two masters that live. Each then believes that the other is dead.
    channels_break: bool = False
    #: The service keeps its pid.
    keeps_pid: bool = False
    #: The operator's signals are also requests: to check, to abort, to roll back, to commit.
    requests: bool = False


@dataclass(frozen=True)
class Shell:
    """The rules of the arbiter that the model assumes; whoever changes one there must look here.

    Those with a switch can be turned off; a test does so with each, to see what it is for. Those without:

    * An event goes to the Successor machine until that is SOLE, and then to the Predecessor machine; SuccessorExited
      always goes to the latter, and what the predecessor says always to the former (`_step`, `_feed_incoming`).
    * Events that an action causes are taken in order, after the current actions; none is taken once the main loop
      has been left (`feed`).
    * Of what is read together with the end of a successor only `_LAST_WORDS` count (`_on_successor`).
    * "ready" counts the workers that are ready at this moment. A worker that is not about to accept has answered a
      pause by that (`_may_accept`, `_pause_workers`).
    * Missing workers are booted while `Predecessor.accepting`, and in an uncommitted successor (`manage_workers`).
    * A worker that cannot boot ends an uncommitted successor, and also a master that has no other worker that is
      ready; it then says "failed" (`_survive`, `halt`).
    * A master that has taken over and leaves, for whatever other reason, says "leaving" (`halt`).
    * stop() unlinks unix sockets unless this master has not taken over, has handed over, or has a successor (`stop`,
      and gunicorn's).
    """

    #: The loop reads what has been said before it looks at the clock and at signals (`wait_for_signals`).
    reads_before_it_judges: bool = True
    #: A successor that has died is reaped before workers that have died (`reap_workers`).
    reaps_the_successor_first: bool = True
    #: What a successor has said before it died is read before its death is told, however late it was said: also what
    #: came between a last look at the channel and the reaping (`reap_workers`).
    hears_last_words: bool = True
    #: A successor that has been reaped gets no signal: its pid may be another process's (`Successor.signal`).
    signals_no_reaped_pid: bool = True
    #: stop() unlinks unix sockets only if no predecessor lives that could take back (`stop`).
    spares_a_predecessors_sockets: bool = True
    #: A worker's "paused" counts when it answers the last pause that was ordered (`_from_worker`).
    counts_answers: bool = True
    #: A successor whose upgrade has failed says so to a predecessor that still drains, and is heard
    #: (`_TO_PREDECESSOR`, `_LAST_WORDS`, `_from_successor`).
    hears_who_stays: bool = True
    #: A holder that was told to stop the service tells that whoever announces itself later (`Hold.announced`).
    stops_heirs: bool = True
    #: A master stops when the process with the service's pid is gone (`_on_holder`).
    stops_without_its_holder: bool = True


@dataclass
class Result:
    states: int = 0
    transitions: int = 0
    depth: int = 0
    #: How many worlds are at rest, and how they ended: "" is a service that is up.
    ends: dict[str, int] = field(default_factory=dict)
    #: Which (machine, state, event type) were met.
    met: set[tuple[str, str, str]] = field(default_factory=set)


class Model:
    def __init__(
        self,
        bounds: Bounds,
        predecessor: type[handover.Predecessor] = handover.Predecessor,
        successor: type[handover.Successor] = handover.Successor,
        shell: Shell = Shell(),
    ) -> None:
        self.bounds = bounds
        self.shell = shell
        self.successor = successor
        #: Each state of a machine that was met; the worlds hold its number.
        self.machines: list[Any] = []
        self.met: set[tuple[str, str, str]] = set()
        self._numbers: dict[Any, int] = {}
        self._steps: dict[tuple[int, handover.Event], tuple[int, handover.Actions]] = {}
        self.serving = self._number(
            predecessor(handover.Limits(probation=bounds.probation, keeps_pid=bounds.keeps_pid))
        )
        #: That of a later master: its pid is nobody's.
        self.held = self._number(predecessor(handover.Limits(probation=bounds.probation)))

    # --- machines

    def _number(self, machine: handover.Machine) -> int:
        if machine.deadline is not None:
            machine.deadline = 1.0
        values = {**vars(machine)}
        if "limits" in values:
            values["limits"] = values["limits"].keeps_pid
        if values.get("reason") is not None:
            values["reason"] = "why"
        key = (type(machine), *sorted(values.items()))
        if key not in self._numbers:
            self._numbers[key] = len(self.machines)
            self.machines.append(machine)
        return self._numbers[key]

    def new_successor(self) -> int:
        return self._number(self.successor())

    def step(self, number: int, event: handover.Event) -> tuple[int, handover.Actions]:
        key = (number, event)
        found = self._steps.get(key)
        if found is None:
            machine = self.machines[number].copy()
            side = type(self.machines[number]).__name__
            self.met.add((side, machine.state.name, type(event).__name__))
            try:
                actions = machine.step(event, 1.0 if isinstance(event, handover.Tick) else 0.0)
            except handover.Unexpected as exc:
                raise Violation(f"a machine raised Unexpected: {exc}") from None
            found = self._steps[key] = self._number(machine), actions
        return found

    def is_incoming(self, master: Any) -> bool:
        return master.inc >= 0 and self.machines[master.inc].state is not S.SOLE

    # --- worlds

    def start(self) -> World:
        """Return a service at rest."""
        workers = tuple(Worker(pid, "accepting") for pid in range(self.bounds.old_workers))
        ends = (True, True, "", 0, False, True)
        master = ("alive", -1, -1, self.serving, -1, True, workers, (), (), *ends)
        keeper = 0 if self.bounds.keeps_pid else -1
        return World((master,), 0, True, "", self.bounds.faults, self.bounds.signals, keeper)

    def moves(self, world: World) -> tuple[list[Move], list[Move]]:
        """Return what happens by itself in this world sooner or later, and what may happen to it."""
        masters = [Master(values) for values in world.masters]
        fair: list[Move] = []
        slow: list[Move] = []
        faults: list[Move] = []
        signals: list[Move] = []
        for who, master in enumerate(masters):
            if master.status in ("stopping", "leaving"):
                fair.append(Move("exits", who))
                faults.append(Move("is killed", who))
            if master.status == "holding":
                self._holder_moves(world, who, masters, fair, slow, faults, signals)
            if master.status != "alive":
                continue
            before = len(fair)
            if master.child >= 0:
                child = masters[master.child]
                readable = child.up or child.broken or child.status == "dead"
                if readable and not child.up_eof and not master.term & READ_SUCCESSOR:
                    fair.append(Move("reads its successor", who))
                if child.status == "dead":
                    fair.append(Move("reaps its successor", who))
                    if self.machines[master.out].then is Then.UPGRADE:
                        faults.append(Move("reaps its successor and cannot fork", who))
                else:
                    faults.append(Move("reaps its successor, which has died this moment", who))
                    if self.is_incoming(child):
                        faults.append(Move("reaps its successor, which has failed and died this moment", who))
                if self.bounds.channels_break and not child.up_eof and not child.broken:
                    faults.append(Move("loses the channel to its successor", who))
                    faults.append(Move("is left by its living successor", who))
            if not master.down_eof:
                gone = master.parent < 0 or masters[master.parent].status == "dead"
                if (master.down or master.broken or gone) and not master.term & READ_PREDECESSOR:
                    fair.append(Move("reads its predecessor", who))
            hears = len(fair) > before
            faults.append(Move("is killed", who))
            if master.term:
                fair.append(Move("gets the predecessor's SIGTERM", who))
                continue
            out = self.machines[master.out]
            self._worker_moves(who, master, out, fair, faults)
            if not hears or not self.shell.reads_before_it_judges:
                if out.deadline is not None:
                    (fair if out.state in PATIENT else slow).append(Move("is out of patience", who))
                signals += [Move("gets SIGUSR2", who), Move("gets SIGTERM", who)]
                if self.bounds.requests and not self.is_incoming(master):
                    # One that has not taken over leaves requests to its predecessor.
                    signals += [Move(name, who) for name in REQUESTS]
            if master.inc < 0 or not self.is_incoming(master):
                if out.state is P.SERVING:
                    faults.append(Move("gets SIGUSR2 and cannot fork", who))
            elif not any(worker.phase != "booting" for worker in master.workers) and not master.up:
                faults.append(Move("fails in its exec", who))
        if not fair:
            fair = slow
        else:
            faults += slow
        extra: list[Move] = []
        if not world.over:
            extra += faults if world.faults else []
            extra += signals if world.signals else []
        return fair, extra

    def _holder_moves(
        self, world: World, who: int, masters: list[Master], fair: list[Move], slow: list[Move], faults: list[Move],
        signals: list[Move],
    ) -> None:  # fmt: skip
        announced = (*world.announced, *world.unheard)
        if all(other == who for other, _ in enumerate(masters)):
            fair.append(Move("holds nobody any more", who))
            return
        faults.append(Move("is killed", who))
        if world.unheard and world.stopping:
            fair.append(Move("hears who is the master", who))
        if not any(other >= 0 and masters[other].status != "dead" for other in announced):
            slow.append(Move("holds nobody any more", who))
        current = masters[announced[-1]] if announced and announced[-1] >= 0 else None
        if current is None or not (current.term or self._can_read(masters, current)):
            signals.append(Move("passes SIGUSR2 on", who))
        signals.append(Move("passes SIGTERM on", who))

    def _can_read(self, masters: list[Master], master: Master) -> bool:
        if master.child >= 0:
            child = masters[master.child]
            if (child.up or child.broken or child.status == "dead") and not child.up_eof:
                return True
        gone = master.parent < 0 or masters[master.parent].status == "dead"
        return not master.down_eof and bool(master.down or master.broken or gone)

    def _worker_moves(self, who: int, master: Master, out: Any, fair: list[Move], faults: list[Move]) -> None:
        seen = set()
        for worker in master.workers:
            # Of workers that differ in nothing but their pids one is enough.
            kind = (worker[1:], worker.pid in out.awaited)
            if kind in seen:
                continue
            seen.add(kind)
            pid = worker.pid
            if worker.phase == "booting":
                fair.append(Move("has a worker ready", who, pid))
                faults.append(Move("has a worker that cannot boot", who, pid))
            elif worker.orders:
                fair.append(Move("has a worker that reads its link", who, pid))
            if worker.said:
                fair.append(Move("reads a worker's link", who, pid))
            if worker.phase in ("draining", "ended"):
                fair.append(Move("reaps a worker that has left", who, pid))
            if worker.phase != "ended":
                faults.append(Move("has a worker killed", who, pid))

    def apply(self, world: World, move: Move, costs: bool, trace: list[str] | None = None) -> World:
        """Return the world after `move`; `costs`: it is no fair one, and counts. Raises Violation."""
        return _Run(self, world, trace).make(move, costs)

    # --- invariants

    def check(self, world: World) -> None:
        """Raise Violation when `world` must not be."""
        accepting = [
            who
            for who, values in enumerate(world.masters)
            if any(worker.phase == "accepting" and not worker.late for worker in values[_WORKERS])
        ]
        for young in accepting[1:]:
            master = Master(world.masters[young])
            # A successor that was given up is ended while the old workers resume: to wait for its end would
            # leave nobody to accept. One whose channel broke cannot know that its predecessor lives.
            if not master.doomed and not master.broken:
                raise Violation(f"two generations accept: masters {accepting}")
        for who, values in enumerate(world.masters):
            master = Master(values)
            if master.status == "alive":
                self._check_patience(world, who, master)
                self._check_heir(world, who, master)
                if not self.is_incoming(master):
                    self._check_pidfile(world, who, master)

    def _check_patience(self, world: World, who: int, master: Master) -> None:
        """Nobody waits for what cannot come, nor without a bound."""
        if self.is_incoming(master):
            if master.down_eof:
                state = self.machines[master.inc].state
                raise Violation(f"master {who} knows that its predecessor is gone, and is {state.name}")
            return
        machine = self.machines[master.out]
        name = f"master {who} is {machine.state.name}"
        if machine.check and any(worker.phase in ("paused", "draining") for worker in master.workers):
            raise Violation(f"{name}, and a mere check has paused its workers")
        child = Master(world.masters[master.child]) if master.child >= 0 else None
        needs_it = machine.state in UPGRADING or (machine.state is P.DRAINING and not machine.alone)
        if needs_it and (child is None or child.up_eof):
            raise Violation(f"{name}, and knows that its successor is gone")
        if machine.state is P.ENDING and child is None:
            raise Violation(f"{name}, and there is no successor")
        if machine.deadline is None:
            killed = child is not None and child.status == "dead"
            if machine.state in UPGRADING or (machine.state is P.ENDING and not killed):
                raise Violation(f"{name} without a bound")
            if machine.state is P.DRAINING and any(worker.phase != "ended" for worker in master.workers):
                raise Violation(f"{name} without a bound")

    def _check_heir(self, world: World, who: int, master: Master) -> None:
        """Who drains takes back from a successor that dies, unless that one has left or has a successor itself.

        What is still in the channel will be read first, also after a death."""
        machine = self.machines[master.out]
        if machine.state not in (P.COMMITTING, P.DRAINING) or master.child < 0:
            return
        child = Master(world.masters[master.child])
        if child.up_eof or child.broken or "failed" in child.up:
            return
        heir = self.machines[child.out].state is not P.SERVING or child.status == "stopping"
        if self.is_incoming(child):
            heir = False
        if self.will_be_alone(machine, child) != heir:
            whether = ("would", "has a") if heir else ("would not", "has no")
            raise Violation(
                f"master {who} {whether[0]} take back from master {master.child}, which {whether[1]} successor"
            )

    def will_be_alone(self, machine: Any, child: Master) -> bool:
        """Whether a predecessor, once it has read all that is in the channel, has no reason to take back."""
        alone: bool = machine.alone
        for word in child.up:
            if word in ("leaving", "staying"):
                alone = word == "leaving"
        return alone

    def _check_pidfile(self, world: World, who: int, master: Master) -> None:
        """Before the commit the pid file names the predecessor."""
        state = self.machines[master.out].state
        if world.keeper >= 0:
            if world.pidfile != world.keeper and not world.over:
                raise Violation(f"the pid file names {world.pidfile}, and the service's pid is that of {world.keeper}")
            return
        if state not in (P.SERVING, *UPGRADING) or state is P.COMMITTING:
            return
        if world.pidfile == who or world.over:
            return
        # A successor that was given up may have committed just before. One whose channel breaks must believe
        # that it is alone; its predecessor takes the file back when it has ended it.
        if not master.doomed and not any(Master(other).broken for other in world.masters):
            raise Violation(f"master {who} is {state.name}, and the pid file names {world.pidfile}")

    def check_rest(self, world: World) -> None:
        """Raise Violation when a service must not come to rest like this."""
        if world.over == "lost":
            return
        masters = [Master(values) for values in world.masters]
        alive = [who for who, master in enumerate(masters) if master.status == "alive"]
        if world.over == "stopped":
            if masters:
                raise Violation(f"the service was stopped, and masters {alive} of {len(masters)} are still there")
            return
        holders = [who for who, master in enumerate(masters) if master.status == "holding"]
        if len(alive) != 1 or len(masters) != 1 + len(holders):
            raise Violation(f"at rest there must be one master: {len(masters)} exist, {len(alive)} live")
        if self.bounds.keeps_pid:
            if world.keeper not in (*alive, *holders):
                raise Violation("the service lives, and its pid does not")
            if holders and (*world.announced, *world.unheard)[-1] != alive[0]:
                raise Violation("the holder does not know who is the master")
        master = masters[alive[0]]
        machine = self.machines[master.out]
        if machine.state is not P.SERVING or self.is_incoming(master):
            raise Violation(f"at rest the master must be SERVING, not {machine.state.name}")
        phases = [worker.phase for worker in master.workers]
        if set(phases) != {"accepting"}:
            raise Violation(f"at rest all workers must accept: {phases}")
        # Two that live and cannot talk both take the file. If then the last to do so is killed, it stays stale.
        named = world.keeper if self.bounds.keeps_pid else 0
        if world.pidfile != named and not master.broken:
            raise Violation("at rest the pid file must name the service's pid")
        if not world.socket:
            raise Violation("the socket's file was unlinked, and the service goes on")
        if machine.deadline is not None:
            raise Violation("at rest no deadline may be set")
        number, actions = self.step(master.out, handover.UpgradeRequested())
        if self.machines[number].state is not P.BOOTING or handover.StartSuccessor() not in actions:
            raise Violation("the next upgrade is impossible")

    # --- exploration

    def explore(self) -> Result:
        """Visit every world that can be reached. Raises Violation, with the shortest history that leads to it."""
        enabled = gc.isenabled()
        gc.disable()
        try:
            return self._explore()
        finally:
            if enabled:
                gc.enable()

    def _explore(self) -> Result:
        result = Result(met=self.met)
        first = self.start()
        origin: dict[World, tuple[World, Move, bool] | None] = {first: None}
        depths = {first: 0}
        fair_into: dict[World, list[World]] = {}
        fair_left: dict[World, int] = {}
        todo = deque([first])
        while todo:
            world = todo.popleft()
            fair, extra = self.moves(world)
            if world is first:
                extra.append(Move("gets SIGUSR2", 0))
            fair_left[world] = len(fair)
            if not fair:
                self._checked(self.check_rest, world, world, origin)
                result.ends[world.over] = result.ends.get(world.over, 0) + 1
            for index, move in enumerate((*fair, *extra)):
                is_fair = index < len(fair)
                costs = not is_fair and not (world is first and index == len(fair) + len(extra) - 1)
                try:
                    after = self.apply(world, move, costs)
                except Violation as exc:
                    raise self._told(exc, world, origin, (move, costs)) from None
                result.transitions += 1
                if is_fair:
                    fair_into.setdefault(after, []).append(world)
                if after in origin:
                    continue
                origin[after] = (world, move, costs)
                depths[after] = depths[world] + 1
                self._checked(self.check, after, after, origin)
                todo.append(after)
        result.states = len(origin)
        result.depth = max(depths.values())
        self._check_fairness(fair_into, fair_left, origin)
        return result

    def _check_fairness(self, fair_into: dict[World, list[World]], fair_left: dict[World, int], origin: Any) -> None:
        """Without faults and signals every world comes to rest: the fair moves make no circle."""
        todo = [world for world, left in fair_left.items() if not left]
        while todo:
            for before in fair_into.get(todo.pop(), ()):
                fair_left[before] -= 1
                if not fair_left[before]:
                    todo.append(before)
        for world, left in fair_left.items():
            if left:
                raise self._told(Violation("a world that never comes to rest"), world, origin)

    def _checked(self, check: Any, subject: World, world: World, origin: Any) -> None:
        try:
            check(subject)
        except Violation as exc:
            raise self._told(exc, world, origin) from None

    def _told(self, exc: Violation, world: World, origin: Any, last: tuple[Move, bool] | None = None) -> Violation:
        """Return `exc` with the transcript of how `world` came about."""
        moves = [(world, *last)] if last else []
        while (step := origin[world]) is not None:
            moves.insert(0, step)
            world = step[0]
        trace: list[str] = []
        for before, move, costs in moves:
            try:
                self.apply(before, move, costs, trace)
            except Violation:
                break
        return Violation("\n".join([f"{exc}, after:", *trace]))


class _Run:
    """One move, being made."""

    def __init__(self, model: Model, world: World, trace: list[str] | None) -> None:
        self.model = model
        self.masters: list[Master | None] = [Master(values) for values in world.masters]
        self.world = world
        self.pidfile = world.pidfile
        self.socket = world.socket
        self.over = world.over
        self.trace = trace
        self.can_fork = True
        self.keeper = world.keeper
        self.announced = list(world.announced)
        self.unheard = list(world.unheard)
        self.stopping = world.stopping
        #: Whoever leaves its main loop in this move becomes the holder.
        self.keeps = False
        self._events: list[tuple[int, handover.Event]] = []

    def make(self, move: Move, costs: bool) -> World:
        if self.trace is not None:
            self.trace.append(f"{'! ' if costs else '  '}{move}")
        try:
            _MOVES[move.name](self, move)
        except _LeftLoop:
            pass
        for who, master in enumerate(self.masters):
            if master is not None:
                self.manage_workers(who, master)
        faults, signals = self.world.faults, self.world.signals
        if costs:
            is_signal = move.name in REQUESTS or move.name.endswith(("gets SIGUSR2", "gets SIGTERM", " on"))
            signals -= is_signal
            faults -= not is_signal
            if not self.over and not any(map(self.is_able, self.masters)):
                self.over = "lost"
        return self._freeze(faults, signals)

    def _freeze(self, faults: int, signals: int) -> World:
        left = [who for who, master in enumerate(self.masters) if master is not None]
        if len(left) != len(self.masters):
            numbers = {who: number for number, who in enumerate(left)}
            for master in self.masters:
                if master is not None:
                    master.parent = numbers.get(master.parent, -1)
                    master.child = numbers.get(master.child, -1)
            if self.pidfile >= 0:
                self.pidfile = numbers.get(self.pidfile, STALE)
            self.keeper = numbers.get(self.keeper, -1)
            self.announced = [numbers.get(one, -1) for one in self.announced]
            self.unheard = [numbers.get(one, -1) for one in self.unheard]
        # Of the dead only the last one matters: it was the master.
        self.announced = [one for at, one in enumerate(self.announced) if one >= 0 or at == len(self.announced) - 1]
        if self.over:
            faults = signals = 0
        masters = tuple(_freeze_master(master) for master in self.masters if master is not None)
        hold = (self.keeper, tuple(self.announced), tuple(self.unheard), self.stopping)
        return World(masters, self.pidfile, self.socket, self.over, faults, signals, *hold)

    def is_able(self, master: Master | None) -> bool:
        """Whether a master will serve, if everybody else dies now and nothing else happens to it."""
        if master is None or master.status != "alive" or master.doomed or master.term:
            return False
        if self.model.is_incoming(master):
            return self.model.machines[master.inc].state is not S.HALTING
        machine = self.model.machines[master.out]
        child = self._child(master)
        if machine.state in (P.COMMITTING, P.DRAINING):
            # _check_heir sees to it that it is right to be alone.
            if machine.alone if child is None or child.up_eof else self.model.will_be_alone(machine, child):
                return False
            if child is not None and child.status != "dead" and "committed" in child.up and not master.workers:
                return False  # it will leave as soon as it has read that
        return machine.state is not P.GONE and machine.then is not Then.STOP

    # --- as in the arbiter

    def feed(self, who: int, *events: handover.Event) -> None:
        self._events += [(who, event) for event in events]
        while self._events:
            number, event = self._events.pop(0)
            self._step(number, event)

    def _step(self, who: int, event: handover.Event) -> None:
        master = self._master(who)
        incoming = self.model.is_incoming(master) and not isinstance(event, handover.SuccessorExited)
        name = "inc" if incoming else "out"
        before = getattr(master, name)
        after, actions = self.model.step(before, event)
        setattr(master, name, after)
        if self.trace is not None:
            machines = self.model.machines
            told = ", ".join(_brief(action) for action in actions) or "-"
            states = f"{machines[before].state.name} -> {machines[after].state.name}"
            self.trace.append(f"      {states} on {_brief(event)}: {told}")
        for action in actions:
            self.perform(who, master, action)

    def _master(self, who: int) -> Master:
        master = self.masters[who]
        assert master is not None
        return master

    def _child(self, master: Master) -> Master | None:
        return self.masters[master.child] if master.child >= 0 else None

    def perform(self, who: int, master: Master, action: handover.Action) -> None:
        performer = _ACTIONS.get(type(action))
        if performer is not None:
            performer(self, who, master, action)

    def tell(self, master: Master, type: str) -> None:
        if type in TO_PREDECESSOR:
            silent = type == "progress" or (type == "staying" and not self.model.shell.hears_who_stays)
            if not master.down_eof and not silent:
                master.up += (type,)
            return
        child = self._child(master)
        if child is not None and not child.up_eof:
            child.down += (type,)

    def start_successor(self, who: int, master: Master, _action: Any) -> None:
        if master.child >= 0:
            raise Violation(f"master {who} starts a successor, and has one")
        if not self.can_fork:
            self._events.append((who, handover.SpawnFailed("no memory")))
            return
        master.child = len(self.masters)
        workers = tuple(Worker(pid, "booting") for pid in range(self.model.bounds.new_workers))
        inc = self.model.new_successor()
        ends = (False, False, "", 0, False, False)
        values = ("alive", who, -1, self.model.held, inc, False, workers, (), (), *ends)
        self.masters.append(Master(values))
        self._events.append((who, handover.SuccessorSpawned(4711)))

    def end_successor(self, _who: int, master: Master, _action: Any) -> None:
        child = self._child(master)
        if child is not None and self._can_signal(child):
            child.doomed = True
            child.term = (child.term or PENDING) if child.status == "alive" else 0

    def kill_successor(self, _who: int, master: Master, _action: Any) -> None:
        child = self._child(master)
        if child is not None and self._can_signal(child):
            self.die(master.child)

    def _can_signal(self, child: Master) -> bool:
        if child.status == "reaped" and not self.model.shell.signals_no_reaped_pid:
            raise Violation("a signal goes to a pid that has been reaped")
        return child.status != "reaped"

    def on_successor(self, who: int) -> None:
        """The channel to the successor is readable, or at its end."""
        master = self._master(who)
        child = self._child(master)
        assert child is not None
        master.term |= READ_SUCCESSOR if master.term else 0
        messages, child.up = child.up, ()
        closed = child.broken or child.status in ("dead", "reaped")
        if closed:
            child.up_eof = True
            child.down = ()
            messages = tuple(message for message in messages if message in LAST_WORDS)
        for message in messages:
            self.feed(who, self._from_successor(master, message))
        if closed:
            self.feed(who, handover.SuccessorClosed("it broke" if child.broken == "parent" else None))

    def _from_successor(self, master: Master, message: str) -> handover.Event:
        if message == "ready":
            return handover.SuccessorReady()
        return {
            "opened": handover.GateOpened(),
            "committed": handover.SuccessorCommitted(),
            "failed": handover.SuccessorFailed("it said so"),
            "leaving": handover.SuccessorLeft(),
            "staying": handover.SuccessorStayed(),
        }[message]

    def on_predecessor(self, who: int) -> None:
        """The channel to the predecessor is readable, or at its end."""
        master = self._master(who)
        master.term |= READ_PREDECESSOR if master.term else 0
        messages, master.down = master.down, ()
        parent = self.masters[master.parent] if master.parent >= 0 else None
        closed = master.broken or parent is None or parent.status == "dead"
        if closed:
            master.down_eof = True
        events: dict[str, handover.Event] = {
            "open": handover.GateOrdered(),
            "commit": handover.CommitOrdered(),
            "upgrade": handover.UpgradeRequested(),
        }
        for message in messages:
            self._feed_incoming(who, master, events[message])
        if closed:
            self._feed_incoming(who, master, handover.PredecessorClosed())

    def _feed_incoming(self, who: int, master: Master, event: handover.Event) -> None:
        if self.model.is_incoming(master):
            self.feed(who, event)
            return
        master.inc, actions = self.model.step(master.inc, event)
        for action in actions:
            if isinstance(action, handover.RequestUpgrade):
                self.feed(who, handover.UpgradeRequested())
            else:
                self.perform(who, master, action)

    def reap(self, who: int, pid: int = -1, abnormal: bool = False) -> None:
        """The arbiter's reap_workers(): what the dead said, then the successor, then the worker `pid`."""
        if pid >= 0 and not self.model.shell.reaps_the_successor_first:
            self.forget_worker(who, pid, abnormal)
            return
        self.read_links(who)
        self.reap_successor(who)
        if pid >= 0:
            self.forget_worker(who, pid, abnormal)

    def read_links(self, who: int) -> None:
        master = self._master(who)
        child = self._child(master)
        readable = child is not None and (child.up or child.broken or child.status == "dead")
        if child is not None and readable and not child.up_eof and self.model.shell.hears_last_words:
            self.on_successor(who)
        for worker in master.workers:
            if worker.said:
                self.hear_worker(Move("", who, worker.pid))

    def reap_successor(self, who: int) -> None:
        master = self._master(who)
        child = self._child(master)
        if child is None or child.status != "dead":
            return
        child.status = "reaped"
        if not child.up_eof and self.model.shell.hears_last_words:
            self.on_successor(who)
        self.masters[master.child] = None
        if self.pidfile == master.child:
            self.pidfile = STALE
        master.child = -1
        self.feed(who, handover.SuccessorExited("was killed by SIGKILL"))

    def reap_without_fork(self, move: Move) -> None:
        self.can_fork = False
        self.reap(move.who)

    def reap_the_just_dead(self, move: Move) -> None:
        """It dies after the last look at its channel, and before it is reaped."""
        self.read_links(move.who)
        master = self._master(move.who)
        child = self._child(master)
        if child is not None and child.status != "dead":
            if "failed" in move.name:
                child.up += ("failed",)
            self.die(master.child)
        self.reap_successor(move.who)

    def manage_workers(self, who: int, master: Master) -> None:
        if master.status != "alive" or not self.model.machines[master.out].accepting:
            return
        bounds = self.model.bounds
        wanted = bounds.old_workers if master.inc < 0 else bounds.new_workers
        pids = {worker.pid for worker in master.workers}
        missing = [pid for pid in range(2 * wanted) if pid not in pids][: wanted - len(pids)]
        if missing:
            master.workers += tuple(Worker(pid, "booting") for pid in missing)

    def forget_worker(self, who: int, pid: int, abnormal: bool, halts: bool = False) -> None:
        """A worker has been reaped; `halts`: gunicorn ends this master because of it."""
        master = self._master(who)
        (worker,) = (worker for worker in master.workers if worker.pid == pid)
        master.workers = tuple(other for other in master.workers if other is not worker)
        if not self.model.is_incoming(master):
            self.feed(who, handover.WorkerGone(pid))
        elif worker.phase == "booting":
            self.feed(who, handover.WorkerFailed("ImportError"))
        elif abnormal:
            alive = sum(other.phase != "booting" for other in master.workers)
            self.feed(who, handover.WorkerDied("was killed", alive, self.model.bounds.new_workers))
        if not master.workers and not halts and not self.model.is_incoming(master):
            self.feed(who, handover.AllWorkersGone())

    def _count_workers(self, who: int, master: Master) -> None:
        if self.model.is_incoming(master):
            ready = sum(worker.phase != "booting" for worker in master.workers)
            self.feed(who, handover.WorkersCounted(ready, self.model.bounds.new_workers))

    def stop(self, who: int, master: Master, action: Any) -> None:
        """Leave the main loop: gunicorn's halt() and stop(), until the workers have their SIGTERM."""
        incoming = self.model.is_incoming(master)
        if isinstance(action, handover.Leave) and who == self.keeper and not self.keeps:
            raise Violation("the service goes on, and its pid ends")
        if action is None or isinstance(action, handover.Halt):
            # With an exit status that is not 0. Two "failed" in a row say no more than one.
            if "failed" not in master.up:
                self.tell(master, "failed")
        elif not incoming:
            self.tell(master, "leaving")
        spared = self.model.shell.spares_a_predecessors_sockets and master.parent >= 0
        if not incoming and master.owns and not spared and master.child < 0:
            self.socket = False
        master.status = "leaving" if self.keeps else "stopping"
        master.term = 0
        master.workers = ()
        self._events.clear()
        raise _LeftLoop

    def hold(self) -> Hold:
        """Return the holder's decisions as they are now, after it has heard all that was said."""
        made = Hold(0)
        for who in self.announced:
            made.masters[who] = None if who >= 0 and self._is_there(who) else 0
        made.stopping = signal.SIGTERM if self.stopping and self.model.shell.stops_heirs else 0
        for who in self.unheard:
            self._send(made.announced(who, 0))
            if who < 0 or not self._is_there(who):
                made.masters[who] = 0
        self.announced, self.unheard = list(made.masters), []
        return made

    def _is_there(self, who: int) -> bool:
        master = self.masters[who]
        return master is not None and master.status not in ("dead", "reaped")

    def _send(self, actions: Any) -> None:
        for _, who, sig in actions:
            assert sig == signal.SIGTERM
            if who >= 0 and self._is_there(who):
                master = self._master(who)
                master.term = (master.term or PENDING) if master.status == "alive" else 0

    def stop_service(self, _who: int, _master: Master, _action: Any) -> None:
        made = self.hold()
        self.over = "stopped"
        self._send(made.signalled(signal.SIGTERM))
        self.stopping = True

    def holder_usr2(self, _move: Move) -> None:
        for _, who, _sig in self.hold().signalled(signal.SIGUSR2):
            if self._master(who).status == "alive":
                self.feed(who, handover.UpgradeRequested())

    def keep_pid(self, _who: int, _master: Master, _action: Any) -> None:
        self.keeps = True

    def lose_holder(self, who: int) -> None:
        """Every other master reads EOF, and stops."""
        self.over = self.over or "stopped"
        self.keeper = -1
        for number, master in enumerate(self.masters):
            stops = self.model.shell.stops_without_its_holder
            if stops and master is not None and number != who and master.status == "alive":
                master.term = master.term or PENDING

    def die(self, who: int) -> None:
        master = self._master(who)
        if who == self.keeper:
            self.lose_holder(who)
        master.status = "dead"
        master.workers = ()
        master.term = 0
        child = self._child(master)
        if child is not None:
            child.parent = -1
            if child.status == "dead":
                self.masters[master.child] = None
            master.child = -1
        if master.parent < 0:
            self.masters[who] = None

    # --- what the workers are told

    def _each(self, master: Master, change: Any) -> None:
        master.workers = tuple(change(worker) for worker in master.workers)

    def report_ready(self, who: int, master: Master, _action: Any) -> None:
        # A worker that boots, or that is at its gate, cannot accept.
        ready = [worker.pid for worker in master.workers if worker.phase not in ("booting", "held")]
        self._events.append((who, handover.ReadyReported(frozenset(ready))))

    def pause_workers(self, who: int, master: Master, _action: Any) -> None:
        def pause(worker: Worker) -> Worker:
            if worker.phase in ("paused", "draining"):
                raise Violation(f"a worker that is {worker.phase} is paused")
            return worker._replace(orders=(*worker.orders, "pause"))

        self._each(master, pause)
        booting = [worker.pid for worker in master.workers if worker.phase == "booting"]
        self._events += [(who, handover.WorkerPaused(pid)) for pid in booting]

    def resume_workers(self, _who: int, master: Master, _action: Any) -> None:
        self._each(master, lambda worker: _order(worker, "resume")._replace(late=False))

    def drain_workers(self, who: int, master: Master, _action: Any) -> None:
        child = self._child(master)
        if child is None or self.model.is_incoming(child):
            raise Violation(f"master {who} drains its workers, and its successor has not committed")
        master.owns = False
        self._each(master, lambda worker: _order(worker, "drain"))
        if not master.workers:
            self._events.append((who, handover.AllWorkersGone()))

    def end_workers(self, _who: int, master: Master, _action: Any) -> None:
        self._each(master, lambda worker: Worker(worker.pid, "ended"))

    def open_gate(self, _who: int, master: Master, _action: Any) -> None:
        master.gate = True
        self._each(master, lambda w: w._replace(phase="accepting") if w.phase == "held" else w)

    # --- the pid file

    def own(self, who: int, master: Master, _action: Any) -> None:
        master.owns = True
        if self.keeper < 0:
            if not self.model.bounds.keeps_pid:
                self.pidfile = who
        elif who == self.keeper:
            self.announced, self.unheard = [], []
        else:
            self.unheard.append(who)

    # --- moves

    def worker_ready(self, move: Move) -> None:
        master = self._master(move.who)

        def ready(worker: Worker) -> Worker:
            if worker.pid != move.what:
                return worker
            worker = worker._replace(phase="accepting" if master.gate else "held")
            return _read(worker) if master.gate else worker

        self._each(master, ready)
        self._count_workers(move.who, master)
        if not self.model.bounds.slow_links:
            self.hear_worker(move)

    def worker_reads(self, move: Move) -> None:
        master = self._master(move.who)
        self._each(master, lambda worker: _read(worker) if worker.pid == move.what else worker)
        if not self.model.bounds.slow_links:
            self.hear_worker(move)

    def hear_worker(self, move: Move) -> None:
        master = self._master(move.who)
        (worker,) = (worker for worker in master.workers if worker.pid == move.what)
        self._each(master, lambda other: other._replace(said=0) if other is worker else other)
        answers = worker.said
        if self.model.shell.counts_answers:
            answers = 0 if "pause" in worker.orders else min(answers, 1)
        self.feed(move.who, *[handover.WorkerPaused(move.what)] * answers)

    def worker_leaves(self, move: Move) -> None:
        self.reap(move.who, move.what)

    def worker_killed(self, move: Move) -> None:
        self.reap(move.who, move.what, abnormal=True)

    def worker_fails(self, move: Move) -> None:
        master = self._master(move.who)
        self.read_links(move.who)
        self.reap_successor(move.who)
        # A worker that is ready stays so until it has been reaped.
        others = [other for other in master.workers if other.pid != move.what]
        if self.model.is_incoming(master) or any(other.phase != "booting" for other in others):
            self.forget_worker(move.who, move.what, abnormal=True)
        else:
            # gunicorn's rule: HaltServer.
            self.forget_worker(move.who, move.what, abnormal=True, halts=True)
            self.stop(move.who, master, None)

    def tick(self, move: Move) -> None:
        master = self._master(move.who)
        awaited = self.model.machines[master.out].awaited
        if self.model.machines[master.out].state is P.PAUSING:
            self._each(master, lambda worker: worker._replace(late=True) if worker.pid in awaited else worker)
        self.feed(move.who, handover.Tick())

    def usr2(self, move: Move) -> None:
        self.feed(move.who, handover.UpgradeRequested())

    def usr2_without_fork(self, move: Move) -> None:
        self.can_fork = False
        self.feed(move.who, handover.UpgradeRequested())

    def term(self, move: Move) -> None:
        master = self._master(move.who)
        state = self.model.machines[master.out].state
        serves = not self.model.is_incoming(master) and state not in (P.DRAINING, P.GONE)
        if serves or move.who == self.keeper:
            self.over = "stopped"
        self.feed(move.who, handover.StopRequested("term"))

    def predecessors_term(self, move: Move) -> None:
        self._master(move.who).term = 0
        self.feed(move.who, handover.StopRequested("term"))

    def exits(self, move: Move) -> None:
        master = self._master(move.who)
        if master.status == "leaving":
            # Its channel ends with its exec. Its child has a parent still, which is silent.
            child = self._child(master)
            if child is not None:
                child.parent = -1
                if child.status == "dead":
                    self.masters[master.child] = None
                master.child = -1
            master.status = "holding"
            return
        if self.pidfile == move.who:
            self.pidfile = NOBODY
        self.die(move.who)

    def is_killed(self, move: Move) -> None:
        self.die(move.who)

    def exec_fails(self, move: Move) -> None:
        self._master(move.who).up = ("failed",)
        self.die(move.who)

    def channel_breaks(self, move: Move) -> None:
        child = self._child(self._master(move.who))
        assert child is not None
        child.broken = "parent" if move.name.startswith("loses") else "child"
        child.up = child.down = ()


def _order(worker: Worker, order: str) -> Worker:
    """A worker that does not read its link collects orders; all others obey."""
    if worker.phase == "ended":
        return worker
    if worker.orders or worker.phase == "booting":
        return worker._replace(orders=(*worker.orders, order))
    return _obey(worker, order)


def _obey(worker: Worker, order: str) -> Worker:
    # As gunicorn_hot.drain.Drain does.
    if order == "pause":
        phase = "paused" if worker.phase == "accepting" else worker.phase
        return worker._replace(phase=phase, late=False, said=worker.said + 1)
    return worker._replace(phase={"resume": "accepting", "drain": "draining"}[order])


def _read(worker: Worker) -> Worker:
    orders, worker = worker.orders, worker._replace(orders=())
    for order in orders:
        worker = _obey(worker, order)
    return worker


def _brief(thing: Any) -> str:
    name = type(thing).__name__
    if isinstance(thing, (handover.Tell, handover.Log, handover.Stop)):
        return f"{name}({getattr(thing, 'type', None) or getattr(thing, 'level', None) or thing.how})"
    if isinstance(thing, (handover.WorkerPaused, handover.WorkerGone)):
        return f"{name}({thing.pid})"
    if isinstance(thing, handover.WorkersCounted):
        return f"{name}({thing.ready} of {thing.total})"
    return name


_ACTIONS: dict[type[handover.Action], Any] = {
    handover.Tell: lambda run, who, master, action: run.tell(master, action.type),
    handover.TellFailed: lambda run, who, master, action: run.tell(master, "failed"),
    handover.StartSuccessor: _Run.start_successor,
    handover.EndSuccessor: _Run.end_successor,
    handover.KillSuccessor: _Run.kill_successor,
    handover.PauseWorkers: _Run.pause_workers,
    handover.ResumeWorkers: _Run.resume_workers,
    handover.DrainWorkers: _Run.drain_workers,
    handover.CutWorkers: _Run.end_workers,
    handover.KillWorkers: _Run.end_workers,
    handover.RestoreOwnership: _Run.own,
    handover.TakeOwnership: _Run.own,
    handover.OpenGate: _Run.open_gate,
    handover.RequestUpgrade: lambda run, who, master, action: run._events.append((who, handover.UpgradeRequested())),
    handover.Stop: _Run.stop,
    handover.Halt: _Run.stop,
    handover.ReportReady: _Run.report_ready,
    handover.ReportDone: lambda run, who, master, action: run._events.append((who, handover.DoneReported())),
    handover.Leave: _Run.stop,
    handover.KeepPid: _Run.keep_pid,
    handover.StopService: _Run.stop_service,
}

_MOVES: dict[str, Any] = {
    "reads its successor": lambda run, move: run.on_successor(move.who),
    "reads its predecessor": lambda run, move: run.on_predecessor(move.who),
    "reaps its successor": lambda run, move: run.reap(move.who),
    "reaps its successor and cannot fork": _Run.reap_without_fork,
    "reaps its successor, which has died this moment": _Run.reap_the_just_dead,
    "reaps its successor, which has failed and died this moment": _Run.reap_the_just_dead,
    "loses the channel to its successor": _Run.channel_breaks,
    "is left by its living successor": _Run.channel_breaks,
    "gets the predecessor's SIGTERM": _Run.predecessors_term,
    "is out of patience": _Run.tick,
    "gets SIGUSR2": _Run.usr2,
    "gets SIGUSR2 and cannot fork": _Run.usr2_without_fork,
    "gets SIGTERM": _Run.term,
    **dict.fromkeys(REQUESTS, lambda run, move: run.feed(move.who, REQUESTS[move.name])),
    "is killed": _Run.is_killed,
    "fails in its exec": _Run.exec_fails,
    "exits": _Run.exits,
    "holds nobody any more": _Run.exits,
    "hears who is the master": lambda run, move: run.hold(),
    "passes SIGUSR2 on": _Run.holder_usr2,
    "passes SIGTERM on": lambda run, move: run.stop_service(move.who, None, None),
    "has a worker ready": _Run.worker_ready,
    "has a worker that cannot boot": _Run.worker_fails,
    "has a worker that reads its link": _Run.worker_reads,
    "reads a worker's link": _Run.hear_worker,
    "reaps a worker that has left": _Run.worker_leaves,
    "has a worker killed": _Run.worker_killed,
}
