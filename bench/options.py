"""What a run was asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bench.apps import FAULTS
from bench.rivals import RIVALS

WORKERS = ("sync", "gthread", "gevent", "asgi", "uvicorn")


@dataclass(frozen=True)
class Options:
    """Times are in seconds."""

    worker_types: tuple[str, ...] = WORKERS
    workers: int | None = None      # None: as each bench has it
    upgrades: int = 10              # per worker type (`cutover`, `leave`: and per side)
    pairs: int = 7                  # per worker type
    seconds: float = 4.0            # of load, per side of a pair (`steady`), and of each ceiling
    processes: int = 1              # of the load (`steady`)
    import_s: float = 3.0           # of the application (`upgrade`, `boot`)
    cpu_s: float = 2.0              # the same, of processor time (`boot-load`)
    probation: float = 1.0          # hot_probation (`upgrade`)
    slow_ms: int = 1500             # of slow, upload and stream clients
    idle: int = 0                   # kept-alive connections that wait meanwhile (`cutover`)
    reuse_port: bool = False        # on both sides (`steady`)
    rivals: tuple[str, ...] = tuple(RIVALS)
    faults: tuple[str, ...] = FAULTS    # (`bad-release`)
    after_s: float = 10.0           # from the order of an upgrade until the service should be up (`bad-release`)
    repair_s: float = 30.0          # for a good release to answer after a bad one (`bad-release`)
    control: bool = False           # stock on both sides (`steady`): what the machine's noise looks like

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


#: Tiny numbers: enough to see that a bench runs, too few to say anything about the server.
SHORT: dict[str, Any] = {
    "upgrades": 1, "pairs": 1, "seconds": 0.3, "import_s": 0.2, "cpu_s": 0.2, "probation": 0.05, "slow_ms": 300,
    "after_s": 1.5,
}
