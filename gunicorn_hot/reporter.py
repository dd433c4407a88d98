"""What a master says of itself: into the status file, or to the master that writes it.

The serving master writes. One that is not, because it boots or drains, tells its peer about itself over their channel,
and that one writes both. So there is one writer at a time, and when it dies the next one has all that it knew.

Nothing is written while nothing changes, nor in the milliseconds of a cut-over, in which clients wait. A file that
somebody has removed comes back within a second. One that cannot be written is removed, since it would not be true any
more; that is said once in the log, and is no reason for anything else.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

import gunicorn

from gunicorn_hot import inheritance, processes, statsd, statusfile
from gunicorn_hot.channel import Channel
from gunicorn_hot.chronicle import Chronicle
from gunicorn_hot.handover import PredecessorState as P
from gunicorn_hot.mirror import Mirror
from gunicorn_hot.status import (
    Master,
    Refused,
    Service,
    Status,
    StatusError,
    Upgrade,
    Worker,
    Written,
    from_dict,
)

if TYPE_CHECKING:
    from gunicorn_hot.arbiter import HotArbiter

#: s; how often requests in flight are counted while workers are paused or drain.
LOOK = 0.1
#: s; a drain that takes longer than this is looked at once a second, as everything is.
_SHORT_DRAIN = 60.0
#: s; a cut-over that takes longer than this is worth a line in the file.
_SHORT_CUTOVER = 0.1
#: s; whoever tidies up /tmp removes what is older than days.
_OLD = 3600.0
#: Workers in a message to the other master, which has to fit into a part of its buffer.
_MOST_WORKERS = 200
_REVISION_VARIABLES = ("REVISION", "GIT_COMMIT", "SOURCE_VERSION")
_CUTTING = (P.PAUSING, P.OPENING)
_STATES = {
    P.BOOTING: "booting",
    P.PAUSING: "cutting-over",
    P.OPENING: "cutting-over",
    P.PROBATION: "probation",
    P.COMMITTING: "committing",
    P.ENDING: "ending",
}


class Reporter:
    """Looks at the arbiter whose part it is, and changes nothing there."""

    def __init__(self, server: HotArbiter) -> None:
        self._server = server
        self.chronicle = Chronicle(lambda past: statsd.say_upgrade(server.log, past))
        self.refused: Refused | None = None
        #: What the successor has last said of itself.
        self._younger: list[Master] = []
        #: What the predecessor, which drains, has last said of itself, and of others that drain still.
        self._older: list[Master] = []
        #: In flight there, and when its patience with them ends.
        self._draining: tuple[int, int, float | None] = (0, 0, None)
        #: Workers of the successor that are ready, and that there will be.
        self._ready = (0, 0)
        self._committed = False
        #: The successor was told to write; it is, until it is given up.
        self.is_silent = False
        #: The predecessor has ended before it could hand over.
        self._is_orphan = False
        self._left_early: str | None = None
        self._cut = 0
        self._cutover_began = 0.0
        self._shown: object = None
        self._has_complained = False
        #: What relative names begin with; asked for now, as a deployment may remove it later.
        self._folder = _current_folder(server)
        self._adjust_clock()
        self._keeper: Master | None = None
        self._boot = processes.boot_id()
        self._me = Master(
            "serving",
            os.getpid(),
            processes.start_time(os.getpid()),
            round(self._at(), 3),
            server.generation,
            gunicorn.__version__,
            platform.python_version(),
            _own_version(),
            revision(server.cfg.chdir),
        )
        #: The file of the first generation: whoever watches it sees all that follows.
        self._inherited = inheritance.variables.get(inheritance.STATUS_VARIABLE, "")
        self.path = statusfile.own_path = self._choose()
        others = self.path and server.cfg.uid != os.geteuid()
        self._mirror = statusfile.mirror = Mirror() if others else None
        if server.predecessor is None:
            statsd.say_generation(server.log, server.generation)

    def _choose(self) -> str:
        setting: str | None = self._server.cfg.hot_status_file
        if setting == "":
            return ""
        if self._inherited:
            return self._inherited
        try:
            return os.path.abspath(setting) if setting else statusfile.default(self._service_pid())
        except OSError as exc:
            self._server.log.warning("No status file: %s", exc)
            return ""

    def _service_pid(self) -> int:
        held = self._server.held
        return held.holder() if held is not None else os.getpid()

    def _adjust_clock(self) -> None:
        self._offset = time.time() - time.monotonic()

    def _at(self, monotonic: float | None = None) -> float:
        """Return the time on the wall clock, which takes no steps within an upgrade."""
        return self._offset + (time.monotonic() if monotonic is None else monotonic)

    # --- what happens

    def began(self, id: str, check: bool) -> None:
        """A successor is about to be started."""
        self._adjust_clock()
        self._committed = self.is_silent = False
        self._ready = (0, 0)
        self._younger = []
        self.chronicle.began(id or str(uuid.uuid4()), check, self._server.generation, self._at())

    def moved(self, before: P, after: P) -> None:
        """The old master's machine has changed its state."""
        if before is P.BOOTING and after in _CUTTING:
            self._cutover_began = time.monotonic()
            self.chronicle.paused(self._at())
        elif before is P.OPENING and after in (P.PROBATION, P.COMMITTING):
            self.chronicle.opened(self._at())
        elif after is P.DRAINING:
            self._committed = True
            self._withdraw()
            if self._mirror is not None:
                self._mirror.write("")  # the successor writes into another one

    def failed(self, reason: str, output: str, aborted: bool) -> None:
        self.chronicle.failed(reason, output, aborted, self._committed)

    def checked(self) -> None:
        self.chronicle.checked(self._at())

    def releases(self) -> None:
        """The successor is about to be told to commit; from then on it writes."""
        self.chronicle.committing(self._at())
        self._write()
        self.is_silent = True

    def takes_over(self, is_orphan: bool) -> None:
        """In the new master: it is the service now; `is_orphan`: nobody has handed it over."""
        statsd.say_generation(self._server.log, self._server.generation)
        self._is_orphan = is_orphan
        written = self._read() if self._inherited else None
        if written is not None:
            self._older = [
                dataclasses.replace(master, role="draining")
                for master in written.masters
                if master.role in ("serving", "draining") and master.pid != self._me.pid
            ]
        self.chronicle.take_over(written, self._at())
        if is_orphan:
            self._older = []
        # Before the old master hears of it, which removes what nobody goes on with.
        seen = self._fingerprint()
        self._shown = seen if self._write() else None

    def takes_back(self) -> None:
        if self.is_silent:
            self.is_silent = False
            self.chronicle.take_back(self._read())
            statsd.say_generation(self._server.log, self._server.generation)

    @property
    def was_left(self) -> bool:
        """Whether the predecessor has said that its drain is over."""
        return self._left_early is not None

    def predecessor_left(self) -> None:
        """In the new master, which serves: the drain of the old one is over."""
        reason = self._left_early if self._left_early is not None else "the old master died while it drained"
        self._older = []
        if not self._is_orphan:
            self.chronicle.drained(self._at(), reason, self._cut)
        self.show()

    def refuse(self, id: str, reason: str) -> None:
        self.refused = Refused(id, reason)

    def leaves(self) -> dict[str, Any]:
        """Return what a master that has handed over says at its end."""
        server = self._server
        reason = "the drain was ended early" if server.WORKERS else ""
        return {"cut": server._cut, "reason": reason}

    # --- what the other master says

    def hear(self, type: str, fields: dict[str, Any], is_successor: bool) -> bool:
        """Take a message of the other master; returns False if it is no such, or not understood.

        A release that says it in another way must not fail an upgrade by that."""
        try:
            return self._hear(type, fields, is_successor)
        except (ArithmeticError, LookupError, TypeError, ValueError, StatusError) as exc:
            self._server.log.debug("Message of type %r not understood: %r", type, exc)
            return False

    def _hear(self, type: str, fields: dict[str, Any], is_successor: bool) -> bool:
        if type == "drained":
            self._cut, self._left_early = int(fields["cut"]), str(fields["reason"])
        elif type == "refused":
            self.refuse(str(fields["id"]), str(fields["reason"]))
        elif type == "status":
            masters = [from_dict(Master, one) for one in fields["masters"]]
            if is_successor:
                self._younger = masters
                self._ready = int(fields["ready"]), int(fields["total"])
            else:
                self._older = masters
                deadline = fields["deadline"]
                self._draining = int(fields["requests"]), int(fields["workers"]), deadline and float(deadline)
        else:
            return False
        return True

    # --- what is shown

    def show(self) -> None:
        """Say what has changed since this was last called; cheap when nothing has."""
        server = self._server
        state = server.outgoing.state
        if server._is_incoming:
            if server.predecessor is not None:
                self._tell(server.predecessor.channel, "successor")
        elif state is P.DRAINING:
            if server.successor is not None:
                self._tell(server.successor.channel, "draining")
        elif state is not P.GONE and not self.is_silent:
            if state is P.SERVING:
                self._settle()
            elif state in _CUTTING and time.monotonic() - self._cutover_began < _SHORT_CUTOVER:
                return
            if not self.path:
                return
            if (seen := self._fingerprint()) == self._shown:
                self._preserve()
            elif self._write():
                self._shown = seen

    def stops(self) -> None:
        """The service is being stopped, if this master is it."""
        if not self._server._is_incoming and not self._server._handed_over and not self.is_silent:
            self._write()

    def _settle(self) -> None:
        if self.chronicle.upgrade is not None:
            self._younger = []
            self.chronicle.over(self._at())
        if self._is_orphan:
            ready, total = self._server._counts()
            if ready >= total:
                self._is_orphan = False
                self.chronicle.drained(self._at(), "the old master ended before the commit", 0)

    def wait(self, timeout: float) -> float:
        """Return how long the main loop may wait, if it may wait `timeout` seconds."""
        server = self._server
        state = server.outgoing.state
        if state is P.PROBATION or (state is P.DRAINING and time.monotonic() - server._since < _SHORT_DRAIN):
            return min(timeout, LOOK)
        if state in _CUTTING:
            return min(timeout, _SHORT_CUTOVER)
        return timeout

    def ends(self, on_purpose: bool) -> None:
        """This process is about to exit: remove the file, if the service ends with it.

        A predecessor that still drains takes back from one that has failed, but not from one that was told to stop."""
        server = self._server
        is_service = not server._is_incoming and not server._handed_over and server.successor is None
        if is_service and (on_purpose or server._predecessor_left):
            self._remove()
        elif server.outgoing.state is P.GONE:
            self._withdraw()  # with hot_leave nobody has said that he commits

    # --- how

    def _withdraw(self) -> None:
        """Another master is the service: remove what this one has written, if that one writes nothing.

        One that writes has done so before it said that it has taken over."""
        written = self._read()
        if written is not None and (written.written.pid, written.written.start) == (self._me.pid, self._me.start):
            self._remove()

    def _remove(self) -> None:
        if self.path:
            try:
                os.unlink(self.path)
            except OSError:
                pass

    def _preserve(self) -> None:
        """Nothing has changed: see that the file is there, and looks used."""
        try:
            if abs(time.time() - os.stat(self.path).st_mtime) > _OLD:
                os.utime(self.path)
        except FileNotFoundError:
            self._write()
        except OSError:
            pass

    def _fingerprint(self) -> object:
        """Return what is equal only as long as there is nothing new to say; objects in it are replaced, not changed."""
        server, chronicle = self._server, self.chronicle
        machine = server.outgoing
        child = server.successor
        return (
            machine.state, machine.deadline, machine.waits, server._waits, server._is_incoming, self._counted(),
            child and (child.pid, child.ready, child.total), self._ready, self._younger,
            self._older, self._draining, self.refused,
            chronicle.upgrade, chronicle.inherited, chronicle.history,
        )  # fmt: skip

    def _counted(self) -> tuple[tuple[int, str, int | None], ...]:
        return tuple((pid, *self._worker_state(worker)) for pid, worker in self._server.WORKERS.items())

    def _worker_state(self, worker: Any) -> tuple[str, int | None]:
        server = self._server
        if not worker.is_ready:
            return "booting", None
        if server._is_incoming and not server._gate_open:
            return "ready", None
        state = server.outgoing.state
        if state is P.DRAINING:
            return "draining", server._in_flight_of(worker)
        if state in (*_CUTTING, P.PROBATION, P.COMMITTING):
            return "paused", server._in_flight_of(worker)
        return "serving", None

    def _own(self, role: str) -> Master:
        workers = [
            Worker(pid, *self._state_since(worker)) for pid, worker in list(self._server.WORKERS.items())
        ]
        return dataclasses.replace(self._me, role=role, workers=workers)

    def _state_since(self, worker: Any) -> tuple[str, float, int | None]:
        state, in_flight = self._worker_state(worker)
        return state, round(self._at(worker.link.made_at), 3), in_flight

    def _tell(self, channel: Channel | None, role: str) -> None:
        """Let the master that writes know about this one; what it has no room for is said later."""
        if channel is None or channel.closed or (seen := self._fingerprint()) == self._shown:
            return
        own = self._own(role)
        ready, total = self._server._counts()
        fields: dict[str, Any] = {
            "masters": [
                dataclasses.asdict(dataclasses.replace(one, workers=one.workers[:_MOST_WORKERS]))
                for one in [own, *(self._older if role == "draining" else ())]
            ],
            "requests": sum(worker.in_flight or 0 for worker in own.workers),
            "workers": len(own.workers),
            "ready": ready,
            "total": total,
            "deadline": self._deadline() if role == "draining" else None,
        }
        if channel.offer("status", **fields):
            self._shown = seen

    def _deadline(self) -> float | None:
        deadline = self._server.outgoing.deadline
        return None if deadline is None else round(self._at(deadline), 3)

    def _read(self) -> Status | None:
        if not self.path:
            return None
        try:
            return statusfile.read(self.path)
        except StatusError as exc:
            self._server.log.debug("No earlier status: %s", exc)
            return None

    def _write(self) -> bool:
        """Write the status; returns False if that has failed, to be tried again."""
        if not self.path:
            return True
        text = self.status().to_json()
        if self._mirror is not None:
            self._mirror.write(text)
        try:
            try:
                statusfile.replace(self.path, text)
            except FileNotFoundError:
                # Whoever tidies up /tmp has removed the folder.
                statusfile.remake_folder(self.path)
                statusfile.replace(self.path, text)
        except OSError as exc:
            if not self._has_complained:
                self._server.log.warning("Status file: %s", exc)
                self._has_complained = True
            self._remove()
            return False
        return True

    def status(self) -> Status:
        """Return what this master knows of the service."""
        server, chronicle = self._server, self.chronicle
        upgrade = self._upgrade()
        ready, total = server._counts()
        if server._stopping:
            state = "stopping"
        elif upgrade is not None and not upgrade.check:
            state = "upgrading"
        elif server._has_served or ready >= total:
            state = "serving"
        else:
            state = "booting"
        masters = [self._own("serving"), *self._others()]
        return Status(
            self._service(),
            Written(self._me.pid, self._me.start, self._boot, round(time.time(), 3)),
            state,
            server.generation,
            upgrade,
            masters,
            chronicle.history,
            chronicle.totals,
            self.refused,
        )

    def _service(self) -> Service:
        server = self._server
        cfg = server.cfg
        return Service(
            self._service_pid(),
            service_name(cfg),
            "follow" if server.keeper is None and server.held is None else "stable",
            self._absolute(cfg.pidfile) if cfg.pidfile else None,
            str(cfg.chdir),
            list(dict.fromkeys(map(str, server.LISTENERS))),
            None if cfg.control_socket_disable else self._absolute(cfg.control_socket),
        )

    def _absolute(self, name: str) -> str:
        return os.path.normpath(os.path.join(self._folder, name))

    def _others(self) -> list[Master]:
        server = self._server
        others = [*self._younger, *self._older]
        child = server.successor
        if child is not None and all(master.pid != child.pid for master in others):
            # It has not spoken yet.
            since = self.chronicle.upgrade.started if self.chronicle.upgrade else self._at()
            others.insert(0, Master("successor", child.pid, processes.start_time(child.pid), since))
        holder = self._service_pid()
        if holder != self._me.pid and all(master.pid != holder for master in others):
            others.append(self._holder(holder))
        # One that has ended by now has no start time, and would be taken for whoever has its pid.
        return [master for master in others if master.start or not self._me.start]

    def _holder(self, pid: int) -> Master:
        if self._keeper is None:
            start = processes.start_time(pid)
            since = processes.started_at(start) if start else self._me.since
            self._keeper = Master("holder", pid, start, round(since, 3))
        return self._keeper

    def _upgrade(self) -> Upgrade | None:
        server, machine = self._server, self._server.outgoing
        if (upgrade := self.chronicle.upgrade) is not None:
            ready, total = self._ready
            if not total and (child := server.successor) is not None:
                ready, total = child.ready, child.total  # of a release that does not say more
            return dataclasses.replace(
                upgrade,
                state=_STATES.get(machine.state, "ending"),
                deadline=self._deadline(),
                ready=ready,
                total=total,
                waits_for=machine.waits if machine.state is P.BOOTING else "",
            )
        if (upgrade := self.chronicle.inherited) is None:
            return None
        ready, total = server._counts()
        if self._is_orphan:
            return dataclasses.replace(upgrade, state="booting", deadline=None, ready=ready, total=total)
        requests, workers, deadline = self._draining
        return dataclasses.replace(
            upgrade,
            state="draining",
            deadline=deadline,
            ready=ready,
            total=total,
            draining_requests=requests,
            draining_workers=workers,
        )


def service_name(cfg: Any) -> str:
    """Return what a service is called: gunicorn's name for it, or `wsgi_app` where that is a default.

    gunicorn names a process after the application only if that stands in the command line."""
    default = cfg.settings["default_proc_name"]
    is_default = cfg.settings["proc_name"].get() is None and default.get() == default.default
    return str(cfg.wsgi_app if is_default and cfg.wsgi_app else cfg.proc_name)


def revision(folder: str) -> str | None:
    """Return how the deployment has named what is installed: a variable, or a file REVISION in the folder."""
    for name in _REVISION_VARIABLES:
        if value := os.environ.get(name):
            return value[:100]
    try:
        with open(os.path.join(folder, "REVISION"), encoding="utf-8") as file:
            return file.readline(100).strip() or None
    except (OSError, ValueError):
        return None


def _own_version() -> str:
    return str(sys.modules["gunicorn_hot"].__version__)


def _current_folder(server: HotArbiter) -> str:
    try:
        return os.getcwd()
    except OSError:
        return str(server.cfg.chdir)
