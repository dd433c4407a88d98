"""reuse_port: a listening socket for each worker, which lives longer than that worker.

gunicorn lets each worker bind its own, and what waits in the queue of one is reset when its worker ends. Here the
masters own them: one of each TCP address for each worker, a *slot*. A worker that is replaced leaves its slots to
another one, and a generation leaves all of them to the next. A slot is closed only if the operator wants fewer workers
(SIGTTOU); a next generation with fewer workers shares all slots out among them.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Collection, Iterable
from typing import Any

from gunicorn import sock

from gunicorn_hot import listeners as sockets


def share(served: dict[int, int], workers: int, missing: int) -> list[int] | None:
    """Return the slots of one more worker, or None if it should get a new one. Pure.

    `served`: slot -> how many workers serve it now. `workers` are wanted, of whom `missing` are not there."""
    unserved = sum(not count for count in served.values())
    if not unserved and len(served) < workers:
        return None
    share = math.ceil(len(served) / max(workers, 1))
    # One that replaces a dead worker takes all that was left behind; of several that start, each takes its part.
    count = max(share, math.ceil(unserved / max(missing, 1)))
    return sorted(sorted(served, key=lambda slot: (served[slot], slot))[:count])


def is_possible(address: Any) -> bool:
    """Whether several sockets can be bound to `address`, and share what arrives."""
    return isinstance(address, tuple) and hasattr(socket, "SO_REUSEPORT")


def bind(cfg: Any, log: Any, address: Any) -> Any:
    """Return one more socket of a TCP address that does not listen yet, as a listener of gunicorn's.

    A socket that listens gets its part of the connections at once. Raises OSError, also when the sockets that are bound
    to the address were bound without reuse_port."""
    kind = sock._sock_type(address)  # type: ignore[attr-defined]
    made = socket.socket(kind.FAMILY, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
        made.setblocking(False)
        made.set_inheritable(True)
    except BaseException:
        made.close()
        raise
    # gunicorn's constructor would listen.
    listener = kind.__new__(kind)
    listener.conf, listener.log, listener.cfg_addr, listener.sock = cfg, log, address, made
    return listener


def number(listeners: Iterable[Any]) -> None:
    """Give each listener its slot: its place among those of one address; None: it can have no siblings."""
    count: dict[str, int] = {}
    for listener in listeners:
        name = str(listener.cfg_addr)
        shares = is_possible(listener.cfg_addr) and listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        listener.slot = count.get(name, 0) if shares else None
        count[name] = count.get(name, 0) + 1


def of(listener: Any) -> int | None:
    """Return the slot that this socket is in; None: it is for all workers."""
    slot: int | None = vars(listener).get("slot")
    return slot


def all_of(listeners: Iterable[Any]) -> frozenset[int]:
    """Return every slot that there is."""
    return frozenset(slot for listener in listeners if (slot := of(listener)) is not None)


def listen(listeners: Iterable[Any], backlog: int) -> None:
    """Let those listen that do not yet."""
    for listener in listeners:
        if of(listener) is not None and not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            listener.listen(backlog)


def missing(listeners: Iterable[Any], addresses: Iterable[Any], slots: Collection[int]) -> list[tuple[Any, int]]:
    """Return (address, slot) of the sockets that these slots lack."""
    there = {(str(listener.cfg_addr), of(listener)) for listener in listeners}
    alone = {name for name, slot in there if slot is None}
    return [
        (address, slot)
        for address in addresses
        for slot in slots
        if is_possible(address) and (str(address), slot) not in there and str(address) not in alone
    ]


def of_worker(listeners: Iterable[Any], served: Collection[int]) -> list[Any]:
    """Return what a worker that serves these slots accepts from: those, and what is for all workers."""
    return [listener for listener in listeners if of(listener) is None or of(listener) in served]


class Slots:
    """In a master, for one configuration: opens the slots, hands them out, and ends them.

    `listeners` are the master's; each method leaves that list as it is, and returns the one to go on with. `workers`:
    the slots of each worker that there is. `listens`: whether the gate is open; connections must not wait in a new
    socket for that."""

    def __init__(self, cfg: Any, log: Any) -> None:
        self._cfg, self._log = cfg, log
        #: Whether the operator wants them.
        self.used = bool(cfg.reuse_port)
        # The sockets are this master's, and not each worker's own to open and to close: gunicorn's workers would bind,
        # and its master would not.
        cfg.set("reuse_port", False)

    def open(self, listeners: list[Any], wanted: Iterable[int], listens: bool) -> list[Any]:
        """Open what these slots lack."""
        made: list[Any] = []
        try:
            for address, slot in missing(listeners, self._cfg.address, list(wanted)):
                made.append(bind(self._cfg, self._log, address))
                made[-1].slot = slot
        except OSError as exc:
            for listener in made:
                listener.close()
            if listeners:
                self._log.warning("No more sockets for reuse_port: %s", exc)
            return listeners  # on a first start gunicorn will try to bind, say why it cannot, and exit
        others = sockets.bind_others(self._cfg, self._log, is_possible) if made and not listeners else []
        opened = [*listeners, *made, *others]
        if listens:
            listen(opened, self._cfg.backlog)
        return opened

    def next(
        self, listeners: list[Any], workers: Collection[frozenset[int]], wanted: int, listens: bool
    ) -> tuple[list[Any], frozenset[int]]:
        """Return the slots of the worker that is about to be forked, too; `wanted`: how many there should be."""
        there = all_of(listeners)
        if not self.used or not there:
            return listeners, there
        served = {slot: sum(slot in theirs for theirs in workers) for slot in there}
        chosen = share(served, wanted, wanted - len(workers))
        if chosen is None:
            new = max(served) + 1
            listeners = self.open(listeners, [new], listens)
            chosen = [new] if new in all_of(listeners) else sorted(served)
        return listeners, frozenset(chosen)

    def end_unserved(self, listeners: list[Any], workers: Collection[frozenset[int]], wanted: int) -> list[Any]:
        """Close what nobody serves any more, and nobody will: the operator wants fewer workers."""
        if not self.used or not 0 < wanted <= len(workers):
            return listeners
        unserved = all_of(listeners).difference(*workers)
        for listener in listeners:
            if of(listener) in unserved:
                sockets.end(listener)
        return [listener for listener in listeners if of(listener) not in unserved]
