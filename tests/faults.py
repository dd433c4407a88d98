"""Faults on purpose: a process of an upgrade is killed, or stopped, at a step at which the upgrade is held.

A `Trial` is one such fault, on a service that is left as it was found: serving, and able to upgrade. So a service can
take many trials. As a command this module is a *lane*: all trials of one worker type, one after the other, in a
process of its own (see `Lane`), so that the lanes of several worker types can run at once.

The steps are held by facts. The configuration's hooks wait at gates, which are files; a process that would go on by
itself is stopped, or the peer that has to answer it; and where each master stands is read from its process title.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from server import DEADLINE, Connection, Service, descendants, environment, is_running, process, title, until

from bench.load import Load
from gunicorn_hot import statusfile

TYPES = ("sync", "gthread", "gevent", "asgi", "uvicorn")
WORKERS = 2
#: A client has one connection, and one request at a time.
CLIENTS = {"new": 2, "keep": 2, "idle": 2}
#: What a client sees when the worker is killed that has its request.
CUT = ("reset", "reuse_reset", "truncated", "connect_reset")
#: s; from the fault until one master serves, is alone, and nothing else is left. An idle client, which keeps its
#: worker, thinks for up to 1.5 s.
SETTLES = 25.0
#: s; a request fails because of a kill only if it had begun by then.
_KILL_SLACK = 0.3
#: s; of a step that is over by itself.
PROBATION = 1.0
#: s; of one that something has to come in, although it is over by itself.
_LONG_PROBATION = 3.0
_SHORT_PROBATION = 0.1
_DRAIN = 3
_READY = 12
_STORY = 30000
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

#: The hooks at which a trial holds an upgrade. `gate.NAME` is a closed gate: for all, or for the pid that it names.
HOOKS = """
import dataclasses, logging, os, signal, time
from pathlib import Path

FOLDER = Path.cwd()

def is_closed(name, whom):
    try:
        return (FOLDER / f"gate.{name}").read_text() in ("", str(whom))
    except FileNotFoundError:
        return False

def gate(name, whom=""):
    end = time.monotonic() + 60
    if is_closed(name, whom):
        with open(FOLDER / f"{name}.held", "a") as held:
            held.write(f"{os.getpid()}\\n")
    while is_closed(name, whom) and time.monotonic() < end:
        time.sleep(0.005)

if "GUNICORN_PID" in os.environ:
    gate("executed")

def when_ready(server):
    server.log.error_log.setLevel(logging.DEBUG)
    if (FOLDER / "patient").exists():
        server.outgoing.limits = dataclasses.replace(server.outgoing.limits, cutover=20.0, commit=20.0)

def pre_exec(server):
    gate("forked")

def on_upgrade_ready(server):
    probation = float((FOLDER / "probation").read_text())
    server.outgoing.limits = dataclasses.replace(server.outgoing.limits, probation=probation)
    gate("ready")

def on_upgrade_done(server):
    gate("done")

def post_fork(server, worker):
    server.log.error_log.setLevel(logging.INFO)

def post_worker_init(worker):
    if worker.age > 1:
        gate("second", worker.ppid)
    may_accept = worker.may_accept

    def freeze():
        if is_closed("accept", worker.pid):
            os.kill(worker.pid, signal.SIGSTOP)
        return may_accept()

    worker.may_accept = freeze
"""


class Held:
    """A request that a worker is answering until it is let go."""

    def __init__(self, service: Service, name: str) -> None:
        self._service = service
        self._name = name
        self._connection: Connection = service.connect()
        self._connection.send_request(f"/hold?file={name}")
        self.pid = int(service.wait_file(f"{name}.held", lines=1))

    def let_go(self) -> None:
        self._service.write(self._name)

    def check(self, killed: bool) -> None:
        """Wait for the end of the request: an answer, unless its worker was killed."""
        answer, error = None, None
        try:
            answer = self._connection.answer()
        except (OSError, EOFError) as exc:
            error = exc
        finally:
            self._connection.close()
        assert (error is not None) == killed, f"the held request in worker {self.pid}: {error or answer!r}"
        if answer is not None:
            assert (answer.status, answer.pid) == (200, self.pid)


class Trial:
    """One fault at one step. `old` and `new` are the masters, once there are such."""

    _count = 0

    def __init__(self, service: Service, step: str, victim: str, type: str) -> None:
        self.service = service
        self.step = step
        self.victim = victim
        self.type = type
        self.old = service.master
        self.new = 0
        self.killed: list[int] = []
        self.failures: dict[str, int] = {}
        self.held: list[Held] = []
        #: What lets the survivors go on.
        self._undo: list[Callable[[], object]] = []
        self._gates: set[str] = set()
        Trial._count += 1
        self.release = f"r{Trial._count}"
        self.load = Load(service.address, CLIENTS, timeout=DEADLINE)

    # --- what steps are made of

    def close(self, gate: str, whom: int | None = None) -> None:
        (self.service.folder / f"{gate}.held").unlink(missing_ok=True)
        self.service.write(f"gate.{gate}", "" if whom is None else str(whom))
        self._gates.add(gate)

    def open(self, gate: str) -> None:
        (self.service.folder / f"gate.{gate}").unlink(missing_ok=True)

    def wait_at(self, gate: str) -> None:
        self.service.wait_file(f"{gate}.held", lines=1)

    def later(self, undo: Callable[[], object]) -> None:
        self._undo.append(undo)

    def begin(self, release: str = "", probation: float = _SHORT_PROBATION) -> None:
        self.service.write("probation", str(probation))
        self.service.release(release or f"{self.release} sleep=0.1")
        self.new = self.service.begin_upgrade()

    def stop(self, pid: int) -> None:
        self.service.signal(signal.SIGSTOP, pid)
        self.wait_stopped(pid)

    def wait_stopped(self, pid: int) -> None:
        until(lambda: (found := process(pid)) is not None and found.state == "T", f"{pid} to be stopped")

    def cont(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):   # it may be the victim
            self.service.signal(signal.SIGCONT, pid)

    def wait_title(self, pid: int, text: str) -> None:
        until(lambda: text in title(pid), f"{text!r} in the title of {pid}")

    def hold(self, workers: Sequence[int]) -> None:
        """Have a request answered by one of `workers` that holds none yet."""
        taken = {held.pid for held in self.held}
        for attempt in range(100):
            held = Held(self.service, f"{self.release}.{len(self.held)}.{attempt}")
            if held.pid in workers and held.pid not in taken:
                self.held.append(held)
                return
            held.let_go()
            held.check(killed=False)
        raise AssertionError(f"no connection for a free worker of {workers}")

    def workers(self, master: int) -> list[int]:
        """Return a master's workers: its children, without the new master."""
        children = self.service.workers(master) if is_running(master) else []
        return [pid for pid in children if pid != self.new]

    def free_worker(self, master: int) -> int:
        workers = self.workers(master)
        busy = {held.pid for held in self.held}
        return next((pid for pid in workers if pid not in busy), workers[0])

    # --- the trial

    def run(self) -> str:
        """Do it all; returns who serves: "old" or "new". Raises AssertionError for what a user would complain of."""
        try:
            with self.load:
                self.load.wait_for(10)
                STEPS[self.step](self)
                if self.victim in VICTIMS:
                    self.kill()
                else:
                    HANGS[self.victim](self)
                outcome = self.settle()
                self.load.wait_for(10)
                self.judge(outcome)
            self.upgrade_again()
        finally:
            for gate in self._gates:
                self.open(gate)
        return outcome

    def kill(self) -> None:
        """SIGKILL the victims, as nearly at once as can be."""
        master = self.old if self.victim.startswith("old") or self.victim == "all old workers" else self.new
        if self.victim.endswith("master"):
            pids = [master]
            if master == self.new and self.step in _NEW_SERVES:
                self.hold(self.workers(self.new))
        elif self.victim.startswith("all"):
            pids = self.workers(master)
        else:
            pids = [self.free_worker(master)]
        assert pids
        assert set(pids) <= {p.pid for p in descendants(os.getpid())}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.killed += pids
        # A kill takes its time under load, and until then the step must not be over either.
        until(lambda: not any(map(is_running, pids)), "the victims to be dead")
        self._killed_at = time.monotonic()
        found = process(self.new)
        if master == self.new and self.victim.endswith(("worker", "workers")) and found and found.state != "T":
            # It must have noticed before the step is over: afterwards a death has another meaning.
            until(lambda: not any(map(process, pids)), "the dead workers to be reaped")

    def settle(self) -> str:
        """Let the survivors go on, and wait until one master serves; returns whose it is."""
        for undo in self._undo:
            undo()
        # Before the held requests end: somebody must serve while they are held.
        if self.step != "draining":
            self.load.wait_for(5, timeout=SETTLES)
        for held in self.held:
            held.let_go()
        for held in self.held:
            held.check(held.pid in self.killed)
        master = self.wait_alone()
        self.service.master = master
        for _ in range(2 * WORKERS):
            assert self.service.ask().pid in self.workers(master)
        return "old" if master == self.old else "new"

    def wait_alone(self) -> int:
        def alone() -> int:
            self.service.reap()
            everyone = descendants(os.getpid())
            masters = [p.pid for p in everyone if p.parent == os.getpid()]
            if len(masters) != 1 or any(p.state in "ZXT" for p in everyone):
                return 0
            (master,) = masters
            workers = self.service.workers(master)
            if len(workers) != WORKERS or len(everyone) != 1 + WORKERS or not title(master).endswith("]"):
                return 0
            loaded = {int(line.split()[1]) for line in self.service.read("loaded").splitlines()}
            return master if set(workers) <= loaded else 0

        master = until(alone, "one master and its workers, alone", SETTLES)
        assert self.service.pid_in() == master, "the pid file names another process"
        assert not (self.service.folder / "pid.2").exists()
        self.check_status(master)
        return master

    def check_status(self, master: int) -> None:
        """Whoever died: the status is that of the master that serves, and nothing is under way any more."""
        (path,) = (self.service.folder / "gunicorn_hot").glob("*.json")
        expected = ("serving", None, [(master, "serving", sorted(self.service.workers(master)))])

        def seen() -> Any:
            found = statusfile.read(path)
            masters = [(one.pid, one.role, sorted(worker.pid for worker in one.workers)) for one in found.masters]
            return found.state, found.upgrade, masters

        try:
            until(lambda: seen() == expected, "the status of the master that serves")
        except AssertionError:
            raise AssertionError(f"the status is {seen()}, and should be {expected}") from None
        assert not statusfile.read(path).is_stale()

    def judge(self, outcome: str) -> None:
        report = self.load.stop()
        self.failures = dict(report.failures)
        failed = [record for record in report.records if not record.ok]
        if not self.killed or self.victim.endswith("master"):
            assert not failed, report.summary()
        else:
            # A sync worker holds one request; any other, at most all that the clients have.
            most = len(self.killed) * (1 if self.type == "sync" else sum(CLIENTS.values()))
            assert len(failed) <= most, report.summary()
            assert {record.outcome for record in failed} <= {*CUT}, report.summary()
            assert all(record.began <= self._killed_at + _KILL_SLACK for record in failed), report.summary()
        if outcome == "new" and "old" not in self.victim:
            assert not report.went_back, report.summary()
        allowed = expected(self.step, self.victim)
        assert outcome in allowed, f"the {outcome} generation serves, not the {' or '.join(allowed)}"

    def upgrade_again(self) -> None:
        for gate in self._gates:
            self.open(gate)
        old = self.service.master
        self.service.write("probation", str(_SHORT_PROBATION))
        new = self.service.upgrade(f"{self.release}+ sleep=0.05")
        assert self.wait_alone() == new != old
        assert self.service.ask().gen == f"{self.release}+"


# --- the steps, each of which returns while the upgrade stands there ---------------------------------------------


def _held(trial: Trial) -> None:
    """Most trials begin with this: what is held in an old worker must be answered whatever happens to the others."""
    trial.hold(trial.workers(trial.old))


def forked(trial: Trial) -> None:
    _held(trial)
    trial.close("forked")
    trial.begin()
    trial.wait_at("forked")
    trial.later(lambda: trial.open("forked"))


def executed(trial: Trial) -> None:
    _held(trial)
    trial.close("executed")
    trial.begin()
    trial.wait_at("executed")
    trial.later(lambda: trial.open("executed"))


def hello(trial: Trial) -> None:
    _held(trial)
    go = f"{trial.release}.import"
    trial.begin(f"{trial.release} hold={go}")
    trial.service.wait_file(f"{go}.held", lines=WORKERS)
    # What is read from the disk from now on is not held.
    trial.service.release(f"{trial.release} sleep=0.1")
    trial.later(lambda: trial.service.write(go))


def one_ready(trial: Trial) -> None:
    executed(trial)
    mark = trial.service.mark()
    trial.close("second", trial.new)
    trial.open("executed")
    trial.service.wait_log("Upgrade: 1 of 2 workers ready", after=mark)
    trial.wait_at("second")
    trial.later(lambda: trial.open("second"))


def ready_sent(trial: Trial) -> None:
    one_ready(trial)
    trial.stop(trial.old)
    trial.open("second")
    trial.wait_title(trial.new, "ready, waiting for the gate")
    trial.later(lambda: trial.cont(trial.old))


def ready(trial: Trial) -> None:
    _held(trial)
    trial.close("ready")
    trial.begin(probation=PROBATION)
    trial.wait_at("ready")
    trial.later(lambda: trial.open("ready"))


def pausing(trial: Trial) -> None:
    """One of the old workers is stopped between its decision to accept and its accept."""
    ready(trial)
    worker = trial.free_worker(trial.old)
    trial.close("accept", worker)
    trial.wait_stopped(worker)
    trial.open("ready")
    trial.wait_title(trial.old, "pausing workers")
    trial.later(lambda: trial.open("accept"))
    trial.later(lambda: trial.cont(worker))


def opening(trial: Trial) -> None:
    """The new master has been told to open the gate, and has not read it."""
    ready(trial)
    trial.stop(trial.new)
    trial.open("ready")
    trial.wait_title(trial.old, "waiting for the successor to accept")
    trial.later(lambda: trial.cont(trial.new))


def opened(trial: Trial) -> None:
    """The new master has said that its gate is open, and the old one has not read it."""
    opening(trial)
    trial.stop(trial.old)
    trial.cont(trial.new)
    trial.wait_title(trial.new, "in probation")
    trial.later(lambda: trial.cont(trial.old))


def _lasting(trial: Trial) -> float:
    """Return how long a probation is in which something has to happen."""
    if trial.step in ("committing", "committed") or trial.victim == "new master stopped":
        return _LONG_PROBATION
    # Several are to die in it, and that ends it.
    return DEADLINE if trial.victim.startswith("all new workers") else PROBATION


def first_answer(trial: Trial) -> None:
    _held(trial)
    trial.begin(probation=_lasting(trial))
    trial.load.wait_for(1, gen=trial.release)


def probation(trial: Trial) -> None:
    _held(trial)
    trial.begin(probation=_lasting(trial))
    trial.wait_title(trial.old, "in probation")


def committing(trial: Trial) -> None:
    """The new master has been told to commit, and has not read it."""
    probation(trial)
    trial.stop(trial.new)
    trial.wait_title(trial.old, "committing")
    trial.later(lambda: trial.cont(trial.new))


def committed(trial: Trial) -> None:
    """The new master has committed and said so, and the old one has not read it."""
    committing(trial)
    trial.stop(trial.old)
    trial.cont(trial.new)
    until(lambda: trial.service.pid_in() == trial.new, "the new master's pid in the pid file")
    until(lambda: title(trial.new).endswith("]"), "the new master's plain title")
    trial.later(lambda: trial.cont(trial.old))


def draining(trial: Trial) -> None:
    for _ in range(WORKERS):
        trial.hold(trial.workers(trial.old))
    trial.begin()
    trial.wait_title(trial.old, "draining")


def last_worker(trial: Trial) -> None:
    _held(trial)
    trial.begin()
    trial.wait_title(trial.old, "draining")
    until(lambda: trial.workers(trial.old) == [trial.held[0].pid], "one old worker to be left")


def leaving(trial: Trial) -> None:
    trial.close("done")
    trial.begin()
    trial.wait_at("done")
    trial.later(lambda: trial.open("done"))


STEPS: dict[str, Callable[[Trial], None]] = {
    "forked": forked,
    "executed": executed,
    "hello": hello,
    "1 of 2 ready": one_ready,
    "READY sent": ready_sent,
    "READY received": ready,
    "pausing": pausing,
    "gate opening": opening,
    "gate opened": opened,
    "first answer": first_answer,
    "probation": probation,
    "committing": committing,
    "committed": committed,
    "draining": draining,
    "last worker": last_worker,
    "exit": leaving,
}
#: Here connections are answered by the new generation.
_NEW_SERVES = ("gate opened", "first answer", "probation", "committing", "committed", "draining", "last worker", "exit")
VICTIMS = ("old master", "new master", "old worker", "new worker", "all old workers", "all new workers")
#: Cells in which there is no victim.
IMPOSSIBLE = {
    ("forked", "new worker"),
    ("forked", "all new workers"),
    ("executed", "new worker"),
    ("executed", "all new workers"),
    ("last worker", "all old workers"),     # the same as "old worker"
    ("exit", "old worker"),
    ("exit", "all old workers"),
}


# --- hangs: a process is stopped, and not killed by us -----------------------------------------------------------


def _stays_stopped(trial: Trial) -> None:
    trial._undo.clear()


def stop_new_master(trial: Trial) -> None:
    trial.stop(trial.new)
    if trial.step == "hello":
        # Its workers are not to blame.
        for undo in trial._undo:
            undo()
    elif trial.step == "READY received":
        trial.open("ready")
    _stays_stopped(trial)


def stop_old_worker(trial: Trial) -> None:
    """An old worker is stopped in its accept, and stays so: the master kills it when the drain is over."""
    trial.open("ready")
    _stays_stopped(trial)
    (worker,) = (pid for pid in trial.workers(trial.old) if (found := process(pid)) and found.state == "T")
    trial.open("accept")
    trial.service.wait_log(f"no answer to the pause in 1s from worker {worker}")
    trial.killed.append(worker)
    trial._killed_at = time.monotonic() + SETTLES


def continue_old_worker(trial: Trial) -> None:
    """The same, but it goes on after the gate has opened: too late to accept anything."""
    trial.open("accept")
    trial.load.wait_for(10, gen=trial.release)


def abandon(trial: Trial) -> None:
    """The old master is killed, and a request in its worker never ends: the kernel ends the worker."""
    (held,) = trial.held
    trial.service.signal(signal.SIGKILL, trial.old)
    until(lambda: not is_running(held.pid), "the orphaned worker's end", _DRAIN + 4)
    trial.killed.append(held.pid)
    trial._killed_at = time.monotonic()


def hang_replacement(trial: Trial) -> None:
    """A new worker is killed; when the one that replaces it hangs in its import, the others are killed, too."""
    go = f"{trial.release}.again"
    first, *others = trial.workers(trial.new)
    trial.service.release(f"{trial.release} hold={go}")
    trial.service.signal(signal.SIGKILL, first)
    trial.service.wait_file(f"{go}.held", lines=1)
    for worker in others:
        trial.service.signal(signal.SIGKILL, worker)
    trial.killed += [first, *others]
    until(lambda: not any(map(is_running, trial.killed)), "the victims to be dead")
    trial._killed_at = time.monotonic()


HANGS: dict[str, Callable[[Trial], None]] = {
    "new master stopped": stop_new_master,
    "old worker stopped": stop_old_worker,
    "old worker stopped and continued": continue_old_worker,
    "old master, a request never ends": abandon,
    "all new workers, a replacement hangs": hang_replacement,
}
#: (step, hang)
HANG_CELLS = (
    ("hello", "new master stopped"),
    ("READY received", "new master stopped"),
    ("probation", "new master stopped"),
    ("pausing", "old worker stopped"),
    ("pausing", "old worker stopped and continued"),
    ("probation", "old master, a request never ends"),
    ("probation", "all new workers, a replacement hangs"),
)
#: Those that are over when a bound of the operator's has passed, which is a short one here.
BOUNDED = frozenset(HANGS) - {"all new workers, a replacement hangs"}


def expected(step: str, victim: str) -> tuple[str, ...]:
    """Return who may serve in the end."""
    if victim.startswith("new master"):
        return ("old",)
    if "old" in victim:
        return ("new",)
    if victim in HANGS:
        return ("old",)
    before_ready = step in ("hello", "1 of 2 ready")
    if victim == "new worker":
        # One that had not been ready is a failed boot; one that had been is replaced.
        return ("old",) if step == "hello" else ("new",)
    if before_ready:
        return ("old",)
    if step in ("gate opening", "committing"):
        # Deaths, and the order that makes them count, or makes them not count any more, are read in either order.
        return ("old", "new")
    if step in ("gate opened", "first answer", "probation"):
        return ("old",)
    return ("new",)


def type_of(step: str, victim: str) -> str:
    """Return the worker type that meets this cell in the short matrix: spread, so that each meets each of both."""
    if victim in HANGS:
        return TYPES[HANG_CELLS.index((step, victim)) % len(TYPES)]
    return TYPES[(list(STEPS).index(step) + VICTIMS.index(victim)) % len(TYPES)]


CELLS = [
    *((step, victim) for step in STEPS for victim in VICTIMS if (step, victim) not in IMPOSSIBLE),
    *HANG_CELLS,
]


# --- a lane, in a process of its own -----------------------------------------------------------------------------


@dataclasses.dataclass
class Result:
    step: str
    victim: str
    type: str
    outcome: str = ""
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""
    story: str = ""


@contextlib.contextmanager
def _service(folder: Path, type: str, patient: bool) -> Iterator[Service]:
    with Service(folder, environment()) as service:
        hang: dict[str, int] = {} if patient else {"hot_ready_timeout": _READY, "hot_drain_timeout": _DRAIN}
        if patient:
            service.write("patient")
        worker_class = "uvicorn_worker.UvicornWorker" if type == "uvicorn" else type
        service.configure(HOOKS, worker_class=worker_class, workers=WORKERS, **hang)
        service.start()
        yield service


def _run_lane(folder: Path, type: str, cells: list[tuple[str, str]]) -> Iterator[Result]:
    """Run trials, on one service as long as it is well, and on a fresh one after that."""
    with contextlib.ExitStack() as stack:
        service, patient = None, True
        for step, victim in cells:
            result = Result(step, victim, type)
            began = time.monotonic()
            mark = 0
            try:
                if service is None or patient != (victim not in BOUNDED):
                    patient = victim not in BOUNDED
                    stack.close()
                    own = Path(tempfile.mkdtemp(dir=folder))
                    service = stack.enter_context(_service(own, type, patient))
                mark = service.mark()
                trial = Trial(service, step, victim, type)
                result.outcome = trial.run()
                result.failures = trial.failures
            except Exception as exc:
                result.error = "".join(traceback.format_exception(exc))
                if service is not None:
                    service.write("trial", service.log[mark:])
                    result.story = service.story().replace(service.log[:mark], "(...)\n")[-_STORY:]
                    service._kill_all()
                    service = None
                    stack.pop_all()
            result.seconds = time.monotonic() - began
            yield result


def main() -> None:
    """Run the trials of one worker type; each result is a line of JSON on the standard output."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    folder, type, cells = sys.argv[1:]
    for result in _run_lane(Path(folder), type, [(step, victim) for step, victim in json.loads(cells)]):
        print(json.dumps(dataclasses.asdict(result)), flush=True)


class Lane:
    """A lane, seen from the test."""

    def __init__(self, folder: Path, type: str, cells: Sequence[tuple[str, str]]) -> None:
        self.results: dict[tuple[str, str], Result] = {}
        self._news = threading.Condition()
        self._ended = False
        self._errors = folder / f"{type}.errors"
        repository = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [repository, os.environ.get("PYTHONPATH")]))
        with open(self._errors, "wb") as errors:
            self._popen = subprocess.Popen(
                [sys.executable, "-W", "error", __file__, str(folder), type, json.dumps(list(cells))],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                env={**os.environ, "PYTHONPATH": path},
            )
        self._thread = threading.Thread(target=self._read, name=f"lane {type}")
        self._thread.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            result = Result(**json.loads(line))
            with self._news:
                self.results[result.step, result.victim] = result
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def result(self, step: str, victim: str) -> Result:
        """Wait for a result; each wait in the lane has its bound."""
        with self._news:
            self._news.wait_for(lambda: (step, victim) in self.results or self._ended)
            found = self.results.get((step, victim))
        assert found is not None, f"the lane has ended before:\n{self._errors.read_text()}"
        return found

    def end(self) -> None:
        self._popen.terminate()
        self._popen.wait()
        self._thread.join()
        assert self._popen.stdout is not None
        self._popen.stdout.close()


if __name__ == "__main__":
    main()
