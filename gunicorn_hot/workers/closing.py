"""The headers of a response that is the last one of its connection, whatever the application says of that itself.

Many an application that streams events sends `Connection: keep-alive`. gunicorn's WSGI workers drop such a header; its
asgi worker, and uvicorn's, send it, and a client that believes it loses its next request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

#: What only speaks of whether the connection is kept. An "upgrade" does not.
_OF_KEEPING = (b"keep-alive", b"close")


def last(headers: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Return the headers, as str or bytes, with `Connection: close` first, in place of what they say of keeping it."""
    said: list[tuple[Any, Any]] = [(b"connection", b"close")]
    for name, value in headers:
        lowered = _bytes(name).lower()
        if lowered == b"connection":
            tokens = [token.strip() for token in _bytes(value).split(b",")]
            if others := [token for token in tokens if token.lower() not in _OF_KEEPING]:
                said.append((name, b", ".join(others)))
        elif lowered != b"keep-alive":
            said.append((name, value))
    return said


def _bytes(text: Any) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else bytes(text)
