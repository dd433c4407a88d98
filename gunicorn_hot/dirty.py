"""gunicorn's dirty workers: whether they have loaded their applications, which nothing tells gunicorn's master.

They are children of the dirty arbiter, a process that the master forks before its workers. Each says through one
channel, which that process and they alone have, that it has loaded, and listens; and the dirty arbiter, that one is
gone.
"""

from __future__ import annotations

from typing import Any

from gunicorn_hot import private
from gunicorn_hot.channel import Channel

#: In the dirty arbiter and its workers: to the master.
_to_master: Channel | None = None


def are_wanted(cfg: Any) -> bool:
    return bool(cfg.dirty_workers > 0 and cfg.dirty_apps)


def let_report(cfg: Any) -> None:
    """Put our reports before and after the operator's hooks; once for each configuration."""
    initialised, ended = cfg.dirty_worker_init, cfg.dirty_worker_exit

    def dirty_worker_init(worker: Any) -> None:
        initialised(worker)
        # It listens only after this hook, which is gunicorn's last, and begins to beat then. A request that comes in
        # between is refused.
        beat = worker._heartbeat_loop

        async def heartbeat_loop() -> None:
            _say("loaded", worker.pid)
            await beat()

        worker._heartbeat_loop = heartbeat_loop

    def dirty_worker_exit(arbiter: Any, worker: Any) -> None:
        _say("gone", worker.pid)
        ended(arbiter, worker)

    cfg.set("dirty_worker_init", dirty_worker_init)
    cfg.set("dirty_worker_exit", dirty_worker_exit)


def _say(type: str, pid: int) -> None:
    if _to_master is not None:
        _to_master.send(type, pid=pid)


class Reports:
    """In the master, about one dirty arbiter; made just before that is forked. Raises OSError."""

    def __init__(self) -> None:
        global _to_master
        self.channel, _to_master = Channel.pair()
        private.register(self.channel)
        #: How many dirty workers there should be.
        self.wanted = 0
        self._loaded: set[int] = set()

    def forked(self, arbiter: Any) -> None:
        """After the fork; `arbiter`: gunicorn's DirtyArbiter, None if there is none. No other child may report."""
        global _to_master
        if _to_master is not None:
            _to_master.close()
            _to_master = None
        if arbiter is not None:
            # Where each application has a limit, as many as the highest.
            limits = [spec["worker_count"] for spec in arbiter.app_specs.values()]
            self.wanted = min([arbiter.num_workers, *([] if None in limits else [max(limits, default=0)])])

    @property
    def loaded(self) -> int:
        return min(len(self._loaded), self.wanted)

    def receive(self) -> list[int]:
        """Hear what there is; return the pids of those that are gone and had not loaded."""
        failed = []
        for message in self.channel.receive():
            pid = int(message.fields["pid"])
            if message.type == "loaded":
                self._loaded.add(pid)
            elif pid in self._loaded:
                self._loaded.remove(pid)
            else:
                failed.append(pid)
        return failed

    def close(self) -> None:
        private.forget(self.channel)
