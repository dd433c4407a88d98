"""The end of a connection: read on for a while, so that no RST overtakes the response (RFC 9112 9.6).

gunicorn 26 and 27 do that in `util.close_graceful`, which waits for the client, up to 2 s for each: a few that do not
close hold up everybody, and a drain says "Connection: close" to all of them. Here whoever serves others meanwhile asks
when there is something to read, and closes when it is over, or after `SECONDS`."""

from __future__ import annotations

import resource
import socket
import ssl
from typing import Any

from gunicorn_hot.workers.tls import notify_end

#: As in gunicorn's `util.close_graceful`: seconds, and bytes per read.
SECONDS = 2.0
READ = 65536
#: Connections that may linger at a time, and of how many descriptors they may take one: the application needs some.
_MOST = 256
_SHARE = 8


def most() -> int:
    """Return how many connections may linger at a time while new ones are accepted."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if descriptors == resource.RLIM_INFINITY else max(1, min(_MOST, descriptors // _SHARE))


def begin(client: Any) -> None:
    """Tell the client that this is the end; the caller's is the rest. Raises OSError if the client was quicker."""
    is_tls = isinstance(client, ssl.SSLSocket)
    if is_tls or client.gettimeout() is not None:  # Python would wait that long, whatever the flags say
        client.setblocking(False)
    if is_tls:
        notify_end(client)
    client.shutdown(socket.SHUT_WR)


def is_over(client: Any) -> bool:
    """Read what has come, and whether that was the end; never waits."""
    try:
        return not client.recv(READ, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
