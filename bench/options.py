"""What a run was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from bench.apps import FAULTS
from bench.rivals import RIVALS
from bench.tables import Result

WORKERS = ("sync", "gthread", "gevent", "asgi", "uvicorn")
#: Upgrades of each bench, if nothing else is asked for: per worker type or rival, and more exactly as its column says.
UPGRADES = {
    "upgrade": 10, "cutover": 200, "leave": 10, "rivals": 10, "endurance": 200, "nginx": 10, "cost": 3,
}


def _forget(result: Result) -> None:
    """Save nothing."""


@dataclass(frozen=True)
class Options:
    """Times are in seconds."""

    worker_types: tuple[str, ...] | None = None     # None: as each bench has it
    workers: int | None = None      # None: as each bench has it
    upgrades: int | None = None     # None: see UPGRADES
    pairs: int = 5                  # per worker type
    seconds: float = 4.0            # of load, per side of a pair (`steady`), and of each ceiling
    processes: int = 1              # of the load (`steady`)
    import_s: float = 3.0           # of the application (`upgrade`, `boot`)
    cpu_s: float = 2.0              # the same, of processor time (`boot-load`)
    probation: float = 1.0          # hot_probation (`upgrade`)
    slow_ms: int | None = None      # of slow, upload and stream clients; None: as each bench has it
    idle: int = 0                   # kept-alive connections that wait meanwhile (`cutover`)
    cost_workers: tuple[int, ...] = (1, 2, 8, 32, 64)   # (`cost`)
    cost_idle: tuple[int, ...] = (0, 100, 5000)         # idle connections (`cost`)
    reuse_port: bool = False        # on both sides (`steady`)
    rivals: tuple[str, ...] = tuple(RIVALS)
    faults: tuple[str, ...] = FAULTS    # (`bad-release`)
    after_s: float = 10.0           # from the order of an upgrade until the service should be up (`bad-release`)
    repair_s: float = 30.0          # for a good release to answer after a bad one (`bad-release`)
    instructions: int = 1000        # requests of which they are counted, 0: they are not (`steady`)
    control: bool = False           # stock on both sides (`steady`): what the machine's noise looks like

    #: Called with what a bench has so far, after each row: an interrupted run leaves that.
    save: Callable[[Result], None] = field(default=_forget, compare=False, repr=False)

    def types(self, default: tuple[str, ...] = WORKERS) -> tuple[str, ...]:
        return self.worker_types or default

    def upgrades_of(self, bench: str) -> int:
        return self.upgrades or UPGRADES[bench]

    def as_dict(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "save"}


#: Tiny numbers: enough to see that a bench runs, too few to say anything about the server.
SHORT: dict[str, Any] = {
    "upgrades": 1, "pairs": 1, "seconds": 0.3, "import_s": 0.2, "cpu_s": 0.2, "probation": 0.05, "slow_ms": 300,
    "after_s": 1.5, "cost_workers": (1, 2), "cost_idle": (0, 20), "instructions": 100,
}
