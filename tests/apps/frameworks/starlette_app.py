"""Paths as in asgi.py, by Starlette."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from subject import FOLDER, PIECES, RELEASE, WORDS

HEADERS = {"X-Gen": RELEASE, "X-Pid": str(os.getpid())}


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
    if "startup=fail" in WORDS:
        raise RuntimeError("no database")
    yield {"started": RELEASE}
    with open(FOLDER / "lifespan", "a") as notes:
        notes.write(f"shutdown {RELEASE} {os.getpid()}\n")


async def hello(request: Request) -> Response:
    assert request.state.started == RELEASE
    return PlainTextResponse("hello\n", headers=HEADERS)


async def slow(request: Request) -> Response:
    await asyncio.sleep(int(request.query_params["ms"]) / 1000)
    return PlainTextResponse("hello\n", headers=HEADERS)


async def stream(request: Request) -> Response:
    async def pieces() -> AsyncIterator[str]:
        for _ in range(PIECES):
            await asyncio.sleep(int(request.query_params["ms"]) / 1000 / PIECES)
            yield "piece\n"

    return StreamingResponse(pieces(), headers=HEADERS)


async def upload(request: Request) -> Response:
    size = 0
    async for data in request.stream():
        size += len(data)
    return PlainTextResponse(f"{size}\n", headers=HEADERS)


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/", hello), Route("/slow", slow), Route("/stream", stream), Route("/upload", upload, methods=["POST"]),
    ],
)
