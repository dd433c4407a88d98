"""An application to try an upgrade on: it tells which release answers, and from which process.

Start it, from the folder above this one:

    gunicorn -c examples/hot.conf.py --chdir examples app:app

    $ curl http://127.0.0.1:8000/
    release 1 from pid 4711

The release is read once, when the application is imported, from the file RELEASE beside this one ("1"
without it). To put release 2 in service, write it there, and send SIGUSR2 to the master:

    $ echo 2 > examples/RELEASE
    $ kill -USR2 $(cat examples/hot.pid)
    $ curl http://127.0.0.1:8000/
    release 2 from pid 4722

A release named "broken" fails when it is imported. It never gets to serve: the log gives the reason, and
the release before it goes on.

    $ echo broken > examples/RELEASE
    $ kill -USR2 $(cat examples/hot.pid)

Requests that last longer than the upgrade are finished by the release that began them. s is a number of
seconds, at most 60:

    $ curl "http://127.0.0.1:8000/slow?s=20"       # answers after 20 seconds
    $ curl -N "http://127.0.0.1:8000/stream?s=20"  # answers at once, and then each second

Every answer has the headers X-Gen (the release) and X-Pid.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

LONGEST = 60.0


def read_release(path: Path) -> str:
    """Return the first word of the file, or "1" without one. Raise RuntimeError when it is "broken"."""
    words = path.read_text().split() if path.exists() else []
    release = words[0] if words else "1"
    if release == "broken":
        raise RuntimeError(f"{path} says that this release is broken: it refuses to load")
    return release


RELEASE = read_release(Path(__file__).with_name("RELEASE"))


def seconds(environ: dict[str, Any]) -> float:
    """Return the s of the query, 1 without one, at most LONGEST. Raise ValueError when it is none."""
    s = float(parse_qs(environ["QUERY_STRING"]).get("s", ["1"])[0])
    if math.isnan(s) or s < 0:
        raise ValueError("s is not a duration")
    return min(s, LONGEST)


def stream(line: bytes, duration: float) -> Iterator[bytes]:
    end = time.monotonic() + duration
    yield line
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 1))
        yield line


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    pid = os.getpid()
    answer = f"release {RELEASE} from pid {pid}\n"
    headers = [("Content-Type", "text/plain"), ("X-Gen", RELEASE), ("X-Pid", str(pid))]

    status = "200 OK"
    path = environ["PATH_INFO"]
    try:
        if path == "/stream":
            duration = seconds(environ)
            start_response(status, headers)
            return stream(answer.encode(), duration)
        if path == "/slow":
            time.sleep(seconds(environ))
        elif path != "/":
            status, answer = "404 Not Found", "there is /, /slow?s=20 and /stream?s=20\n"
    except ValueError:
        status, answer = "400 Bad Request", "s is a number of seconds, as in /slow?s=20\n"

    body = answer.encode()
    start_response(status, [*headers, ("Content-Length", str(len(body)))])
    return [body]
