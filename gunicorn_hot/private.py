"""What a master must never share with a process that it forks.

The masters' channel, the masters' ends of the workers' links, the wake-up pipe: if a worker, the dirty arbiter or any
other child kept a copy, the death of a master would no longer be an EOF, and code of the application could speak in a
master's name. So whatever a master opens for itself is registered here, and every fork closes it in the child. Exec
needs nothing: Python's descriptors are close-on-exec.
"""

from __future__ import annotations

import os
import signal
from typing import Protocol


class Closable(Protocol):
    def close(self) -> object: ...


_registered: dict[int, Closable] = {}


def register(resource: Closable) -> None:
    """Close `resource` in every child that this process forks from now on, until `forget`."""
    _registered[id(resource)] = resource


def forget(resource: Closable) -> None:
    """Undo `register`, and close `resource` here too."""
    _registered.pop(id(resource), None)
    resource.close()


def _close_in_child() -> None:
    if not _registered:
        return
    # The wake-up pipe is among what is closed, and its number will be given to something else.
    signal.set_wakeup_fd(-1)
    for resource in list(_registered.values()):  # one may close another
        resource.close()
    _registered.clear()


os.register_at_fork(after_in_child=_close_in_child)
