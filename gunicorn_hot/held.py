"""A master whose service has another process's pid: the holder's, or that of the first master, which will be it."""

from __future__ import annotations

import os
import select
import socket
import struct

from gunicorn_hot import holder
from gunicorn_hot.channel import inherited


class Held:
    """Its end of the channel to that process. See `holder` for what is said there."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    @classmethod
    def inherited(cls, fd: int) -> Held:
        """Adopt an inherited descriptor: see `channel.inherited`."""
        return cls(inherited(fd, socket.SOCK_SEQPACKET))

    def fileno(self) -> int:
        return self._sock.fileno()

    def holder(self) -> int:
        """Return the pid of that process: the first master has made this pair, and its pid stays."""
        pid: int = struct.unpack("3i", self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        return pid

    def announce(self, pid: int, generation: int, name: str, pidfile: str | None) -> None:
        """Say that this master is the service now."""
        path = os.path.abspath(pidfile) if pidfile else ""
        self._send(f"MASTER={pid}\nGENERATION={generation}\nNAME={_line(name)}\nPIDFILE={_line(path)}")

    def successor_exited(self, pid: int, code: int) -> None:
        self._send(f"EXITED={pid}\nCODE={code}")

    def notify(self, state: str) -> None:
        """Let the service manager be told `state`, in the name of the pid that it knows."""
        self._send(f"NOTIFY\n{state}")

    def _send(self, text: str) -> None:
        try:
            self._sock.send(text.encode(errors="surrogateescape")[: holder.LONGEST], socket.MSG_NOSIGNAL)
        except OSError:
            pass  # the holder is gone, which is an event of its own; or it hangs, and must not stop us

    def has_ended(self) -> bool:
        """Whether the holder is no more. It never says anything."""
        try:
            return not self._sock.recv(1)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def wait_end(self, timeout: float) -> None:
        """Wait `timeout` seconds at most for the end of the holder."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.poll(timeout * 1000)

    def close(self) -> None:
        self._sock.close()


def _line(text: str) -> str:
    return text.replace("\n", " ")
