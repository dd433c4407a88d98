"""What ties a worker to its master: a channel, and a few bytes of shared memory."""

from __future__ import annotations

import mmap
import time
from typing import Any, ClassVar

from gunicorn_hot import private
from gunicorn_hot.channel import Channel

# Offsets in a board, one byte each.
#: Worker: 1 while it may be about to accept.
ACCEPTING = 0
#: Master: how many messages it has sent to this worker, modulo 256.
SENT = 1
#: Worker: requests that it is answering, at most 255; kept up to date only while it does not accept.
IN_FLIGHT = 2
_SIZE = 3


class Link:
    """Made by the master before it forks the worker; each side then keeps its own end.

    Messages to the worker: open, pause(number), resume, drain(timeout), hold, release.
    Messages from the worker: ready, paused(number), failed(reason), cut(count).

    The board is shared memory in which both sides say things without a system call (Apache's "scoreboard"). It is what
    makes a cut-over fast. A worker sets ACCEPTING, *then* looks at SENT, reads its link if there is something new, and
    only then accepts. So if its master has sent a pause and afterwards sees ACCEPTING unset, the worker will obey that
    pause before it accepts anything, however long the request takes that it is busy with: nobody has to wait for it.
    A processor may let the worker's look at SENT overtake its own write of ACCEPTING, by some nanoseconds. A connection
    that is accepted just then was in the queue before the gate could open, so it breaks no promise."""

    #: The last one made, until its worker has been forked: when that fails nobody else knows of it.
    _unforked: ClassVar[Link | None] = None

    def __init__(self) -> None:
        #: On the monotonic clock; the fork follows at once.
        self.made_at = time.monotonic()
        self.board = mmap.mmap(-1, _SIZE)
        self.master_end, self.worker_end = Channel.pair()
        # Registered before the fork, so that not even this worker gets the master's end.
        private.register(self.master_end)
        Link._unforked = self

    def become_master(self) -> None:
        """In the master, after the fork. Later workers have no business with this one's board."""
        Link._unforked = None
        self.worker_end.close()
        private.register(self.board)

    @classmethod
    def close_unforked(cls) -> None:
        """In the master: the worker could not be forked."""
        if cls._unforked is not None:
            cls._unforked.close()
            cls._unforked = None

    def tell(self, type: str, **fields: Any) -> None:
        """In the master: send a message to the worker."""
        # The count first: the system call that follows is what orders it before a look at ACCEPTING.
        self.board[SENT] = (self.board[SENT] + 1) % 256
        self.master_end.send(type, **fields)

    @property
    def accepting(self) -> bool:
        """Whether the worker may be about to accept."""
        return bool(self.board[ACCEPTING])

    @property
    def in_flight(self) -> int:
        """Requests that a paused or draining worker is answering now; 255 stands for more, too."""
        return self.board[IN_FLIGHT]

    def close(self) -> None:
        """In the master: the worker is gone."""
        private.forget(self.master_end)
        private.forget(self.board)
        self.worker_end.close()
