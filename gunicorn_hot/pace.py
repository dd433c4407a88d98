"""How many workers may load the application at a time, so that those who are served meanwhile do not suffer.

What hurts is not that a worker loads but that it keeps a processor busy: an import that waits for a database may as
well be done by all workers at once. So workers count by the processor time that they want. No event tells when a
process begins to wait; while workers are still to be started, the kernel's account of it is looked at now and then."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from pathlib import Path

#: s between two looks: some ticks of the kernel, after which it brings the account of a running thread up to date.
LOOK = 0.025
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return how many processors this process may keep busy: by affinity, and by the quota of its cgroup (v2)."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0))
    for quota in _quotas():
        cores = min(cores, max(1, int(quota)))
    return cores


def _quotas() -> list[float]:
    """Return what each cgroup that this process is in allows, in processors."""
    quotas = []
    folder = _CGROUPS / _own_cgroup()
    for group in (folder, *folder.parents):
        try:
            quota, period = (group / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue  # not a cgroup, the root, or "max"
    return quotas


def _own_cgroup() -> str:
    """Return its path below _CGROUPS; in a container mostly "", the root of what can be seen."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    return next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")


def default_limit() -> int:
    """Return what stands for `hot_boot_concurrency` when that is not set: one processor is left to those who serve."""
    return max(1, usable_cores() - 1)


def room(limit: int, loading: int, demand: float) -> int:
    """Return how many more workers may start, when `loading` of them want `demand` processors and may have `limit`.

    The next ones are taken to want as much as those before them."""
    most = limit if not loading else max(limit, int(limit * loading / max(demand, 1e-9)))
    return max(0, most - loading)


class Pace:
    """What loading workers want, by looks at the kernel's account of them."""

    def __init__(self) -> None:
        #: By pid: when it was looked at, the processor time that it had wanted by then, and what it wanted since the
        #: look before, in processors. A worker that is new is taken to want one.
        self._looks: dict[int, tuple[float, float, float]] = {}

    def demand(self, loading: Collection[int], now: float) -> float:
        """Return how many processors the loading workers want; None of them is looked at twice within LOOK."""
        self._looks = {pid: look for pid, look in self._looks.items() if pid in loading}
        for pid in loading:
            look = self._looks.get(pid)
            if look is not None and now - look[0] < LOOK:
                continue
            total, runs = account(pid)
            share = 1.0 if look is None else (total - look[1]) / (now - look[0])
            self._looks[pid] = (now, total, max(share, float(runs)))
        return sum(share for _, _, share in self._looks.values())


def account(pid: int) -> tuple[float, bool]:
    """Return the processor time in seconds that a process has used or stood in line for, and whether it does so now.

    Where nobody knows it is taken to do so. The time in line counts because a busy worker on a busy machine gets
    little; and the present because the kernel adds that time up only when it is over."""
    if sys.platform != "linux":
        return 0.0, True
    total, runs = 0.0, False
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            try:
                fields = (thread / "stat").read_text().rpartition(")")[2].split()
                runs = runs or fields[0] == "R"
                total += _in_line(thread) or (int(fields[11]) + int(fields[12])) / _TICKS
            except FileNotFoundError:
                continue  # it has ended
    except (OSError, ValueError, IndexError):
        return 0.0, True
    return total, runs


def _in_line(thread: Path) -> float:
    """Return the time on a processor and on a run queue; 0 if the kernel keeps no such account."""
    try:
        ran, stood, _ = (thread / "schedstat").read_text().split()
    except FileNotFoundError:
        return 0.0
    return (int(ran) + int(stood)) / 1e9
