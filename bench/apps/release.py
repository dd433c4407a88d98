"""The application of the rivals: that of wsgi.py and asgi.py, in the release that is on the disk.

The file that BENCH_RELEASE names is read at import. It is JSON:

    name        what X-Gen says
    import_s    how long the import takes, by sleeping
    fault       ""          none
                "import"    cannot be imported
                "hang"      the import does not end
                "500"       answers 500 to everything
                "first"     the process is killed by its first request
                "later"     the process is killed 3 s after its import
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

LATER = 3.0     # s

_release = json.loads(Path(os.environ["BENCH_RELEASE"]).read_text(encoding="utf-8"))
os.environ["BENCH_GENERATION"] = _release["name"]
os.environ["BENCH_IMPORT_S"] = str(_release["import_s"])

# After what they read from the environment.
from bench.apps import asgi, wsgi  # noqa: E402

_fault = _release["fault"]
_HEADERS = [("Content-Length", "0"), ("X-Gen", wsgi.GENERATION), ("X-Pid", str(os.getpid()))]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if _fault == "import":
    raise RuntimeError("this release cannot be imported")
if _fault == "hang":
    time.sleep(600)
if _fault == "later":
    _timer = threading.Timer(LATER, _die)
    _timer.daemon = True
    _timer.start()


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    if _fault == "first":
        _die()
    if _fault == "500":
        start_response("500 Internal Server Error", _HEADERS)
        return [b""]
    return wsgi.app(environ, start_response)


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        if _fault == "first":
            _die()
        if _fault == "500":
            headers = [(name.lower().encode(), value.encode()) for name, value in _HEADERS]
            await send({"type": "http.response.start", "status": 500, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
    await asgi.app(scope, receive, send)
