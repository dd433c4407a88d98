"""A small FastAPI application. Its release is what the file RELEASE beside it says when it is imported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import PlainTextResponse

import gunicorn_hot

RELEASE = Path(__file__).with_name("RELEASE").read_text().strip()
HEADERS = {"X-Gen": RELEASE}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The upgrade goes on when the part before `yield` is done. What it raises fails the upgrade."""
    if RELEASE == "broken":
        raise RuntimeError("this release cannot reach its database")
    yield
    # Here, after the old worker's last request: close pools, flush buffers.


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def hello() -> Response:
    return PlainTextResponse(f"release {RELEASE}\n", headers=HEADERS)


@app.post("/")
async def count(request: Request) -> Response:
    return PlainTextResponse(f"{len(await request.body())} bytes\n", headers=HEADERS)


@app.get("/healthz")
async def healthz() -> Response:
    """What `hot_check` requests from each new worker before it serves: ask here what a release cannot live without."""
    return PlainTextResponse("ok\n")


@app.websocket("/ws")
async def ticks(socket: WebSocket) -> None:
    """A websocket that is ended by the server, with the code for it, when its worker is to leave."""
    await socket.accept()
    draining = asyncio.ensure_future(gunicorn_hot.wait_draining())
    try:
        while not draining.done():
            await socket.send_text(f"release {RELEASE}")
            await asyncio.wait([draining], timeout=1)
        await socket.close(1012, "a new release serves, connect again")
    finally:
        draining.cancel()
