"""What each server is to the benches: installed or not, started, upgraded in its own way, and stopped.

The application is `bench.apps.release`, which reads at its import which release is on the disk, and every answer names
it. So nobody has to know how a server goes from one release to the next."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NamedTuple

from bench.apps import FAULTS
from bench.service import BenchError, Exchange, adopt_orphans, free_port, stats

_ROOT = Path(__file__).resolve().parents[2]
_STOP_S = 5.0
_LOG_LINES = 40


class Phase(NamedTuple):
    """A part of an upgrade, in `time.monotonic()` seconds."""

    name: str
    begun: float
    ended: float


class Rival(ABC):
    """One server on 127.0.0.1, in a folder of its own, which goes with it.

    `workers` processes with `threads` threads each, where the server has such. A context manager that stops it. Linux
    only: it adopts orphans."""

    #: For `--rival`, and for people.
    name: ClassVar[str]
    title: ClassVar[str]
    #: Whether it loads an application, which takes its time.
    loads: ClassVar[bool] = True
    #: The faults that a release of it can have.
    faults: ClassVar[tuple[str, ...]] = FAULTS
    #: The worker type of gunicorn that it works like, which decides its clients: see `bench.mix`.
    like: ClassVar[str] = "gthread"
    #: Why there is no version.
    absent: ClassVar[str] = "not installed"

    def __init__(self, workers: int, threads: int, probation: float) -> None:
        self.workers = workers
        self.threads = threads
        #: s; for those that have one.
        self.probation = probation
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self._popen: subprocess.Popen[bytes] | None = None

    # --- what each rival says

    @classmethod
    @abstractmethod
    def version(cls) -> str | None:
        """Return which version is installed, or None if it is not."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command, after writing what it reads from `folder`."""

    @abstractmethod
    def upgrade(self) -> None:
        """Do what its manual, or its users, do for the release on the disk to be served. Not to wait for the result."""

    def phases(self, ordered: float, gone: float) -> list[Phase]:
        """Return the parts of the last upgrade, which was ordered and over at these times."""
        return [Phase("upgrade", ordered, gone)]

    # --- its life

    def release(self, name: str, import_s: float, fault: str = "") -> None:
        """Put a release on the disk, whole at any instant; see `bench.apps.release`."""
        new = self.folder / "release.new"
        new.write_text(json.dumps({"name": name, "import_s": import_s, "fault": fault}), encoding="utf-8")
        new.rename(self.folder / "release")

    def start(self, timeout: float = 60.0) -> None:
        """Start it, and wait until it answers. Raises BenchError after `timeout` s, or when it ends."""
        adopt_orphans()
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "BENCH_RELEASE": str(self.folder / "release"),
        }
        with open(self.folder / "log", "ab") as log:
            self._popen = subprocess.Popen(
                self.command(), cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )
        self.wait_answer(timeout)

    def wait_answer(self, timeout: float) -> None:
        """Wait until it answers. Nobody tells for all rivals when that is so, so it is tried."""
        self.poll(self.answers, timeout, "no answer")

    def poll(self, fact: Callable[[], bool], timeout: float, what: str) -> None:
        """Wait until `fact` is true, by looking again. Raises BenchError after `timeout` s."""
        end = time.monotonic() + timeout
        while not fact():
            if time.monotonic() > end or not self.is_running:
                raise BenchError(f"{self.name}: {what} in {timeout:g}s\n{self.log()}")
            time.sleep(0.01)

    def answers(self, timeout: float = 1.0, gen: str | None = None) -> bool:
        """Whether it answers a request with 200 within that time, by the release `gen` if that is given."""
        try:
            exchange = Exchange(self.port, timeout)
        except OSError:
            return False
        try:
            headers = exchange.get("/", close=True)
        except (OSError, BenchError):
            return False
        finally:
            exchange.close()
        return gen in (None, headers.get("x-gen"))

    @property
    def pid(self) -> int:
        """The process that was started."""
        assert self._popen is not None
        return self._popen.pid

    def pids(self) -> set[int]:
        """Its living processes, whoever has become their parent."""
        return {stat.pid for stat in stats() if stat.session == self.pid and stat.state not in "ZX"}

    @property
    def is_running(self) -> bool:
        return bool(self.pids())

    def signal(self, sig: signal.Signals, pid: int | None = None) -> None:
        """Send a signal to the process that was started, or to another one of its session; not if that has ended."""
        target = self.pid if pid is None else pid
        if target in self.pids():
            os.kill(target, sig)

    def log(self) -> str:
        lines = (self.folder / "log").read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:])

    def stop(self) -> None:
        """End all of its processes, gently for some seconds, and remove its folder."""
        if self._popen is not None:
            for pid in self.pids():
                self.signal(signal.SIGTERM, pid)
            end = time.monotonic() + _STOP_S
            while self.pids() and time.monotonic() < end:
                self._reap()
                time.sleep(0.02)
            while left := self.pids():
                for pid in left:
                    self.signal(signal.SIGKILL, pid)
                self._reap()
            self._reap()
            self._popen.returncode = 0
            self._popen = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _reap(self) -> None:
        try:
            while os.waitpid(-self.pid, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def __enter__(self) -> Rival:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def beside_python(name: str) -> str | None:
    """Return the path of a command that pip has installed beside this Python, or that is on the PATH."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


def installed(package: str) -> str | None:
    """Return the version of a package that pip has installed, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
