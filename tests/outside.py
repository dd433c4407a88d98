"""What a test sees of a service from outside: who is left, what a process holds, and a load that tolerates nothing."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from server import DEADLINE, Service, descendants, is_running, title, until

from bench.load import Load

LIGHT = {"new": 1, "keep": 1, "idle": 1, "slow": 1}
SLOW_MS = 200


@contextmanager
def unnoticed(
    service: Service, gen: str = "A", clients: dict[str, int] = LIGHT, address: str | None = None, cut: int = 0
) -> Iterator[Load]:
    """A light load, of which no request may fail, except for `cut` that were in flight, where a test says why."""
    with Load(address or service.address, clients, SLOW_MS, service.tls, timeout=DEADLINE) as load:
        load.wait_for(10, gen=gen)
        yield load
        report = load.stop()
    in_flight = {"reset", "reuse_reset", "truncated"}
    assert report.failed <= cut, report.summary()
    if cut < 100:
        assert {name.partition(":")[2] for name in report.failures} <= in_flight, report.summary()


# --- who is left ------------------------------------------------------------------------------------------------


def serving(service: Service, workers: int = 2) -> int:
    """Return the pid of the only master if it does nothing but serve, with its workers and nobody else; or 0."""
    service.reap()
    alive = descendants(os.getpid())
    masters = [p.pid for p in alive if p.parent == os.getpid()]
    if len(masters) != 1 or len(alive) != 1 + workers or any(p.state == "Z" for p in alive):
        return 0
    (master,) = masters
    # Its state is in its title, but for "serving".
    return master if title(master).endswith("]") else 0


def settle(service: Service, workers: int = 2) -> int:
    """Wait until one master serves with its workers, and nobody else is left; returns its pid."""
    service.master = until(lambda: serving(service, workers), f"one master that serves, {workers} workers, nobody else")
    return service.master


def wait_paused(service: Service) -> None:
    """Wait until each old worker has said that it is paused: the commit does not wait for those that accept nothing at
    that moment. None of them may be answering a request."""
    until(lambda: title(service.master).endswith(" draining, 0 in flight"), "that the old workers are paused")


def check_sole(service: Service, gen: str, workers: int = 2, master: int = 0) -> None:
    """One master serves with its workers, the outside says so, and nothing is left of any other."""
    settle(service, workers)
    assert service.master == (master or service.master)
    # gunicorn makes it with a temporary file beside it, for an instant.
    until(lambda: not (service.folder / "pid.2").exists(), "the end of pid.2")
    assert service.pid_in() == service.master
    answer = service.ask()
    assert answer.gen == gen
    assert answer.pid in service.workers()


# --- what a process holds ---------------------------------------------------------------------------------------


def descriptors(pid: int) -> list[str]:
    """Return what each open descriptor of `pid` is; not the status file, which a master may just be writing."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return sorted(name for name in found if not re.search(r"/gunicorn_hot/\.[^/]+\.json\.[^/]+$", name))


def sockets(pid: int) -> list[str]:
    """Return the sockets of a process, as "socket:[inode]", one for each descriptor."""
    return [name for name in descriptors(pid) if name.startswith("socket:")]


def shape(pid: int) -> list[str]:
    """Return the kinds of a process's open descriptors: those of two masters can be compared."""
    return sorted(re.sub(r":\[\d+\]|(?<=wgunicorn-)\w+", "", name) for name in descriptors(pid))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment that `pid` was executed with."""
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.partition("=")[::2] for line in lines if line)


def resident(pid: int) -> int:
    """Return the resident memory of a process, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1])


def zombies() -> list[int]:
    """Return the dead children of this service's processes; those of the test process are reaped by `Service.reap`."""
    return [p.pid for p in descendants(os.getpid()) if p.state == "Z" and p.parent != os.getpid()]


# --- an interpreter that a test can take away -------------------------------------------------------------------


def start_by_link(service: Service) -> Path:
    """Start the service with an interpreter that is a link in its folder; returns the link."""
    python = service.folder / "python"
    python.symlink_to(sys.executable)
    # As a link in another folder it is no part of a virtual environment any more.
    found = [path for path in sys.path if path.endswith("-packages")]
    service.env["PYTHONPATH"] = os.pathsep.join([*service.env.get("PYTHONPATH", "").split(), *found])
    service.start([python, *service.command()[1:]])
    return python


def leftovers(service: Service) -> set[str]:
    """Return the names of the files in the service's folder that no test and no application has made."""
    made = {"app.py", "hot.conf.py", "loaded", "log", "output", "release", "failed", "python", "__pycache__",
            "gunicorn_hot"}
    return {path.name for path in service.folder.iterdir()} - made


def wait_dead(*pids: int) -> None:
    """Wait for the ends of processes, some of which may be ours to reap."""
    until(lambda: not any(is_running(pid) for pid in pids), f"the end of {pids}")



def exit_status(service: Service) -> int | None:
    """Return the exit status of the process that the test has started, once it has ended."""
    popen = service._popen
    assert popen is not None
    return popen.wait(DEADLINE)
