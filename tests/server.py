"""A real gunicorn, started by a test: its files, its processes, its log, and connections to it.

Tests wait for facts (a line in the log, a file, the end of a process) with one helper, `until`, and hold the
application at a point with its gates. Nothing here sleeps to let something happen. A failure shows the whole log.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

REPOSITORY = Path(__file__).resolve().parent.parent
APPS = Path(__file__).resolve().parent / "apps"

#: s; for what takes milliseconds on a machine that has time.
DEADLINE = 20.0
#: s; to look again.
_INTERVAL = 0.005

HOOK = "from gunicorn_hot import on_starting"

_T = TypeVar("_T")


class TimedOut(AssertionError):
    """What was waited for did not come."""


def until(fact: Callable[[], _T], what: str, timeout: float = DEADLINE) -> _T:
    """Return what `fact` returns as soon as that is true. The only place where a test waits by looking again."""
    end = time.monotonic() + timeout
    while not (result := fact()):
        if time.monotonic() > end:
            raise TimedOut(f"not in {timeout:g}s: {what}")
        time.sleep(_INTERVAL)
    return result


# --- processes --------------------------------------------------------------------------------------------------


class Process(NamedTuple):
    pid: int
    parent: int
    state: str      # a letter; Z: a zombie
    start: int      # ticks of the kernel's clock since boot


def process(pid: int) -> Process | None:
    """Return what /proc says of `pid`, or None."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return Process(pid, int(fields[1]), fields[0], int(fields[19]))


def is_running(pid: int) -> bool:
    found = process(pid)
    return found is not None and found.state not in "ZX"


def descendants(pid: int) -> list[Process]:
    """Return all processes below `pid`, zombies too."""
    everyone = [found for name in os.listdir("/proc") if name.isdigit() and (found := process(int(name)))]
    below = {pid}
    # A child may have the lower number, so once is not enough.
    while more := {p.pid for p in everyone if p.parent in below} - below:
        below |= more
    return [p for p in everyone if p.pid in below and p.pid != pid]


def title(pid: int) -> str:
    """Return the process's title, or its command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_gone(pid: int, timeout: float = DEADLINE) -> None:
    """Wait for the end of a process that need not be our child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(timeout * 1000):
            raise TimedOut(f"not in {timeout:g}s: the end of process {pid} ({title(pid)})")
    finally:
        os.close(fd)


# --- connections ------------------------------------------------------------------------------------------------


class Certificate(NamedTuple):
    key: Path
    cert: Path


class Answer(NamedTuple):
    status: int
    gen: str        # X-Gen
    pid: int        # X-Pid
    closes: bool    # Connection: close
    body: bytes


class Connection(http.client.HTTPConnection):
    """One connection, to HOST:PORT or unix:PATH, that stays open between requests."""

    def __init__(self, address: str, tls: bool = False, timeout: float = DEADLINE) -> None:
        super().__init__("localhost", timeout=timeout)
        self.auto_open = 0
        self._address = address
        self._tls = tls
        self._timeout = timeout
        self.connect()

    def connect(self) -> None:
        if self._address.startswith("unix:"):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(self._timeout)
            try:
                sock.connect(self._address.removeprefix("unix:"))
            except OSError:
                sock.close()
                raise
        else:
            host, _, port = self._address.rpartition(":")
            sock = socket.create_connection((host, int(port)), self._timeout)
        if self._tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            sock = context.wrap_socket(sock)
        self.sock = sock

    def send_request(self, path: str) -> None:
        """Send a request, and do not wait for its answer."""
        self.request("GET", path)

    def answer(self) -> Answer:
        """Wait for the answer."""
        sock = self.sock
        response = self.getresponse()
        body = response.read()
        closes = response.headers.get("Connection", "") == "close"
        gen, pid = response.headers.get("X-Gen", "?"), int(response.headers.get("X-Pid", 0))
        if self.sock is None:
            sock.close()
        return Answer(response.status, gen, pid, closes, body)

    def ask(self, path: str = "/") -> Answer:
        self.send_request(path)
        return self.answer()

    def was_closed(self, timeout: float = DEADLINE) -> None:
        """Wait until the server closes the connection; anything else that it says is wrong."""
        self.sock.settimeout(timeout)
        assert self.sock.recv(1) == b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- the service ------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """Return the environment of a service: ours, without what speaks to gunicorn, and able to import gunicorn_hot.

    What is installed comes first: that is what tox wants to have tested."""
    names = re.compile(r"(GUNICORN|LISTEN)_|(NOTIFY_SOCKET|PYTHONPATH|WEB_CONCURRENCY|PORT|FORWARDED_ALLOW_IPS)$")
    env = {name: value for name, value in os.environ.items() if not names.match(name)}
    installed = subprocess.run(
        [sys.executable, "-c", "import gunicorn_hot"], cwd="/", env=env, stderr=subprocess.DEVNULL, check=False
    )
    if installed.returncode:
        env["PYTHONPATH"] = str(REPOSITORY)
    # A configuration file that is rewritten within a second, at the same length, would be taken from its .pyc.
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    return env


ASGI_WORKERS = ["asgi", "uvicorn_worker.UvicornWorker"]


def speaks_asgi(worker_class: str) -> bool:
    return worker_class == "asgi" or "uvicorn" in worker_class.lower()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Service:
    """A gunicorn in a folder of its own, and all processes that come of it.

    As a context manager it ends them all, and raises AssertionError if any is left that should not be."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        # Its status file is its own, and goes with the folder.
        self.env = {**env, "XDG_RUNTIME_DIR": str(folder)}
        self.address = f"127.0.0.1:{free_port()}"
        self.tls = False
        #: The master that serves, by the log; 0 before the start.
        self.master = 0
        self._popen: subprocess.Popen[bytes] | None = None
        self._imports = 0
        self._terminated: set[int] = set()
        shutil.copy(APPS / "subject.py", folder / "app.py")
        self.release("A")

    # What the test writes.

    def release(self, text: str) -> None:
        """Put a release on the disk: its name, and what its import does (see apps/subject.py)."""
        self.write("release", text)

    def configure(self, *lines: str, hook: str | None = HOOK, name: str = "hot.conf.py", **settings: Any) -> None:
        """Write the configuration file: the hook, the settings, and further lines. A setting of None is left out."""
        defaults: dict[str, Any] = {
            "bind": self.address,
            "workers": 2,
            "worker_class": "gthread",
            # With more than one thread gunicorn takes "sync" for "gthread".
            "threads": 8 if settings.get("worker_class", "gthread") == "gthread" else None,
            "keepalive": 5,
            "pidfile": "pid",
            "errorlog": "log",
            "control_socket_disable": True,
            "hot_probation": 0.2,
            # Not "auto": a test says what it is about.
            "hot_pid": "follow",
        }
        if hook is None:
            del defaults["hot_probation"], defaults["hot_pid"]
        values = {**defaults, **settings}
        if speaks_asgi(str(values["worker_class"])):
            shutil.copy(APPS / "subject.py", self.folder)
            shutil.copy(APPS / "asgi.py", self.folder / "app.py")
        self._imports = 1 if values.get("preload_app") else values["workers"]
        text = [hook or "", *(f"{key} = {value!r}" for key, value in values.items() if value is not None)]
        self.write(name, "\n".join([*text, *lines, ""]))

    def use_unix(self) -> None:
        self.address = f"unix:{self.folder}/sock"
        assert len(self.address) < 100, f"too long for a unix socket: {self.address}"

    def use_tls(self, certificate: Certificate) -> dict[str, str]:
        """Speak TLS from now on; returns the settings for it."""
        self.tls = True
        return {"keyfile": str(certificate.key), "certfile": str(certificate.cert)}

    def write(self, name: str, text: str = "") -> Path:
        """Write a file, whole at any instant: an application that looks for it may be running."""
        new = self.folder / f"{name}.new"
        new.write_text(text)
        return new.rename(self.folder / name)

    def read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    # Its processes.

    def run(self, *command: str, timeout: float = DEADLINE, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command that ends by itself; returns what it wrote, both outputs in stdout."""
        return subprocess.run(
            command or self.command(),
            **{"cwd": self.folder, "env": self.env, **options},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=timeout, check=False,
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "gunicorn", "-c", "hot.conf.py", "app:app", *arguments]

    def start(self, command: Sequence[str | Path] | None = None, serves: bool = True, **options: Any) -> None:
        """Start the service; `serves`: wait until each of its workers has loaded the application, and one answers.

        Before that, a release that a test puts on the disk could be loaded by the first generation."""
        with open(self.folder / "output", "ab") as output:
            popen = self._popen = subprocess.Popen(
                command or self.command(),
                **{"cwd": self.folder, "env": self.env, "stdin": subprocess.DEVNULL, **options},
                stdout=output, stderr=output,
            )
        if serves:
            listening = r"Listening at: .* \((\d+)\)"
            # One that is a daemon ends with 0.
            until(lambda: re.search(listening, self.log) or popen.poll(), "the line that it listens")
            self.master = int(self.wait_log(listening, timeout=0)[0][1])
            self.wait_file("loaded", lines=self._imports)
            assert self.ask().status == 200

    def workers(self, master: int | None = None) -> list[int]:
        """Return the pids of a master's children, in order of birth."""
        parent = master or self.master
        # Pids begin anew at pid_max.
        return [p.pid for p in sorted(descendants(parent), key=lambda p: (p.start, p.pid)) if p.parent == parent]

    def signal(self, sig: signal.Signals, pid: int | None = None) -> None:
        """Send a signal to a process of this service, the master by default.

        Raises ProcessLookupError for any other pid: a test must not be able to hit a stranger, or a group by 0."""
        pid = self.master if pid is None else pid
        if pid not in {p.pid for p in descendants(os.getpid())}:
            raise ProcessLookupError(f"{pid} is none of this service's processes")
        os.kill(pid, sig)

    def begin_upgrade(self) -> int:
        """Send SIGUSR2 to the master; returns the pid of its successor."""
        mark = self.mark()
        self.signal(signal.SIGUSR2)
        return int(self.wait_log(r"Upgrade: booting successor with pid: (\d+)", after=mark)[0][1])

    def begin_drain(self, release: str = "B") -> int:
        """Upgrade until the old generation drains; returns the new master's pid."""
        mark = self.mark()
        self.release(release)
        new = self.begin_upgrade()
        self.wait_log("committed to successor", after=mark)
        return new

    def upgrade(self, release: str | None = None) -> int:
        """Put the release on the disk, send SIGUSR2, and wait until the old master has left.

        Returns the pid of the new master."""
        if release is not None:
            self.release(release)
        mark, old = self.mark(), self.master
        new = self.begin_upgrade()
        end = self.wait_log(r"Upgrade: done|Upgrade failed.*", after=mark)[0][0]
        assert end == "Upgrade: done"
        wait_gone(old)
        self.master = new
        return new

    def stop(self) -> None:
        """Stop the service as its operator would, and wait until nothing is left of it."""
        self.signal(signal.SIGTERM)
        self._wait_empty()

    # What it says.

    @property
    def log(self) -> str:
        return self.read("log")

    def mark(self) -> int:
        """Return the log's present length, for `after`."""
        return len(self.log)

    def wait_log(
        self, pattern: str, count: int = 1, after: int = 0, timeout: float = DEADLINE
    ) -> list[re.Match[str]]:
        """Wait until `count` places in the log match; returns all."""
        def found() -> list[re.Match[str]]:
            matches = list(re.finditer(pattern, self.log[after:]))
            return matches if len(matches) >= count else []

        return until(found, f"{count} of {pattern!r} in the log", timeout)

    def wait_file(self, name: str, lines: int = 0, timeout: float = DEADLINE) -> str:
        """Wait for a file, or for that many lines in it; returns its text."""
        path = self.folder / name

        def found() -> bool:
            return path.exists() and len(self.read(name).splitlines()) >= lines

        until(found, f"the file {name}", timeout)
        return self.read(name)

    def pid_in(self, name: str = "pid") -> int | None:
        text = self.read(name).strip()
        return int(text) if text else None

    def story(self) -> str:
        """Return all that the service has said, for the report of a failure."""
        running = "\n".join(f"{p.pid} < {p.parent} {p.state} {title(p.pid)}" for p in descendants(os.getpid()))
        config = "\n".join(path.read_text() for path in self.folder.glob("*.conf.py"))
        return "\n".join([
            "--- configuration", config, "--- output", self.read("output"), "--- log", self.log,
            "--- processes", running,
        ])

    # Connections to it.

    def connect(self, address: str | None = None) -> Connection:
        return Connection(address or self.address, self.tls)

    def ask(self, path: str = "/", address: str | None = None) -> Answer:
        """Ask on a connection of its own."""
        with self.connect(address) as connection:
            return connection.ask(path)

    @contextlib.contextmanager
    def held(self, name: str = "go") -> Iterator[Connection]:
        """A request that a worker is answering, and will be until the file `name` is written."""
        with self.connect() as connection:
            connection.send_request(f"/hold?file={name}")
            self.wait_file(f"{name}.held", lines=1)
            yield connection

    # The end.

    def reap(self) -> None:
        """Collect our dead children, those too that became ours when their parent left."""
        ours = 0
        if self._popen is not None:
            self._popen.poll()
            ours = self._popen.pid  # only Popen may collect it: it keeps the exit code
        for child in descendants(os.getpid()):
            if child.parent == os.getpid() and child.state == "Z" and child.pid != ours:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child.pid, os.WNOHANG)

    def is_empty(self) -> bool:
        self.reap()
        return not descendants(os.getpid())

    def _wait_empty(self, timeout: float = DEADLINE) -> None:
        until(self.is_empty, "the end of all processes", timeout)

    def _is_empty_after_term(self) -> bool:
        """Send each master, and each worker that has lost its own, one SIGTERM; return whether all have left."""
        for found in descendants(os.getpid()):
            if found.parent == os.getpid() and found.pid not in self._terminated:
                self._terminated.add(found.pid)
                os.kill(found.pid, signal.SIGTERM)
        return self.is_empty()

    def _kill_all(self) -> None:
        def killed() -> bool:
            for found in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(found.pid, signal.SIGKILL)
            return self.is_empty()

        until(killed, "the end of all processes after SIGKILL")

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all; after a test that has passed, as an operator would, and nothing may be left after that."""
        try:
            if kind is None:
                until(self._is_empty_after_term, "the end of all processes after SIGTERM")
        finally:
            self._kill_all()
            if self._popen is not None:
                self._popen.wait()
