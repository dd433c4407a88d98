"""Which listening sockets a new master keeps, which it opens, and which it gives up.

gunicorn's re-executed master takes every socket that it inherits, whatever its own configuration says. Here the list
of `bind` addresses may differ between the generations: an unchanged address keeps its socket, which never closes; a new
one is bound before this generation can be ready; one that is gone is closed by the old master at the commit.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from gunicorn import sock

#: The addresses of the descriptors in GUNICORN_FD, as the old configuration names them; a JSON list.
ADDRESSES_VARIABLE = "GUNICORN_HOT_BIND"
#: Set when the listeners are the service manager's (socket activation), and not this service's to choose or to end.
ACTIVATED_VARIABLE = "GUNICORN_HOT_ACTIVATED"
#: gunicorn's own, for the listening sockets that a re-executed master inherits.
DESCRIPTORS_VARIABLE = "GUNICORN_FD"


def describe(listeners: list[Any], activated: bool = False) -> dict[str, str]:
    """Return the variables that tell a successor of these listeners; `activated`: the service manager's."""
    variables = {
        DESCRIPTORS_VARIABLE: ",".join(str(listener.fileno()) for listener in listeners),
        ADDRESSES_VARIABLE: json.dumps([_text(listener.cfg_addr) for listener in listeners]),
    }
    if activated:
        variables[ACTIVATED_VARIABLE] = "1"
    return variables


def choose(wanted: list[Any], inherited: list[Any], bound: list[Any]) -> list[int | None]:
    """Return, for each wanted address, the index of the inherited socket to use, or None to bind anew.

    `wanted`: addresses of the configuration, as gunicorn parses them: (host, port), a path, or an int for ``fd://``.
    `inherited`: what the old configuration called each socket. `bound`: what `getsockname` calls it. An ``fd://``
    was used up by the first generation: it takes the first socket that nothing else names."""
    free = dict(enumerate(zip(inherited, bound, strict=True)))
    chosen: list[int | None] = []
    for address in wanted:
        found = None
        if not isinstance(address, int):
            names = (_plain(address), *_resolved(address))
            found = next((i for i, pair in free.items() if any(_plain(name) in names for name in pair)), None)
        if found is not None:
            del free[found]
        chosen.append(found)
    for position, address in enumerate(wanted):
        if isinstance(address, int) and free:
            chosen[position] = min(free)
            del free[min(free)]
    return chosen


def _plain(address: Any) -> Any:
    """Return an address in a form that can be compared: JSON knows no tuples, IPv6 names have four parts."""
    if isinstance(address, str):
        return _path(address)
    return tuple(address[:2]) if isinstance(address, (list, tuple)) else address


def _resolved(address: Any) -> list[Any]:
    if not isinstance(address, tuple):
        return []
    try:
        found = socket.getaddrinfo(address[0] or None, address[1], type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return []
    return [_plain(entry[4]) for entry in found]


def twins(index: int, inherited: list[Any], bound: list[Any]) -> list[int]:
    """Return the indices of the other sockets with the address of this one: they were bound with reuse_port.

    Each has a queue of its own, which must not be lost."""
    names = [(_plain(one), _plain(other)) for one, other in zip(inherited, bound, strict=True)]
    return [other for other, name in enumerate(names) if name == names[index] and other != index]


def inherit(
    cfg: Any, log: Any, told: Mapping[str, str], environ: MutableMapping[str, str]
) -> tuple[list[Any], list[int]] | None:
    """Return the listeners of this generation, and the indices of the inherited ones that it has no use for.

    `told`: our own variables. None: there is nothing to inherit, or it is not told well enough to do better than
    gunicorn. Like gunicorn, exits with 1 when an address cannot be bound."""
    addresses = told.get(ADDRESSES_VARIABLE)
    descriptors = environ.get(DESCRIPTORS_VARIABLE)
    if addresses is None or not descriptors:
        return None
    fds = [int(fd) for fd in descriptors.split(",")]
    bound = [_name(fd) for fd in fds]
    inherited = json.loads(addresses)
    # gunicorn does not look at `bind` either, when it was given its sockets.
    wanted = list(range(len(fds))) if ACTIVATED_VARIABLE in told else cfg.address
    chosen = list(range(len(fds))) if ACTIVATED_VARIABLE in told else choose(wanted, inherited, bound)
    listeners: list[Any] = []
    used: set[int] = set()
    for address, index in zip(wanted, chosen, strict=True):
        if index is None:
            try:
                listeners += _bind(cfg, log, address)
            except SystemExit:
                for listener in filter(is_new, listeners):
                    end(listener)
                raise
            continue
        more = [other for other in twins(index, inherited, bound) if other not in chosen and other not in used]
        for one in (index, *more):
            name = bound[one] if isinstance(address, int) else address
            kind = sock._sock_type(bound[one])  # type: ignore[attr-defined]
            listeners.append(kind(name, cfg, log, fd=fds[one]))
            used.add(one)
    unused = [index for index in range(len(fds)) if index not in used]
    for index in unused:
        os.close(fds[index])
    environ.pop(DESCRIPTORS_VARIABLE)
    return listeners, unused


def _text(address: Any) -> Any:
    """Return an address that JSON can take, and that means the same in every folder.

    getsockname() calls an abstract unix socket by bytes."""
    if isinstance(address, bytes):
        address = os.fsdecode(address)
    return _path(address) if isinstance(address, str) else address


def _path(address: str) -> str:
    return address if address.startswith("\0") or not address else os.path.realpath(address)


def _name(fd: int) -> Any:
    listener = socket.socket(fileno=fd)
    try:
        return _text(listener.getsockname())
    finally:
        listener.detach()


class _OneAddress:
    """A configuration whose only `bind` is the given one, for gunicorn's function that binds all of them."""

    def __init__(self, cfg: Any, address: Any) -> None:
        self._cfg = cfg
        self.address = [address]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cfg, name)


def _bind(cfg: Any, log: Any, address: Any) -> list[Any]:
    made: list[Any] = sock.create_sockets(_OneAddress(cfg, address), log)  # type: ignore[arg-type]
    for listener in made:
        listener.conf = cfg
        listener.hot_is_new = True
    return made


def is_new(listener: Any) -> bool:
    """Whether this process has bound it, and inherited it from nobody; not known of what gunicorn has bound itself."""
    return "hot_is_new" in vars(listener)


def bind_others(cfg: Any, log: Any, but: Callable[[Any], bool]) -> list[Any]:
    """Bind each configured address for which `but` is false. Like gunicorn, exits with 1 when one cannot be bound."""
    return [made for address in cfg.address if not but(address) for made in _bind(cfg, log, address)]


def is_abstract(listener: Any) -> bool:
    """Whether it is a unix socket without a file. gunicorn 27 tries to unlink that too, and dies in its stop()."""
    name = listener.getsockname()
    return isinstance(name, bytes) and name.startswith(b"\0")


def end(listener: Any) -> None:
    """Stop listening, in every process that has this socket, and remove its file."""
    name = listener.getsockname()
    try:
        listener.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # not listening any more
    listener.close()
    if isinstance(name, str) and name:
        try:
            os.unlink(name)
        except OSError:
            pass  # gone already, or somebody else's to remove


def _kernel_poll() -> Any:
    """Return a poll object of the kernel's, and not gevent's, which may not be asked in a callback of its loop."""
    if "gevent.monkey" in sys.modules:
        return sys.modules["gevent.monkey"].get_original("select", "poll")()
    return select.poll()


def is_listening(listener: Any) -> bool:
    """Whether connections can still arrive at this socket."""
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    # A unix socket that was shut down says that it listens, and refuses all.
    poll = _kernel_poll()
    poll.register(listener.fileno(), 0)
    return not any(events & select.POLLHUP for _, events in poll.poll(0))
