"""A gate for worker classes that we know nothing about."""

from __future__ import annotations

import os
import signal
from typing import Any

from gunicorn_hot.workers.base import HotWorker


def gated(worker_class: type[Any], why: str) -> type[Any]:
    """Return a subclass of `worker_class` that waits at the gate, and that its master drains by SIGTERM.

    `why` says for the log why it can do no more."""
    return type(f"Gated{worker_class.__name__}", (_Gated, worker_class), {"why_not": why})


class _Gated(HotWorker):
    can_pause = False

    def run(self) -> None:
        if self.pass_gate():
            super().run()

    def is_parent_alive(self) -> bool:
        return os.getppid() == self.ppid

    def on_phase(self) -> None:
        # It asks nobody whether it may accept: the end of its master has to be a signal that it knows.
        if self.link.worker_end.closed and self.gate_open:
            os.kill(os.getpid(), signal.SIGTERM)

    def close_listeners(self) -> None:
        """Its own shutdown does that."""
