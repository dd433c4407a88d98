"""The application of the demo, copied into its folder: it answers with its release, and takes a moment to load.

The release is read from the file RELEASE, once, when the application is imported. The one named "broken" needs a module
that nobody has installed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

RELEASE = Path(__file__).with_name("RELEASE").read_text().strip()

time.sleep(0.6)  # what a real one needs for its imports and its connections
if RELEASE == "broken":
    import a_module_that_was_forgotten

    a_module_that_was_forgotten.begin()

PIECES = 20
PIECE = b"0123456789" * 10


def report(seconds: float) -> Iterator[bytes]:
    """An answer that takes its time, piece by piece."""
    for _ in range(PIECES):
        time.sleep(seconds / PIECES)
        yield PIECE


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    headers = [("Content-Type", "text/plain"), ("X-Release", RELEASE)]
    if environ["PATH_INFO"] == "/report":
        start_response("200 OK", [*headers, ("Content-Length", str(PIECES * len(PIECE)))])
        return report(3.0)
    time.sleep(0.005)  # a query or two
    body = f"release {RELEASE}\n".encode()
    start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
    return [body]
