"""How the first master keeps its pid for the service.

The first master is the process that somebody watches. When a successor has taken over, it drains, and becomes the
holder (see `holder`). Every later master is held: see `held`.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from gunicorn_hot import holder, private
from gunicorn_hot.holder import SEND, Hold
from gunicorn_hot.processes import wait

_PR_SET_CHILD_SUBREAPER = 36
#: s; for an interpreter that only has to import four modules of its own library.
_TRIAL_SECONDS = 20.0
_TRIAL = "import os, select, sys, time, _signal, _socket"
#: Read while the release that this process runs is still on the disk.
_SOURCE = Path(holder.__file__).read_text(encoding="utf-8")


class Keeper:
    """In the first master: the other end of that channel, and what the holder will know."""

    def __init__(self, patience: float, notify: Callable[[str], None]) -> None:
        self.hold = Hold(patience)
        self.name = ""
        self.pidfile = ""
        self._notify = notify
        self._sock: socket.socket | None = None

    def open(self) -> int:
        """Make a channel for one more successor; returns its end, close-on-exec, for the caller to close.

        Orphans come to this process from now on. Raises OSError."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "this process cannot become a subreaper")
        self.close()
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.setblocking(False)
        private.register(self)
        return theirs.detach()

    def fileno(self) -> int:
        assert self._sock is not None
        return self._sock.fileno()

    @property
    def is_open(self) -> bool:
        return self._sock is not None

    def receive(self, now: float) -> bool:
        """Hear what masters have said; returns False when none of them is left."""
        while self._sock is not None:
            try:
                message = self._sock.recv(holder.LONGEST)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                continue  # one died with something unread; what it had said is still to come
            except OSError:
                return False
            if not message:
                return False
            said = holder.fields(message)
            if "NOTIFY" in said:
                self._notify(said["NOTIFY"])
            self.send(self.hold.told(said, now))
            if "MASTER" in said:
                self.name = said.get("NAME", self.name)
                self.pidfile = holder.keep_pidfile(self.pidfile, said.get("PIDFILE", self.pidfile))
        return False

    def reaped(self, ended: dict[int, int], now: float) -> None:
        """Take note of the end of the service's master, if it has come to us as an orphan; see `processes.reap`."""
        pid = self.hold.master
        if pid in ended and self.hold.masters[pid] is None:
            self.hold.exited(pid, os.waitstatus_to_exitcode(ended[pid]), now)

    def send(self, actions: tuple[holder.Action, ...]) -> None:
        """Send the signals that the hold wants sent. Its end is for the holder to take."""
        for what, pid, sig in actions:
            if what == SEND:
                try:
                    os.kill(pid, sig)
                except ProcessLookupError:
                    pass

    def close(self) -> None:
        if self._sock is not None:
            sock, self._sock = self._sock, None
            sock.close()
            private.forget(self)

    def become_holder(self, log: Any, signals: SimpleQueue[int]) -> None:
        """End this program and become the holder; never returns. `signals`: those that nobody has looked at yet.

        Where the interpreter cannot be started any more, this process holds as it is: larger, but as good."""
        signal.pthread_sigmask(signal.SIG_BLOCK, (*holder.PASSED_ON, signal.SIGCHLD))
        assert self._sock is not None
        fd = self._sock.fileno()
        pending = [signals.get_nowait() for _ in range(signals.qsize())]
        arguments = self._arguments(fd, [sig for sig in pending if sig in holder.PASSED_ON])
        command = _interpreter()
        # As at a normal exit.
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        if command is not None:
            os.set_inheritable(fd, True)
            try:
                os.execv(command[0], [*command, "-c", _SOURCE, *arguments, "alone=1"])
            except OSError as exc:
                log.warning("Cannot execute the holder: %s", exc)
                os.set_inheritable(fd, False)
        log.warning("No interpreter to execute the holder with: this process goes on as it is")
        holder.main(arguments)

    def _arguments(self, fd: int, signals: list[int]) -> list[str]:
        hold = self.hold
        masters = (f"{pid}:{'' if code is None else code}" for pid, code in hold.masters.items())
        return [
            f"fd={fd}",
            f"masters={','.join(masters)}",
            f"generation={hold.generation}",
            f"patience={hold.patience:g}",
            f"stopping={hold.stopping}",
            f"name={self.name}",
            f"pidfile={self.pidfile}",
            f"signals={','.join(map(str, signals))}",
        ]


def _interpreter() -> list[str] | None:
    """Return the command that runs an isolated interpreter, proven by a trial; None when there is none any more.

    The environment that this process was started from may have been removed by the release that has replaced it. An
    exec would succeed where only the library is gone, and then nobody would be left."""
    for executable in (getattr(sys, "_base_executable", None), sys.executable):
        if executable:
            command = [executable, "-I", "-S"]
            if _succeeds([*command, "-c", _TRIAL]):
                return command
    return None


def _succeeds(command: list[str]) -> bool:
    null = os.open(os.devnull, os.O_RDWR)
    try:
        streams = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in range(3)]
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=streams)
    except OSError:
        return False
    finally:
        os.close(null)
    if not wait(pid, _TRIAL_SECONDS):
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1] == 0
