"""What ties a worker to its master: a channel, and one byte of shared memory."""

from __future__ import annotations

import mmap
import struct

from gunicorn_hot import private
from gunicorn_hot.channel import Channel

_COUNT = struct.Struct("<I")
_ACCEPTING, _IN_FLIGHT, _SIZE = 0, 4, 8


class Board:
    """A few shared bytes in which a worker says what it is doing, without a system call (Apache's "scoreboard").

    The rule that makes a cut-over fast: a worker sets `accepting`, *then* reads its link, and only then accepts. So if
    its master has sent a pause and afterwards sees `accepting` unset, the worker will read that pause before it can
    accept anything, however long the request takes that it is busy with. The two system calls in between are what
    orders the two processes' memory; where they are not a full barrier (not x86), a worker caught in that very
    instruction could accept one connection more."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)

    def set_accepting(self, accepting: bool) -> None:
        self._memory[_ACCEPTING] = accepting

    @property
    def accepting(self) -> bool:
        return bool(self._memory[_ACCEPTING])

    def set_in_flight(self, count: int) -> None:
        _COUNT.pack_into(self._memory, _IN_FLIGHT, count)

    @property
    def in_flight(self) -> int:
        """Requests that the worker is answering now."""
        count: int = _COUNT.unpack_from(self._memory, _IN_FLIGHT)[0]
        return count

    def close(self) -> None:
        self._memory.close()


class Link:
    """Made by the master before it forks the worker; each side then keeps its own end.

    Messages to the worker: open, pause(number), resume, drain(timeout), hold, release.
    Messages from the worker: ready, paused(number), failed(reason, traceback), cut(count)."""

    def __init__(self) -> None:
        self.board = Board()
        self.master_end, self.worker_end = Channel.pair()
        # Registered before the fork, so that not even this worker gets the master's end.
        private.register(self.master_end)

    def become_master(self) -> None:
        """In the master, after the fork. Later workers have no business with this one's board."""
        self.worker_end.close()
        private.register(self.board)

    def close(self) -> None:
        """In the master: the worker is gone, or could not be forked."""
        private.forget(self.master_end)
        private.forget(self.board)
        self.worker_end.close()
