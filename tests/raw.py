"""Requests over raw sockets: an HTTP library would hide who has closed, how, and when."""

from __future__ import annotations

import re
import socket
from typing import NamedTuple

GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Answer(NamedTuple):
    """`connection`: the value of that header, or nothing."""

    status: str
    connection: str
    body: str


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def answers(data: bytes) -> list[Answer]:
    """Return the answers in it, each of which has a Content-Length."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        fields = {name.lower(): value for name, value in re.findall(r"^(\S+): (.*?)\r?$", head.decode(), re.MULTILINE)}
        length = int(fields["content-length"])
        found.append(Answer(head.split()[1].decode(), fields.get("connection", ""), data[:length].decode()))
        data = data[length:]
    return found
