"""The application under test. The harness copies it beside the files that it reads and writes.

The file "release" is read at import: the release's name, and then what the import does, in order:

    B                 release B, at once
    B sleep=0.3       takes 0.3 s to import
    B hold=NAME       is held until the file NAME appears; NAME.held says that it has come so far
    B broken          raises
    B exit            ends with sys.exit(0)
    B kill            ends by SIGKILL

Each process that has come to the end of it adds a line to the file "loaded": the release, and its pid.

Every answer has the release in X-Gen and the worker in X-Pid.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import gunicorn_hot

FOLDER = Path(__file__).resolve().parent
LONGEST_HOLD = 60.0
PIECES = 10


def say_held(name: str) -> None:
    with open(FOLDER / f"{name}.held", "a") as held:
        held.write(f"{os.getpid()}\n")


def hold(name: str) -> None:
    """Wait until the file `name` appears; not for ever, so that nothing outlives a broken test for long."""
    end = time.monotonic() + LONGEST_HOLD
    say_held(name)
    while not (FOLDER / name).exists() and time.monotonic() < end:
        time.sleep(0.01)


def broken(_: str) -> None:
    raise RuntimeError("this release is broken")


def exit_at_import(_: str) -> None:
    sys.exit(0)


def kill(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


AT_IMPORT: dict[str, Callable[[str], object]] = {
    "sleep": lambda seconds: time.sleep(float(seconds)),
    "hold": hold,
    "broken": broken,
    "exit": exit_at_import,
    "kill": kill,
    # For asgi.py.
    "startup": str,
    "shutdown": str,
}

RELEASE, *WORDS = (FOLDER / "release").read_text().split()
for _word in WORDS:
    _action, _, _argument = _word.partition("=")
    AT_IMPORT[_action](_argument)
with open(FOLDER / "loaded", "a") as _loaded:
    _loaded.write(f"{RELEASE} {os.getpid()}\n")


def stream(seconds: float) -> Iterator[bytes]:
    for _ in range(PIECES):
        time.sleep(seconds / PIECES)
        yield b"piece\n"


def events(name: str) -> Iterator[bytes]:
    """Server-sent events, until the file `name` appears."""
    end = time.monotonic() + LONGEST_HOLD
    say_held(name)
    while not (FOLDER / name).exists() and time.monotonic() < end:
        yield b"data: tick\n\n"
        time.sleep(0.02)
    yield b"data: end\n\n"


def upload(environ: dict[str, Any]) -> bytes:
    read = 0
    while data := environ["wsgi.input"].read(16384):
        read += len(data)
    announced = int(environ.get("CONTENT_LENGTH") or read)  # chunked: not announced
    if read != announced:
        raise RuntimeError(f"a body of {read} bytes, {announced} were announced")
    return f"{read}\n".encode()


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    query = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    headers = [("X-Gen", RELEASE), ("X-Pid", str(os.getpid()))]
    body = b"hello\n"
    if path == "/stream":
        start_response("200 OK", headers)
        return stream(int(query["ms"]) / 1000)
    if path == "/events":
        start_response("200 OK", [*headers, ("Content-Type", "text/event-stream")])
        return events(query["file"])
    if path == "/file":
        file = (FOLDER / query["name"]).open("rb")
        start_response("200 OK", [*headers, ("Content-Length", str(os.fstat(file.fileno()).st_size))])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
        return wrapped
    if path == "/slow":
        if "say" in query:
            say_held(query["say"])
        time.sleep(int(query["ms"]) / 1000)
    elif path == "/hold":
        hold(query["file"])
    elif path == "/upload":
        body = upload(environ)
    elif path == "/generation":
        body = f"{environ.get('gunicorn_hot.generation')} {gunicorn_hot.generation()}".encode()
    elif path == "/environ":
        body = json.dumps(dict(os.environ)).encode()
    start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
    return [body]
