"""What the two loads can do and see by themselves, against a server that costs nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bench import hammer
from bench.load import Load

#: A rate above this share of the ceiling says as much of the load as of the server.
NEAR = 0.5


@dataclass(frozen=True)
class Ceiling:
    """Rates are in requests/s, waits in s. The server is a process of its own that answers at once."""

    keep_rate: float        # bench.hammer, kept-alive connections
    new_rate: float         # bench.hammer, a connection for each request
    load_rate: float        # bench.load, with the clients of `upgrade` that do not take their time on purpose
    load_wait: float        # ... the longest wait of one of its new connections: below it nothing is seen

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        return (
            f"The load's own ceiling: steady {self.keep_rate:.0f} requests/s kept-alive, "
            f"{self.new_rate:.0f}/s with new connections;\n  mixed clients {self.load_rate:.0f}/s, "
            f"the longest wait of a new connection {self.load_wait * 1000:.1f} ms"
        )


def measure(seconds: float, processes: int) -> Ceiling:
    """Takes about three times `seconds`."""
    with hammer.responder() as port:
        keep = hammer.run(port, True, 16, 100, seconds, processes)
        new = hammer.run(port, False, 16, 100, seconds, processes)
        load = Load(f"127.0.0.1:{port}", {"new": 4, "keep": 4, "idle": 8})
        with load:
            load.wait_for(max(50, int(1000 * seconds)), timeout=60)
            report = load.stop()
    first = min(record.opened for record in report.records)
    last = max(record.done for record in report.records)
    waits = report.waits("new")
    return Ceiling(keep.rate, new.rate, len(report.records) / (last - first), waits[-1])
