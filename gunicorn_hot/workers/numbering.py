"""The generation's number in each request: `environ` of WSGI, `scope` of ASGI, and both for gunicorn's access log.

It costs a request no more than an item of a dictionary (WSGI), or one call (ASGI). The asgi worker's protocol numbers
each scope that it makes; `numbered_asgi` is for uvicorn's, and for the lifespan and the check of both."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

from gunicorn.http import wsgi

from gunicorn_hot.app import GENERATION_KEY

_proxy_environ: Callable[[Any], Any] = wsgi.proxy_environ


def number_wsgi(generation: int) -> None:
    """Give every environ that gunicorn makes in this process its generation; in a worker, before it serves."""
    numbered = {GENERATION_KEY: generation}

    # The last of the dictionaries that gunicorn 25.3 to 27 merge into an environ, and nearly always an empty one: so
    # there is not even a call more.
    def proxy_environ(req: Any) -> dict[str, Any]:
        return {**_proxy_environ(req), **numbered} if req.proxy_protocol_info else numbered

    wsgi.proxy_environ = proxy_environ


def numbered_asgi(application: Callable[..., Any], generation: int) -> Callable[..., Any]:
    """Return the ASGI application, with every scope that it gets numbered: requests, websockets, the lifespan."""

    # A method costs less to call than an object with one, so that the call which is added here is saved there.
    method = inspect.getattr_static(type(application), "__call__", None)
    if inspect.isfunction(method):
        application = MethodType(method, application)

    # No coroutine of its own: each await of the application would go through it.
    def call(scope: dict[str, Any], receive: Any, send: Any) -> Any:
        scope[GENERATION_KEY] = generation
        return application(scope, receive, send)

    return call
