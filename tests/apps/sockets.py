"""Websockets in WSGI: an application that echoes, with `simple_websocket` (gthread, gevent), as flask-sock does.

What a client says is echoed, after the release and the worker: "A 4711 hello". The word "bye" ends it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from simple_websocket import ConnectionClosed, Server

FOLDER = Path(__file__).resolve().parent
RELEASE = (FOLDER / "release").read_text().split()[0]
with open(FOLDER / "loaded", "a") as _loaded:
    _loaded.write(f"{RELEASE} {os.getpid()}\n")


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    if environ["PATH_INFO"] != "/socket":
        headers = [("X-Gen", RELEASE), ("X-Pid", str(os.getpid())), ("Content-Length", "6")]
        start_response("200 OK", headers)
        return [b"hello\n"]
    socket = Server(environ, ping_interval=None)
    try:
        while (said := socket.receive()) != "bye":
            socket.send(f"{RELEASE} {os.getpid()} {said}")
        socket.close()
    except ConnectionClosed:
        pass
    if socket.mode == "gunicorn":
        raise StopIteration  # as flask-sock tells gunicorn that the connection is no HTTP any more
    return []
