"""A worker that loads the application steps back behind those who serve, and forward again when it is ready.

Only where the way back is open. A process may always lower its priority, but raising it again takes CAP_SYS_NICE, or an
RLIMIT_NICE (systemd's LimitNICE=) of 20 or more; SCHED_IDLE is the same one-way street. SCHED_BATCH can be left by
anybody, but does not give way to anybody either. So an ordinary user's workers load at their own priority."""

from __future__ import annotations

import os
import sys
import threading

# By name, at import: gevent puts greenlets in their place later, and those are no threads of the kernel.
from _thread import allocate_lock, start_new_thread
from collections.abc import Iterator
from pathlib import Path

#: Of the nice value: a tenth of the weight of those who serve.
STEP = 10

#: The nice value of this process while it has stepped back.
_lowered: int | None = None


def step_back() -> bool:
    """Lower the priority of the calling thread, and of all that it starts, if that can be undone; return whether."""
    global _lowered
    if sys.platform != "linux" or _lowered is not None or not _is_way_back_open():
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, nice + STEP)
    _lowered = os.getpriority(os.PRIO_PROCESS, 0)
    return _lowered > nice


def step_forward() -> None:
    """Undo `step_back`, in all threads of this process and in its children: they have inherited it."""
    global _lowered
    if _lowered is None:
        return
    # Again until there is nothing to do: a thread that has not had its turn yet may have started another.
    while sum(_raise(thread, _lowered) for process in _with_descendants(os.getpid()) for thread in _threads(process)):
        pass
    _lowered = None


def _is_way_back_open() -> bool:
    """Try it, in a thread that does nothing else: the kernel's rules know user namespaces and security modules too."""
    way_back = []
    done = allocate_lock()
    done.acquire()

    def attempt() -> None:
        try:
            if threading.get_native_id() != os.getpid():  # not a greenlet of the main thread
                nice = os.getpriority(os.PRIO_PROCESS, 0)
                os.setpriority(os.PRIO_PROCESS, 0, nice + STEP)
                os.setpriority(os.PRIO_PROCESS, 0, nice)
                way_back.append(nice)
        except OSError:
            pass
        finally:
            done.release()

    start_new_thread(attempt, ())
    done.acquire()
    return bool(way_back)


def _raise(thread: int, lowered: int) -> bool:
    """Give a thread its priority back; one that has a better one has chosen that itself. Return whether it changed."""
    try:
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        if nice < lowered:
            return False
        os.setpriority(os.PRIO_PROCESS, thread, nice - STEP)
    except OSError:  # it has ended, or is another user's
        return False
    return True


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _with_descendants(pid: int) -> Iterator[int]:
    yield pid
    for thread in _threads(pid):
        try:
            children = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
        except OSError:  # it has ended, or the kernel does not say
            continue
        for child in children:
            yield from _with_descendants(int(child))
