"""Whose pid a service should have after an upgrade, by who has started it: hot_pid = "auto".

Somebody who waits for a process believes that the service ends with it. So the pid is kept where somebody is known to
wait; the service pays for that with one small process, and with a pid that must not be killed. Elsewhere it follows.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from gunicorn_hot import processes
from gunicorn_hot.value import Value

#: Parents that watch, by the name of their program (at most 15 letters, as the kernel has it).
_WATCHERS = {
    "runsv": "runit",
    "s6-supervise": "s6",
    "supervise": "daemontools",
    "supervisord": "supervisord",
    "circusd": "circus",
    "tini": "a container's init",
    "dumb-init": "a container's init",
    "docker-init": "a container's init",
    "catatonit": "a container's init",
    # Parents where containers share the host's process namespace.
    "conmon": "a container's runtime",
    "containerd-shim": "a container's runtime",
    "foreman": "foreman",
    "honcho": "honcho",
    "goreman": "goreman",
    "hivemind": "hivemind",
    "overmind": "overmind",
}
#: Programs that adopt orphans. systemd has its own marks for what it has started.
_ADOPTERS = ("systemd", "init")


class Facts(Value):
    """What this process can know of those who have started it."""

    pid: int
    #: 0: it is in another pid namespace; -1: it cannot be read.
    ppid: int
    #: The name of the parent's program, or "" if it cannot be read.
    parent: str = ""
    #: The last part of the control group: "gunicorn.service", "session-2.scope".
    unit: str = ""
    #: Names of environment variables -> values.
    environ: tuple[tuple[str, str], ...] = ()
    #: gunicorn's own setting.
    daemon: bool = False
    #: SIGHUP was ignored from the start.
    nohup: bool = False
    #: In the foreground of a terminal.
    foreground: bool = False
    #: The pid of a master that this one was executed by, or 0.
    predecessor: int = 0
    #: Whether this system can keep a pid at all.
    possible: bool = True

    @classmethod
    def of_this_process(cls, cfg: Any, predecessor: int) -> Facts:
        return cls._of(
            cfg,
            os.getpid(),
            os.getppid(),
            nohup=signal.getsignal(signal.SIGHUP) is signal.SIG_IGN,
            foreground=_is_in_foreground(),
            predecessor=predecessor,
        )

    @classmethod
    def of_stock(cls, cfg: Any, pid: int) -> Facts:
        """What the new master `cfg` can know of those who have started the stock gunicorn that has executed it.

        Environment and control group are inherited. That SIGHUP was ignored is not: gunicorn handles it. Nor does its
        terminal count: who sits there sees the prompt come back, and the service serves on."""
        return cls._of(cfg, pid, processes.parent(pid))

    @classmethod
    def _of(cls, cfg: Any, pid: int, ppid: int, **others: Any) -> Facts:
        return cls(
            pid=pid,
            ppid=ppid,
            parent=_read(f"/proc/{ppid}/comm"),
            unit=_read("/proc/self/cgroup").rpartition("\n")[2].rpartition("/")[2],
            environ=tuple(cfg.env_orig.items()),
            daemon=bool(cfg.daemon),
            possible=sys.platform == "linux" and hasattr(os, "pidfd_open"),
            **others,
        )


def decide(setting: str, facts: Facts) -> tuple[bool, str]:
    """Return whether the service keeps its pid, and why, for the log. `setting`: hot_pid. Pure."""
    if not facts.possible:
        return False, "this system cannot keep a pid"
    if setting != "auto":
        return setting == "stable", "as configured"
    if facts.predecessor:
        terminal = "; the terminal's Ctrl-C does not reach it" if facts.foreground else ""
        return False, f"its predecessor with pid {facts.predecessor} has not kept one{terminal}"
    if facts.pid == 1:
        return True, "it is PID 1"
    if reason := _by_marks(facts):
        return True, reason
    if facts.daemon:
        return False, "it is a daemon"
    if facts.nohup:
        return False, "it was started by nohup"
    if facts.ppid == 0:
        # The main process of a container in a pod that shares one process namespace; or one of "docker exec".
        return True, "whoever has started it is outside of its pid namespace, and may wait for it"
    if facts.parent in _ADOPTERS and facts.unit != "init.scope":
        return False, "it is detached, nobody waits for it"
    if facts.foreground:
        return True, "it is in the foreground of a terminal"
    parent = f"{facts.parent or 'a process'} (pid {facts.ppid})"
    if facts.ppid == 1:
        return True, f"PID 1 may wait for it: {parent}"
    return False, f"{parent} is not known to wait for it; if it does, set hot_pid to 'stable'"


def who_misses(setting: str, stock: Facts) -> str:
    """Return who would miss the pid of a stock gunicorn if its successor ended it, or an empty string. Pure.

    `setting`: the successor's hot_pid. A stock gunicorn cannot go on as the one that keeps its pid."""
    keeps, reason = decide(setting, stock)
    if not keeps:
        return ""
    return "hot_pid is 'stable'" if setting == "stable" else reason


def _by_marks(facts: Facts) -> str:
    """Return who certainly watches this process, or an empty string."""
    environ = dict(facts.environ)
    # A shell in a desktop's terminal has an INVOCATION_ID too, and is in a scope.
    if environ.get("SYSTEMD_EXEC_PID") == str(facts.pid):
        return f"systemd has started it ({facts.unit})" if facts.unit else "systemd has started it"
    if facts.unit.endswith(".service") and "INVOCATION_ID" in environ:
        return f"systemd has started it ({facts.unit})"
    if facts.parent == "systemd" and "INVOCATION_ID" in environ and not facts.unit.endswith(".scope"):
        return "systemd has started it"
    if "NOTIFY_SOCKET" in environ:
        return "somebody wants to be notified (NOTIFY_SOCKET)"
    if "SUPERVISOR_ENABLED" in environ:
        return f"supervisord has started it ({environ.get('SUPERVISOR_PROCESS_NAME', '?')})"
    if facts.parent in _WATCHERS:
        return f"{_WATCHERS[facts.parent]} watches it: {facts.parent} (pid {facts.ppid})"
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _is_in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False  # there is none
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
