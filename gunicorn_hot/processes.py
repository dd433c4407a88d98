"""What the system knows of a process: how a child has ended, in words that a log line can use; who it is."""

from __future__ import annotations

import os
import select
import signal
import time


def reap() -> dict[int, int]:
    """Reap each child that has ended, and return what `os.waitpid` says of its end, by pid."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        ended[pid] = status


def in_words(code: int) -> str:
    """Say how a process has ended whose exit code, as `os.waitstatus_to_exitcode` has it, is `code`."""
    return f"exited with code {code}" if code >= 0 else f"was killed by {signal_name(-code)}"


def signal_name(sig: int) -> str:
    try:
        return signal.Signals(sig).name
    except ValueError:
        return f"signal {sig}"


def start_time(pid: int) -> int:
    """Return when the process was started, in the kernel's clock ticks since boot; with its pid that is nobody else.

    0 when it has ended, is a zombie, or where there is no /proc to ask."""
    words = _stat(pid)
    return 0 if not words or words[0] in (b"Z", b"X") else int(words[19])


def parent(pid: int) -> int:
    """Return the pid of a process's parent: 0 when that is in another pid namespace, -1 when it cannot be read."""
    words = _stat(pid)
    return int(words[1]) if words else -1


def _stat(pid: int) -> list[bytes]:
    """Return what /proc/PID/stat says from the state on; nothing where it cannot be read."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in parentheses may contain anything.
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def started_at(start: int) -> float:
    """Return what `start_time` has returned in seconds on the wall clock."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + start / os.sysconf("SC_CLK_TCK")


def boot_id() -> str:
    """Return what tells this boot of the machine from every other; "" where the kernel does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def is_same(pid: int, start: int, boot: str) -> bool:
    """Whether `pid` still is the process that was started at `start`, in the boot `boot`, and runs."""
    if boot != boot_id():
        return False
    if start:
        return start_time(pid) == start
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's: it lives
    return True


def wait(pid: int, timeout: float) -> bool:
    """Wait for the end of a child, and leave it to be reaped; returns False after `timeout` seconds.

    Where nothing tells of a single child's end it does not wait."""
    if not pid or not hasattr(os, "pidfd_open"):
        return False
    try:
        death = os.pidfd_open(pid)
    except OSError:  # it is gone, or this kernel has none
        return False
    try:
        poll = select.poll()
        poll.register(death, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(death)
