"""The gunicorn of the demo: a folder, a configuration, and all processes that come of it."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import gunicorn_hot
from gunicorn_hot.cli.errors import Trouble
from gunicorn_hot.cli.service import Service
from gunicorn_hot.cli.watching import Watch

#: s for the service to start.
START = 60.0
#: s for it to stop, before it is killed.
STOP = 15.0

CONFIGURATION = """\
from gunicorn_hot import on_starting

bind = "127.0.0.1:{port}"
worker_class = "gthread"
workers = 2
threads = 8
hot_probation = 2
hot_drain_timeout = 20
hot_pid = "stable"
hot_status_file = "{folder}/status.json"
control_socket_disable = True
errorlog = "log"
"""


_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """In the child: get SIGTERM when the demo is killed, and could not stop it."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it; exec keeps what it sets
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class CannotStart(Trouble):
    """The demo has no service to show. The text is for the operator."""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _environment() -> dict[str, str]:
    """Return ours, without what speaks to gunicorn, and so that it finds the same gunicorn_hot."""
    ours = re.compile(r"(GUNICORN|LISTEN)_|(NOTIFY_SOCKET|WEB_CONCURRENCY|PORT|FORWARDED_ALLOW_IPS)$")
    env = {name: value for name, value in os.environ.items() if not ours.match(name)}
    here = str(Path(gunicorn_hot.__file__).resolve().parent.parent)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (env.get("PYTHONPATH"), here)))
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    return env


class Server:
    """Started and stopped as a context manager; nothing of it is left after that."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gunicorn-hot-demo-"))
        self.port = _free_port()
        self.service = Service(self.folder / "status.json")
        self._popen: subprocess.Popen[bytes] | None = None
        shutil.copy(Path(__file__).with_name("app.py"), self.folder)
        self._configuration = CONFIGURATION.format(port=self.port, folder=self.folder)
        (self.folder / "hot.conf.py").write_text(self._configuration)

    def release(self, name: str) -> None:
        """Put a release on the disk."""
        (self.folder / "RELEASE").write_text(name)

    @property
    def log(self) -> str:
        found = [self.folder / name for name in ("output", "log")]
        return "".join(path.read_text(errors="replace") for path in found if path.exists())

    def start(self) -> None:
        """Start it, and wait until it serves. Raises CannotStart."""
        with Watch(self.service.path) as watch, open(self.folder / "output", "wb") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", "hot.conf.py", "app:app"],
                cwd=self.folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                preexec_fn=_end_with_parent,  # there is no other thread yet
                start_new_session=True,  # a Ctrl-C is for the demo, which stops it then
            )
            watch.watch([self._popen.pid])
            end = time.monotonic() + START
            while not self._serves(watch):
                if self._popen.poll() is not None:
                    raise CannotStart(f"gunicorn has ended with {self._popen.returncode}:\n{self.log}")
                if time.monotonic() > end:
                    raise CannotStart(f"gunicorn does not serve after {START:g}s:\n{self.log}")
                watch.wait(1.0)

    def _serves(self, watch: Watch) -> bool:
        if not self.service.path.exists():
            return False
        status = self.service.read(watch)
        return status.state == "serving" and all(
            worker.state == "serving" for master in status.masters for worker in master.workers
        )

    def stop(self) -> None:
        """End it and all that it has started, and remove the folder. Takes STOP seconds at most."""
        if self._popen is not None:
            self._popen.terminate()
            try:
                self._popen.wait(STOP)
            except subprocess.TimeoutExpired:
                # Its session, which has its pid for a number as long as it has not been waited for.
                os.killpg(self._popen.pid, signal.SIGKILL)
                self._popen.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Once more Ctrl-C would leave half of it behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.stop()
        finally:
            signal.signal(signal.SIGINT, before)
