"""A gate for worker classes that we know nothing about."""

from __future__ import annotations

from typing import Any

from gunicorn_hot.workers.base import HotWorker


def gated(worker_class: type[Any]) -> type[Any]:
    """Return a subclass of `worker_class` that waits at the gate, and that its master drains by SIGTERM."""
    return type(f"Gated{worker_class.__name__}", (_Gated, worker_class), {})


class _Gated(HotWorker):
    can_pause = False

    def run(self) -> None:
        if self.pass_gate():
            super().run()
