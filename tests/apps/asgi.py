"""The application under test for workers that speak ASGI. It is subject.py, asked in another way, and has a lifespan.

Further words in the file "release", of which subject.py's are obeyed too:

    startup=fail      the lifespan's startup says that it has failed
    startup=raise     it raises before it has answered: "I do not know the lifespan protocol"
    startup=hang      it never ends
    startup=block     it never ends, and keeps the event loop busy
    startup=first     it ends in the first process of this release only
    shutdown=NAME     the shutdown is held until the file NAME appears

The file "lifespan" has a line for each startup and shutdown that is complete: which, the release, the pid. The file
"websockets" has a line for each websocket that is accepted, and for each that has ended: with the code.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any
from urllib.parse import parse_qs

from subject import FOLDER, LONGEST_HOLD, PIECES, RELEASE, WORDS, hold, say_held

import gunicorn_hot

_WORDS = dict(word.partition("=")[::2] for word in WORDS)
_HEADERS = [(b"x-gen", RELEASE.encode()), (b"x-pid", str(os.getpid()).encode())]


def note(file: str, text: str) -> None:
    with open(FOLDER / file, "a") as notes:
        notes.write(f"{text}\n")


async def held(name: str) -> None:
    end = time.monotonic() + LONGEST_HOLD
    say_held(name)
    while not (FOLDER / name).exists() and time.monotonic() < end:
        await asyncio.sleep(0.01)


def is_first() -> bool:
    try:
        open(FOLDER / f"first.{RELEASE}", "x").close()
    except FileExistsError:
        return False
    return True


async def lifespan(receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "lifespan.startup"
    startup = _WORDS.get("startup")
    if startup == "fail":
        return await send({"type": "lifespan.startup.failed", "message": "no database\nTraceback\nDatabaseError: away"})
    if startup == "raise":
        raise RuntimeError("no lifespan here")
    note("started", f"{RELEASE} {os.getpid()}")
    if startup == "hang" or (startup == "first" and not is_first()):
        await asyncio.Event().wait()
    if startup == "block":
        time.sleep(LONGEST_HOLD)
    note("lifespan", f"startup {RELEASE} {os.getpid()}")
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    if "shutdown" in _WORDS:
        await held(_WORDS["shutdown"])
    note("lifespan", f"shutdown {RELEASE} {os.getpid()}")
    await send({"type": "lifespan.shutdown.complete"})


async def websocket(scope: Any, receive: Any, send: Any) -> None:
    """Echo, until the client goes."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    note("websockets", "accepted")
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return note("websockets", f"ended {message.get('code')}")
        await send({"type": "websocket.send", "text": f"{RELEASE} {message['text']}"})


async def upload(scope: Any, receive: Any) -> bytes:
    read = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RuntimeError("the client has gone")
        read += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    announced = int(dict(scope["headers"]).get(b"content-length", read))
    if read != announced:
        raise RuntimeError(f"a body of {read} bytes, {announced} were announced")
    return f"{read}\n".encode()


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    if scope["type"] == "websocket":
        return await websocket(scope, receive, send)
    path = scope["path"]
    query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
    body = b"hello\n"
    if path == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        for _ in range(PIECES):
            await asyncio.sleep(int(query["ms"]) / 1000 / PIECES)
            await send({"type": "http.response.body", "body": b"piece\n", "more_body": True})
        return await send({"type": "http.response.body", "body": b""})
    if path == "/early":
        # The answer begins before the request has come to its end.
        await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, (b"content-length", b"6")]})
        await send({"type": "http.response.body", "body": body[:3], "more_body": True})
        await held(query["file"])
        await upload(scope, receive)
        return await send({"type": "http.response.body", "body": body[3:]})
    if path == "/slow":
        if "say" in query:
            say_held(query["say"])
        await asyncio.sleep(int(query["ms"]) / 1000)
    elif path == "/hold":
        await held(query["file"])
    elif path == "/block":
        hold(query["file"])
    elif path == "/thread":
        await asyncio.to_thread(hold, query["file"])
    elif path == "/upload":
        body = await upload(scope, receive)
    elif path == "/generation":
        body = f"{scope.get('gunicorn_hot.generation')} {gunicorn_hot.generation()}".encode()
    elif path == "/environ":
        body = json.dumps(dict(os.environ)).encode()
    headers = [*_HEADERS, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
