"""Paths as in asgi.py, by FastAPI: also with functions that run in its threads."""

import os
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from subject import FOLDER, PIECES, RELEASE, WORDS

HEADERS = {"X-Gen": RELEASE, "X-Pid": str(os.getpid())}


@asynccontextmanager
async def lifespan(app: FastAPI):
    if "startup=fail" in WORDS:
        raise RuntimeError("no database")
    yield
    with open(FOLDER / "lifespan", "a") as notes:
        notes.write(f"shutdown {RELEASE} {os.getpid()}\n")


app = FastAPI(lifespan=lifespan)


def after() -> None:
    time.sleep(0.01)


@app.get("/")
async def hello(tasks: BackgroundTasks) -> Response:
    return PlainTextResponse("hello\n", headers=HEADERS)


@app.get("/slow")
def slow(ms: int, tasks: BackgroundTasks) -> Response:
    time.sleep(ms / 1000)
    tasks.add_task(after)
    return PlainTextResponse("hello\n", headers=HEADERS, background=tasks)


@app.get("/stream")
def stream(ms: int) -> Response:
    def pieces() -> Iterator[str]:
        for _ in range(PIECES):
            time.sleep(ms / 1000 / PIECES)
            yield "piece\n"

    return StreamingResponse(pieces(), headers=HEADERS)


@app.post("/upload")
async def upload(request: Request) -> Response:
    return PlainTextResponse(f"{len(await request.body())}\n", headers=HEADERS)
