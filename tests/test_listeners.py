"""Which sockets a new generation keeps, and what becomes of the others."""

from __future__ import annotations

import json
import logging
import os
import select
import socket
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.sock import UnixSocket, create_sockets

from gunicorn_hot import listeners

LOG = logging.getLogger(__name__)
A, B, C = ("127.0.0.1", 8000), ("127.0.0.1", 8001), ("127.0.0.2", 8000)
SIX = ("::1", 8000)

#: Name -> wanted, what the old configuration called the sockets, what getsockname calls them, and what is chosen.
CHOICES: dict[str, tuple[list[Any], list[Any], list[Any], list[int | None]]] = {
    "unchanged": ([A, B], [A, B], [A, B], [0, 1]),
    "in another order": ([B, A], [A, B], [A, B], [1, 0]),
    "one added": ([A, B], [A], [A], [0, None]),
    "one removed": ([B], [A, B], [A, B], [1]),
    "another port": ([B], [A], [A], [None]),
    "another host": ([C], [A], [A], [None]),
    "none inherited": ([A], [], [], [None]),
    "a port that the kernel chose": ([("127.0.0.1", 0)], [("127.0.0.1", 0)], [("127.0.0.1", 41234)], [0]),
    "that port by its number": ([("127.0.0.1", 41234)], [("127.0.0.1", 0)], [("127.0.0.1", 41234)], [0]),
    "a name for a number": ([("localhost", 8000)], [A], [A], [0]),
    "a number for a name": ([A], [("localhost", 8000)], [A], [0]),
    "no host for all hosts": ([("", 8000)], [("0.0.0.0", 8000)], [("0.0.0.0", 8000)], [0]),
    "all hosts are not one host": ([("0.0.0.0", 8000)], [A], [A], [None]),
    "IPv6": ([SIX], [SIX], [("::1", 8000, 0, 0)], [0]),
    "IPv6 by its bound name": ([SIX], [3], [("::1", 8000, 0, 0)], [0]),
    "IPv6 with a scope": ([("fe80::1", 8000)], [3], [("fe80::1", 8000, 0, 2)], [0]),
    "IPv4 is not IPv6": ([A], [SIX], [("::1", 8000, 0, 0)], [None]),
    "unix": (["/run/a"], ["/run/a"], ["/run/a"], [0]),
    "another unix": (["/run/b"], ["/run/a"], ["/run/a"], [None]),
    "abstract": (["\0a"], ["\0a"], [b"\0a"], [0]),
    "fd:// takes what nothing else names": ([3, A], [A, B], [A, B], [1, 0]),
    "fd:// twice": ([3, 4], [A, B], [A, B], [0, 1]),
    "fd:// with nothing left": ([A, 3], [A], [A], [0, None]),
    "duplicates": ([A, A], [A, A], [A, A], [0, 1]),
    "a duplicate too many": ([A, A], [A], [A], [0, None]),
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_choice(name: str) -> None:
    wanted, inherited, bound, chosen = CHOICES[name]
    # As the names come: from JSON, which knows no tuples.
    assert listeners.choose(wanted, json.loads(json.dumps(inherited)), bound) == chosen


def configured(*bind: str) -> Config:
    cfg = Config()
    cfg.set("bind", list(bind))
    return cfg


def handed_down(made: list[Any]) -> dict[str, str]:
    """Return what a successor is told, with descriptors of its own, as after an exec."""
    env = listeners.describe(made)
    env[listeners.DESCRIPTORS_VARIABLE] = ",".join(str(os.dup(one.fileno())) for one in made)
    return env


def told(env: dict[str, str]) -> dict[str, str]:
    """Take our own variables out of `env`, as `inheritance.claim` does."""
    return {name: env.pop(name) for name in list(env) if name.startswith("GUNICORN_HOT_")}


def close(*made: Any) -> None:
    for listener in made:
        listener.close()


def test_a_kept_socket_stays_an_added_one_is_bound_and_a_removed_one_is_closed_here(tmp_path: Path) -> None:
    old = create_sockets(configured("127.0.0.1:0", f"unix:{tmp_path}/old"), LOG)
    port = old[0].getsockname()[1]
    env = handed_down(old)
    fds = [int(fd) for fd in env[listeners.DESCRIPTORS_VARIABLE].split(",")]
    cfg = configured(f"unix:{tmp_path}/new", f"127.0.0.1:{port}")
    inherited = listeners.inherit(cfg, LOG, told(env), env)
    assert inherited is not None
    made, unused = inherited
    assert [one.getsockname() for one in made] == [f"{tmp_path}/new", ("127.0.0.1", port)]
    assert [one.cfg_addr for one in made] == [f"{tmp_path}/new", ("127.0.0.1", port)]
    assert [one.conf for one in made] == [cfg, cfg]
    assert all(listeners.is_listening(one) for one in (*made, *old))
    assert (unused, env) == ([1], {})
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fds[1])
    # One socket, and not two of one address.
    with socket.create_connection(("127.0.0.1", port)):
        assert select.select([made[1]], [], [], 20)[0]
        made[1].accept()[0].close()
    with pytest.raises(BlockingIOError):
        old[0].accept()
    close(*old, *made)


def test_sockets_of_the_service_manager_are_all_kept_whatever_is_configured(tmp_path: Path) -> None:
    old = create_sockets(configured("127.0.0.1:0", f"unix:{tmp_path}/old"), LOG)
    env = handed_down(old) | {listeners.ACTIVATED_VARIABLE: "1"}
    inherited = listeners.inherit(configured("127.0.0.1:1"), LOG, told(env), env)
    assert inherited is not None
    made, unused = inherited
    assert [one.getsockname() for one in made] == [one.getsockname() for one in old]
    assert unused == []
    assert listeners.ACTIVATED_VARIABLE not in listeners.describe(made)
    assert listeners.ACTIVATED_VARIABLE in listeners.describe(made, activated=True)
    close(*old, *made)


def test_all_sockets_of_an_address_are_kept() -> None:
    assert listeners.twins(0, [A, A, B, A], [A, A, B, A]) == [1, 3]
    assert listeners.twins(2, [A, A, B, A], [A, A, B, A]) == []


def test_a_socket_of_fd_keeps_its_bound_name() -> None:
    old = create_sockets(configured("127.0.0.1:0"), LOG)
    env = handed_down(old)
    inherited = listeners.inherit(configured("fd://3"), LOG, told(env), env)
    assert inherited is not None
    (made,), unused = inherited
    assert (made.cfg_addr, unused) == (old[0].getsockname(), [])
    close(*old, made)


def test_an_abstract_socket_of_fd_can_be_told_of() -> None:
    # getsockname calls it by bytes, which JSON does not know.
    with socket.socket(socket.AF_UNIX) as first:
        first.bind(f"\0gunicorn_hot test {os.getpid()}")
        first.listen()
        # As gunicorn makes it of fd://.
        made = UnixSocket(first.getsockname(), configured(), LOG, fd=os.dup(first.fileno()))
        try:
            assert json.loads(listeners.describe([made])[listeners.ADDRESSES_VARIABLE]) == [
                f"\0gunicorn_hot test {os.getpid()}"
            ]
        finally:
            made.close()


@pytest.mark.parametrize(
    ("addresses", "descriptors"), [(None, None), (None, "3"), ("[]", None), ("[]", "")]
)
def test_what_is_not_told_is_left_to_gunicorn(addresses: str | None, descriptors: str | None) -> None:
    env = {} if descriptors is None else {"GUNICORN_FD": descriptors}
    variables = {} if addresses is None else {listeners.ADDRESSES_VARIABLE: addresses}
    assert listeners.inherit(configured("127.0.0.1:0"), LOG, variables, env) is None
    assert env.get("GUNICORN_FD") == descriptors


def test_the_end_of_a_socket_is_its_end_in_every_process(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    made = create_sockets(configured("127.0.0.1:0", f"unix:{path}"), LOG)
    copies = [socket.socket(fileno=os.dup(one.fileno())) for one in made]
    address = made[0].getsockname()
    assert [listeners.is_listening(copy) for copy in copies] == [True, True]
    for one in made:
        listeners.end(one)
    listening = [listeners.is_listening(copy) for copy in copies]
    close(*copies)
    assert listening == [False, False]
    assert not path.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_the_end_of_a_socket_whose_file_is_gone_is_no_error(tmp_path: Path) -> None:
    (made,) = create_sockets(configured(f"unix:{tmp_path}/socket"), LOG)
    made.shutdown(socket.SHUT_RDWR)
    (tmp_path / "socket").unlink()
    listeners.end(made)
    assert made.sock is None
