"""What a service says of itself: the one contract between its masters and whoever looks at it.

A `Status` is a JSON object in a file. Exactly one master writes it: the serving one, until a successor has committed,
and from then on that successor. Readers need nothing else, and nobody has to be asked. What a reader does not know is
skipped, and what a writer did not know yet has a default, so the two may be of different releases as long as `VERSION`
is the same.

Times named `since`, `started`, `deadline` or `at` are seconds on the wall clock (`time.time`); durations are seconds,
unless their name ends in `_ms`. Where the file is and how it gets there: see `statusfile`.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gunicorn_hot import processes

VERSION = 1
#: How many upgrades the history holds.
HISTORY = 10
#: Upper bounds of the histogram of durations, in seconds; the last one is infinite.
BUCKETS = ("1", "2.5", "5", "10", "30", "60", "120", "300", "600", "+Inf")
#: Every outcome that an upgrade can have.
OUTCOMES = ("done", "failed", "rolled-back", "taken-back", "aborted", "checked", "check-failed")


class StatusError(Exception):
    """There is no status to read, and why."""


@dataclass(frozen=True)
class Service:
    #: The pid to signal: in "stable" it never changes, in "follow" it is the serving master's.
    pid: int
    name: str
    #: "stable" or "follow".
    pid_mode: str
    pid_file: str | None
    #: Where the configuration was read, before any `chdir`.
    folder: str
    #: "http://127.0.0.1:8000", "unix:/run/app.sock".
    listeners: list[str]
    #: gunicorn's own, for `gunicornc`.
    control_socket: str | None = None


@dataclass(frozen=True)
class Written:
    """Who wrote the file, so that one whose writer is no more can be told from one that is true."""

    pid: int
    #: `processes.start_time`; 0 where it is not known.
    start: int
    #: `processes.boot_id`; "" where it is not known.
    boot: str
    at: float


@dataclass(frozen=True)
class Phases:
    """How long each part of an upgrade took; 0 for one that it did not come to."""

    boot: float = 0.0
    #: From the order to pause until the new generation accepts: the time in which new connections had to wait.
    cutover_ms: float = 0.0
    probation: float = 0.0
    drain: float = 0.0


@dataclass(frozen=True)
class Upgrade:
    """The one that is under way."""

    #: The request's, if there was one; never seen before otherwise.
    id: str
    number: int
    #: "booting", "cutting-over", "probation", "committing", "draining", or "ending": one that has failed, or a check
    #: that has succeeded, is being ended.
    state: str
    #: It ends when the new generation is ready, and changes nothing.
    check: bool
    started: float
    #: The old one's.
    generation: int = 0
    #: When the patience of this state ends.
    deadline: float | None = None
    #: Workers of the new generation.
    ready: int = 0
    total: int = 0
    #: What keeps the new generation from being ready, if it has said so.
    waits_for: str = ""
    draining_requests: int = 0
    draining_workers: int = 0
    #: "ending": why.
    reason: str = ""
    #: How long it has taken up to its present state.
    phases: Phases = field(default_factory=Phases)


@dataclass(frozen=True)
class Worker:
    pid: int
    #: "booting", "ready" (at the gate), "serving", "paused" or "draining".
    state: str
    #: When it was forked.
    since: float
    #: Requests that it is answering; None where nobody counts: counting is for workers that do not accept.
    in_flight: int | None = None


@dataclass(frozen=True)
class Master:
    #: "serving", "successor", "draining" or "holder".
    role: str
    pid: int
    #: `processes.start_time`.
    start: int
    since: float
    #: 0: a holder has none.
    generation: int = 0
    gunicorn: str = ""
    python: str = ""
    hot: str = ""
    #: Of the application, as its deployment has named it.
    revision: str | None = None
    workers: list[Worker] = field(default_factory=list)


@dataclass(frozen=True)
class Past:
    """An upgrade that is over."""

    id: str
    number: int
    generation_from: int
    generation_to: int
    started: float
    duration: float
    #: One of OUTCOMES.
    outcome: str
    phases: Phases = field(default_factory=Phases)
    reason: str = ""
    #: The application's own words, when it could not be loaded: the end of its traceback.
    output: str = ""
    #: Requests that the end of the drain has cut.
    cut: int = 0


@dataclass(frozen=True)
class Durations:
    """A histogram of upgrades that are done; `buckets` counts those that took at most so long, like Prometheus."""

    buckets: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BUCKETS, 0))
    sum: float = 0.0
    count: int = 0


@dataclass(frozen=True)
class Totals:
    """Since the service was started."""

    #: By outcome; those that have not happened are 0.
    upgrades: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    duration: Durations = field(default_factory=Durations)
    cut: int = 0


@dataclass(frozen=True)
class Refused:
    """The last request that was not granted."""

    id: str
    reason: str


@dataclass(frozen=True)
class Status:
    service: Service
    written: Written
    #: "booting" (the service itself starts), "serving", "upgrading" or "stopping".
    state: str
    generation: int
    upgrade: Upgrade | None = None
    masters: list[Master] = field(default_factory=list)
    #: The newest first; at most HISTORY.
    history: list[Past] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    refused: Refused | None = None
    version: int = VERSION

    def is_stale(self) -> bool:
        """Whether the process that wrote this is no more, so that none of it need be true any longer."""
        return not processes.is_same(self.written.pid, self.written.start, self.written.boot)

    def is_alive(self, master: Master) -> bool:
        """Whether one of its masters still is the process that it was, and runs."""
        return processes.is_same(master.pid, master.start, self.written.boot)

    def has_ended(self) -> bool:
        """Whether none of the masters that it names is left."""
        return self.is_stale() and not any(map(self.is_alive, self.masters))

    def master(self, role: str) -> Master | None:
        """Return the master that has this role, if there is one."""
        return next((master for master in self.masters if master.role == role), None)

    def past(self, id: str) -> Past | None:
        """Return the upgrade of this id, if it is over and not forgotten."""
        return next((past for past in self.history if past.id == id), None)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))


def parse(text: str | bytes) -> Status:
    """Return the status that a file holds. Raises StatusError, which says what is wrong with it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise StatusError(f"it is not JSON: {exc}") from None
    if not isinstance(value, dict):
        raise StatusError("it is not a JSON object")
    if value.get("version") != VERSION:
        raise StatusError(f"it is of version {value.get('version')!r}, and this gunicorn_hot reads version {VERSION}")
    return from_dict(Status, value)


_T = TypeVar("_T")


def from_dict(kind: type[_T], value: Any, where: str = "") -> _T:
    """Build one of the classes above from what JSON has made of it; fields that it does not have are skipped.

    Raises StatusError, which names the field that is missing or of the wrong type."""
    made: _T = _read(kind, value, where)
    return made


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        [kind] = [one for one in arguments if one is not type(None)]
        return _read(kind, value, where)
    if origin is list:
        return [_read(arguments[0], one, f"{where}[{index}]") for index, one in enumerate(_is(list, value, where))]
    if origin is dict:
        return {key: _read(arguments[1], one, f"{where}[{key!r}]") for key, one in _is(dict, value, where).items()}
    if kind is float:
        return float(_is((int, float), value, where))
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        return _is(kind, value, where)
    _is(dict, value, where)
    found = {}
    hints = _hints(kind)
    for one in dataclasses.fields(kind):
        name = f"{where}.{one.name}" if where else one.name
        if one.name in value:
            found[one.name] = _read(hints[one.name], value[one.name], name)
        elif one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            raise StatusError(f"{name!r} is missing")
    return kind(**found)


_HINTS: dict[Any, dict[str, Any]] = {}


def _hints(kind: Any) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind)
    return _HINTS[kind]


def _is(kind: Any, value: Any, where: str) -> Any:
    # To Python a bool is an int, to JSON it is not.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise StatusError(f"{where or 'it'!r} is {value!r:.60}")
    return value
