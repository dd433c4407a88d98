"""A gunicorn of a bench: hot or stock, started, upgraded and stopped, with every wait ended by a fact."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_CAP_SYS_NICE = 23
#: Of the clocks that each process has (clock_getcpuclockid): the one that counts what the scheduler gave it.
_CPU_TIME = 2
_TICKS = os.sysconf("SC_CLK_TCK")
_LINE = re.compile(r"(\d+) (\d+) (\w+) (.*)")
_INITIALISED = "Bench: the worker has loaded the application"
_GOING_WRONG = re.compile(r"Upgrade failed|^Traceback|Worker failed to boot")

#: Settings with which a worker of this type is started, if nothing else is said.
_TYPE_SETTINGS: dict[str, dict[str, Any]] = {
    "gthread": {"threads": 4},
    "uvicorn": {"worker_class": "uvicorn_worker.UvicornWorker"},
    "asgi, asyncio": {"worker_class": "asgi", "asgi_loop": "asyncio"},
    "asgi, uvloop": {"worker_class": "asgi", "asgi_loop": "uvloop"},
}
_ASGI_TYPES = ("asgi", "asgi, asyncio", "asgi, uvloop", "uvicorn")


class BenchError(Exception):
    """The server did not do what the bench needs to measure anything. The message has its log."""


@dataclass(frozen=True)
class Line:
    """A line of the error log; `at` is when it was logged, in `time.monotonic()` seconds."""

    at: float
    pid: int
    level: str
    text: str


class Log:
    """The error log of a server, over a pipe that all its processes inherit, read by a thread."""

    def __init__(self, fd: int) -> None:
        self.lines: list[Line] = []
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, args=(fd,), name="log", daemon=True)
        self._thread.start()

    def _read(self, fd: int) -> None:
        with os.fdopen(fd, errors="replace") as stream:
            for text in stream:
                match = _LINE.fullmatch(text.rstrip("\n"))
                if match:
                    line = Line(int(match[1]) / 1e9, int(match[2]), match[3], match[4])
                else:       # a traceback, or somebody who writes to the standard error
                    line = Line(time.monotonic(), 0, "", text.rstrip("\n"))
                with self._news:
                    self.lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def mark(self) -> int:
        """Where the log is now, for the `since` of a later call."""
        with self._news:
            return len(self.lines)

    def wait(self, pattern: str, since: int, timeout: float) -> tuple[Line, re.Match[str]]:
        """The first line from `since` on in which `pattern` is found.

        Raises BenchError after `timeout` s, or at once when the log ends or says that something failed.
        """
        line, match, _ = self._wait(pattern, since, timeout)
        return line, match

    def count(self, pattern: str, n: int, since: int, timeout: float) -> None:
        """Until there are `n` such lines; raises as `wait` does."""
        for _ in range(n):
            _, _, since = self._wait(pattern, since, timeout)

    def _wait(self, pattern: str, since: int, timeout: float) -> tuple[Line, re.Match[str], int]:
        sought = re.compile(pattern)
        deadline = time.monotonic() + timeout
        at = since
        with self._news:
            while True:
                while at < len(self.lines):
                    line = self.lines[at]
                    at += 1
                    if match := sought.search(line.text):
                        return line, match, at
                    if _GOING_WRONG.search(line.text):
                        raise BenchError(f"{line.text!r} instead of {pattern!r}\n{self.text()}")
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    when = "before the end of the log" if self._ended else f"in {timeout:g}s"
                    raise BenchError(f"no {pattern!r} {when}\n{self.text()}")
                self._news.wait(left)

    def find(self, patterns: Mapping[str, str], since: int) -> dict[str, Line]:
        """Of each pattern that has been seen from `since` on, its first line. Does not wait."""
        found: dict[str, Line] = {}
        with self._news:
            for line in self.lines[since:]:
                for name, pattern in patterns.items():
                    if name not in found and re.search(pattern, line.text):
                        found[name] = line
        return found

    def text(self) -> str:
        return "\n".join(f"{line.at:.6f} {line.pid} {line.level} {line.text}" for line in self.lines[-60:])

    def close(self, timeout: float = 5.0) -> None:
        """Wait for the end of the log: every process of the server has gone."""
        self._thread.join(timeout)


class Process:
    """A process of which the end is noticed at once, also when it is no child of ours."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def wait(self, timeout: float) -> float | None:
        """When its end was seen, in `time.monotonic()` s; None if it was not in `timeout` s."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(timeout * 1000):
            return None
        now = time.monotonic()
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass            # reaped already, or no child of ours
        return now

    def signal(self, sig: int) -> None:
        """Send a signal. Nothing happens if the process has gone; another one with its pid is never hit."""
        try:
            signal.pidfd_send_signal(self._fd, sig)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        os.close(self._fd)


@dataclass(frozen=True)
class Upgrade:
    """An upgrade under way; `sent` is when SIGUSR2 was sent, in `time.monotonic()` s."""

    sent: float
    old: Process
    new: Process
    mark: int


def adopt_orphans() -> None:
    """Let the masters whose predecessor has left become children of this process, which then reaps them."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _forbid_to_raise_priority() -> None:
    """Make the process that will be executed one of an ordinary user, in this respect."""
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_SYS_NICE)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Service:
    """One server on 127.0.0.1, in a folder of its own, which goes with it.

    The import of the application sleeps for `import_s` and computes for `import_cpu_s`; without
    `may_raise_priority` the server is an ordinary user's in that respect.

    It is executed by the command `prefix`, if there is one, and finds `env` in its environment. `ballast` is a number
    of objects that its master makes before it does anything else.

    `settings` are gunicorn's. Both kinds get the same configuration file but for the line that adopts
    gunicorn_hot (and its own settings). Linux only: it uses pidfds.
    """

    def __init__(
        self, worker: str, hot: bool, *, workers: int, import_s: float = 0.0, import_cpu_s: float = 0.0,
        may_raise_priority: bool = True, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None,
        ballast: int = 0, **settings: Any
    ) -> None:
        self.hot = hot
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._settings = {
            "bind": self.address,
            "worker_class": worker,
            "workers": workers,
            "errorlog": "-",
            "logger_class": "bench.apps.logger.Logger",
            "control_socket_disable": True,
            **_TYPE_SETTINGS.get(worker, {}),
            **settings,
        }
        if hot:
            # Not "stable" or "auto": the measures are about the masters' ends.
            self._settings.setdefault("hot_pid", "follow")
        else:
            self._settings = {name: v for name, v in self._settings.items() if not name.startswith("hot_")}
        self._application = f"bench.apps.{'asgi' if worker in _ASGI_TYPES else 'wsgi'}:app"
        self._import_s = import_s
        self._import_cpu_s = import_cpu_s
        self._may_raise_priority = may_raise_priority
        self._prefix = prefix
        self._env = env or {}
        self._ballast = ballast
        self._folder: str | None = None
        self._log: Log | None = None
        #: Oldest first. With hot_pid "stable" the first one becomes the holder, and stays.
        self._masters: list[Process] = []
        self._session = 0

    # --- life

    def start(self) -> float:
        """Fork and exec the server, and do not wait for it; returns when that began, `time.monotonic()` s."""
        adopt_orphans()
        self._folder = tempfile.mkdtemp(prefix="bench-")
        config = Path(self._folder, "gunicorn.conf.py")
        config.write_text(self._config(), encoding="utf-8")
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "BENCH_IMPORT_S": str(self._import_s),
            "BENCH_IMPORT_CPU_S": str(self._import_cpu_s),
            **self._env,
        }
        command = [*self._prefix, sys.executable, "-m", "gunicorn", "-c", config.name, self._application]
        read, write = os.pipe()
        try:
            began = time.monotonic()
            popen = subprocess.Popen(
                command, cwd=self._folder, env=env, stdin=subprocess.DEVNULL, stdout=write, stderr=write,
                start_new_session=True, preexec_fn=None if self._may_raise_priority else _forbid_to_raise_priority,
            )
        finally:
            os.close(write)
        popen.returncode = 0        # `Process` waits for it
        self._session = popen.pid
        self._masters.append(Process(popen.pid))
        self._log = Log(read)
        return began

    def _config(self) -> str:
        lines = [f"{name} = {value!r}" for name, value in self._settings.items()]
        # Transitions are logged at debug, and so is each request. Masters may say all, workers should not.
        lines.append("def post_fork(server, worker):\n    worker.log.error_log.setLevel('INFO')")
        lines.append(f"def post_worker_init(worker):\n    worker.log.info({_INITIALISED!r})")
        if self.hot:
            lines.insert(0, "from gunicorn_hot import on_starting")
        if self._ballast:
            # The names of a configuration file live as long as the server.
            lines.insert(0, f"import random\n_ballast = [bytes(random.randrange(480)) for _ in range({self._ballast})]")
        return "\n".join([*lines, ""])

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Until all workers have loaded the application and one answers; BenchError after `timeout` s."""
        self.log.count(_INITIALISED, self._settings["workers"], 0, timeout)
        exchange = Exchange(self.port, timeout)
        exchange.get("/", close=True)
        exchange.close()

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, timeout: float = 10.0) -> None:
        """End all masters that are left, gently for `timeout` s; remove the folder. May be called again."""
        for sig in (signal.SIGTERM, signal.SIGKILL):
            left = self._masters
            for master in reversed(left):
                master.signal(sig)
            self._masters = [master for master in reversed(left) if master.wait(timeout) is None]
            for master in left:
                if master not in self._masters:
                    master.close()
        if self._log is not None:
            self._log.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    # --- what is seen of it

    @property
    def log(self) -> Log:
        if self._log is None:
            raise RuntimeError("the service was not started")
        return self._log

    @property
    def master(self) -> Process:
        """The newest master."""
        return self._masters[-1]

    def cpu_seconds(self) -> float:
        """User and system time of the newest master and its living workers; each process to 10 ms."""
        master = self.master.pid
        return sum(
            stat.cpu_seconds for stat in stats() if stat.pid == master or stat.parent == master)

    def pids(self) -> set[int]:
        """All its processes, of every generation, zombies included."""
        return {stat.pid for stat in stats() if stat.session == self._session}

    def total_cpu_seconds(self) -> float:
        """What all its processes have used, those that have ended included; only differences say something.

        The living ones to a microsecond, their children that they have waited for to 10 ms. Whoever else ends a process
        of this program's, or waits for one, is taken for the service's."""
        ours = resource.getrusage(resource.RUSAGE_CHILDREN)
        total = ours.ru_utime + ours.ru_stime
        for stat in stats():
            if stat.session == self._session:
                total += stat.children_cpu_seconds
                try:
                    total += time.clock_gettime(~stat.pid << 3 | _CPU_TIME)
                except OSError:
                    total += stat.cpu_seconds   # a zombie, which nobody has waited for yet
        return total

    # --- an upgrade

    @property
    def _has_holder(self) -> bool:
        return self._settings.get("hot_pid") == "stable"

    def upgrade(self, timeout: float = 10.0) -> Upgrade:
        """Send SIGUSR2 to the service's pid, and return when the successor has a pid."""
        old = self.master
        mark = self.log.mark()
        sent = time.monotonic()
        (self._masters[0] if self._has_holder else old).signal(signal.SIGUSR2)
        _, match = self.log.wait(r"booting successor with pid: (\d+)", mark, timeout)
        new = Process(int(match[1]))
        self._masters.append(new)
        return Upgrade(sent, old, new, mark)

    def wait_gone(self, upgrade: Upgrade, timeout: float = 120.0) -> float:
        """Until the old master is gone; returns when that was seen, in `time.monotonic()` s.

        The first one of a service with a holder does not go, it becomes the holder: when it says that it is done."""
        if self._has_holder and upgrade.old is self._masters[0]:
            return self.log.wait("Upgrade: done", upgrade.mark, timeout)[0].at
        gone = upgrade.old.wait(timeout)
        if gone is None:
            raise BenchError(f"the old master is not gone in {timeout:g}s\n{self.log.text()}")
        self._masters.remove(upgrade.old)
        upgrade.old.close()
        return gone


# --- what the kernel says -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stat:
    pid: int
    parent: int
    session: int
    state: str              # a letter; Z: a zombie
    cpu_seconds: float      # its own, user and system
    children_cpu_seconds: float     # ... of those children that it has waited for


def stats() -> Iterator[Stat]:
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue        # it has ended
        fields = stat.rpartition(")")[2].split()        # from the state on, which is the third field
        yield Stat(
            int(entry), int(fields[1]), int(fields[3]), fields[0],
            (int(fields[11]) + int(fields[12])) / _TICKS, (int(fields[13]) + int(fields[14])) / _TICKS)


def children(pid: int) -> set[int]:
    """The pids of the children of a process, zombies included."""
    return {stat.pid for stat in stats() if stat.parent == pid}


# --- a client for one request -------------------------------------------------------------------------------


class Exchange:
    """One connection. Raises OSError, among them TimeoutError after `timeout` s."""

    def __init__(self, port: int, timeout: float = 30.0) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout)

    def send(self, path: str, close: bool = False) -> None:
        connection = "close" if close else "keep-alive"
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\r\n"
        self._sock.sendall(request.encode())

    def read(self) -> dict[str, str]:
        """The headers (in lower case) of the answer, read to its end. BenchError if it is no whole 200."""
        data = b""
        while True:
            head, found, body = data.partition(b"\r\n\r\n")
            if found:
                status, *lines = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in
                           (line.partition(":") for line in lines)}
                if len(body) >= int(headers.get("content-length", "0")):
                    break
            more = self._sock.recv(65536)
            if not more:
                raise BenchError(f"no whole answer: {data[:200]!r}")
            data += more
        if not status.startswith("HTTP/1.1 200"):
            raise BenchError(f"not a 200: {data[:200]!r}")
        return headers

    def get(self, path: str, close: bool = False) -> dict[str, str]:
        self.send(path, close)
        return self.read()

    def close(self) -> None:
        self._sock.close()
