"""The application of wsgi.py for workers that speak ASGI: the same paths, the same answers."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from urllib.parse import parse_qs

from bench.apps.wsgi import GENERATION, PIECES

_HEADERS = [
    (b"content-type", b"text/plain"), (b"x-gen", GENERATION.encode()), (b"x-pid", str(os.getpid()).encode())
]


async def _lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _stream(seconds: float, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    for _ in range(PIECES):
        await send({"type": "http.response.body", "body": b"piece\n", "more_body": True})
        await asyncio.sleep(seconds / PIECES)
    await send({"type": "http.response.body", "body": b""})


async def _hold(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"%d" % os.getpid())
    await reader.read(1)
    writer.close()


async def _upload(receive: Any) -> bytes:
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            return b"%d bytes\n" % size


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return await _lifespan(receive, send)
    path = scope["path"]
    body = b"answer\n"
    if path != "/":
        query = parse_qs(scope["query_string"].decode())
        seconds = float(query.get("ms", ["0"])[0]) / 1000
        if path == "/stream":
            return await _stream(seconds, send)
        if path == "/slow":
            await asyncio.sleep(seconds)
        elif path == "/hold":
            await _hold(int(query["port"][0]))
        elif path == "/upload":
            body = await _upload(receive)
    headers = [*_HEADERS, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
