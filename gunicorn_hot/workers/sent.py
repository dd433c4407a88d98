"""How many bytes were sent on a connection: the kernel has counted them, where nobody else has."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

#: tcpi_bytes_sent and tcpi_bytes_retrans of Linux's struct tcp_info (linux/tcp.h, from 4.19 on), and where they are.
_FIELDS = struct.Struct("=QQ")
_OFFSET = 200


def on_connection(transport: Any) -> tuple[str, ...]:
    """Return the words for it, or nothing: a unix socket, or a connection that has ended, has no such count.

    Of all its requests, with their heads; with TLS, encrypted."""
    try:
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as sock:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _OFFSET + _FIELDS.size)
        sent, again = _FIELDS.unpack_from(info, _OFFSET)
    except (AttributeError, OSError, ValueError, struct.error):
        return ()
    return (f"{sent - again} bytes sent on its connection",)
