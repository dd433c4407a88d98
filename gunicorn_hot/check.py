"""`hot_check`: does the application answer, in this very process, before anybody is served?

A path is requested without a socket: a complete WSGI environ or ASGI scope, and the application called with it. What
an answer means is decided here; the workers only say when to ask."""

from __future__ import annotations

import inspect
import io
import os
import re
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, NamedTuple, NoReturn
from urllib.parse import unquote_to_bytes, urlsplit

from gunicorn_hot.app import GENERATION_KEY, generation
from gunicorn_hot.holds import NotReady

#: How much of an answer is looked at; all of it is quoted, but for pages.
_QUOTED_BYTES = 300
#: Characters of an HTML page that are quoted, without its tags.
_QUOTED_OF_PAGE = 120
#: A tag, or what it holds that is no text; the page may end anywhere.
_TAG = re.compile(r"<(script|style)\b.*?(?:</\1>|$)|<!--.*?(?:-->|$)|<[^>]*(?:>|$)", re.S | re.I)
_AGENT = "gunicorn_hot (hot_check)"

Message = MutableMapping[str, Any]


class Target(NamedTuple):
    """What is requested: the parts of a path like ``/healthz?deep=1`` or ``//www.example.com/healthz``."""

    host: str
    path: str
    query: str

    @classmethod
    def parse(cls, target: str) -> Target:
        parts = urlsplit(target)
        return cls(parts.netloc, parts.path or "/", parts.query)


class Server(NamedTuple):
    """Where the request would have arrived."""

    scheme: str
    port: int
    #: The part of every path that belongs to no application: SCRIPT_NAME, root_path.
    prefix: str = ""

    @classmethod
    def of(cls, cfg: Any, prefix: str | None = None) -> Server:
        scheme = "https" if cfg.is_ssl else "http"
        port = {"http": 80, "https": 443}[scheme]
        for address in cfg.address:
            if isinstance(address, tuple):
                port = int(address[1])
                break
        return cls(scheme, port, os.environ.get("SCRIPT_NAME", "") if prefix is None else prefix)

    def host(self, target: Target) -> str:
        """The Host header: a name that the setting gives, or localhost."""
        default = (self.scheme, self.port) in (("http", 80), ("https", 443))
        return target.host or ("localhost" if default else f"localhost:{self.port}")


class Answer(NamedTuple):
    #: As in a status line: ``404 Not Found``.
    status: str
    #: Its beginning.
    body: bytes


def judge(target: str, answer: Answer) -> None:
    """Raise NotReady if the answer says that something is wrong."""
    code = answer.status.split(" ")[0]
    if code.isdigit() and 200 <= int(code) < 400:
        return
    text = _quoted(answer.body.decode("utf-8", "replace"))
    raise NotReady(f"hot_check {target!r} was answered {answer.status!r}" + (f": {text}" if text else ""))


def _quoted(body: str) -> str:
    """Return what a page says, on one line; of a framework's error page the beginning is enough."""
    body = body.strip()
    is_page = body.startswith("<")
    if is_page:
        from html import unescape  # only a release that fails needs it

        body = unescape(_TAG.sub(" ", body))
    text = " ".join(body.split())
    return text if not is_page or len(text) <= _QUOTED_OF_PAGE else f"{text[: _QUOTED_OF_PAGE - 1]}…"


def _fail(check: object, exc: BaseException) -> NoReturn:
    if isinstance(exc, NotReady):
        raise exc
    last_line = traceback.format_exception_only(type(exc), exc)[-1].strip()
    raise NotReady(f"hot_check {_name(check)} raised {last_line}") from exc


def _name(check: object) -> str:
    return repr(check) if isinstance(check, str) else str(getattr(check, "__qualname__", repr(check)))


def what(check: object) -> str:
    """Say what a worker that runs this check is doing."""
    return f"in hot_check {_name(check)}"


# --- WSGI


def environ(target: Target, server: Server, base: dict[str, Any]) -> dict[str, Any]:
    """Return the complete environ (PEP 3333) of a GET request; `base` has the server's own ``wsgi.*`` keys."""
    path = unquote_to_bytes(target.path).decode("latin-1")
    inside = bool(server.prefix) and path.startswith(server.prefix)
    return {
        "wsgi.version": (1, 0),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **base,
        "wsgi.url_scheme": server.scheme,
        "wsgi.input": io.BytesIO(),
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": server.prefix,
        "PATH_INFO": path[len(server.prefix) :] if inside else path,
        "QUERY_STRING": target.query,
        "RAW_URI": target.path + ("?" + target.query if target.query else ""),
        "SERVER_NAME": "localhost",
        "SERVER_PORT": str(server.port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "0",
        "HTTP_HOST": server.host(target),
        "HTTP_USER_AGENT": _AGENT,
        "HTTP_ACCEPT": "*/*",
    }


def ask_wsgi(app: Callable[..., Iterable[bytes]], environ: dict[str, Any]) -> Answer:
    """Call a WSGI application as a server does, and read its answer to the end. What it raises passes through."""
    status = ""
    body = b""

    def write(data: bytes) -> None:
        nonlocal body
        if len(body) < _QUOTED_BYTES:
            body += data[: _QUOTED_BYTES - len(body)]

    def start_response(line: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        nonlocal status, body
        if status and exc_info is None:
            raise RuntimeError("start_response was called twice")
        status, body = line, b""
        return write

    pieces = app(environ, start_response)
    try:
        for piece in pieces:
            write(piece)
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
    if not status:
        raise RuntimeError("the application did not call start_response")
    return Answer(status, body)


def run(worker: Any) -> None:
    """Run the worker's `hot_check` on its application, if one is set. Raises NotReady."""
    check = worker.cfg.hot_check
    if check is None:
        return
    try:
        if isinstance(check, str):
            from gunicorn.http.wsgi import base_environ

            base = {**base_environ(worker.cfg), GENERATION_KEY: generation()}
            base["wsgi.multithread"] = worker.cfg.threads > 1
            request = environ(Target.parse(check), Server.of(worker.cfg), base)
            judge(check, ask_wsgi(worker.wsgi, request))
        else:
            result = check(worker)
            if inspect.isawaitable(result):
                import asyncio  # not in a master: see `app`

                result = asyncio.run(_await(result))
            _judge_result(check, result)
    except (Exception, SystemExit) as exc:
        _fail(check, exc)


def _judge_result(check: object, result: object) -> None:
    if result is False:
        raise NotReady(f"hot_check {_name(check)} returned False")


async def _await(result: Awaitable[object]) -> object:
    return await result


# --- ASGI


def scope(target: Target, server: Server, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the ASGI HTTP scope (version 3.0) of a GET request; `state` is what lifespan startup has left."""
    path = unquote_to_bytes(target.path).decode("utf-8", "replace")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": server.scheme,
        "path": path,
        "raw_path": target.path.encode("ascii", "replace"),
        "query_string": target.query.encode("ascii", "replace"),
        "root_path": server.prefix,
        "headers": [
            (b"host", server.host(target).encode("latin-1", "replace")),
            (b"user-agent", _AGENT.encode()),
            (b"accept", b"*/*"),
        ],
        "client": ("127.0.0.1", 0),
        "server": ("localhost", server.port),
        "extensions": {},
        **({"state": state.copy()} if state is not None else {}),
    }


async def ask_asgi(app: Callable[..., Awaitable[Any]], scope: dict[str, Any]) -> Answer:
    """Call an ASGI application as a server does, until it returns. What it raises passes through."""
    import asyncio

    status: int | None = None
    body = b""
    answered = asyncio.Event()
    requests: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if requests:
            return requests.pop()
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status, body
        if message["type"] == "http.response.start":
            status = int(message["status"])
        elif message["type"] == "http.response.body":
            if len(body) < _QUOTED_BYTES:
                body += message.get("body", b"")[: _QUOTED_BYTES - len(body)]
            if not message.get("more_body", False):
                answered.set()

    await app(scope, receive, send)
    if status is None:
        raise RuntimeError("the application returned without a response")
    return Answer(str(status), body)


async def run_async(worker: Any, app: Any, *, state: dict[str, Any] | None = None, root_path: str = "") -> None:
    """As `run`, on the event loop that serves the ASGI application, after its lifespan startup. Raises NotReady.

    A plain function runs in a thread, so that the loop and the heartbeats go on."""
    import asyncio

    check = worker.cfg.hot_check
    if check is None:
        return
    try:
        if isinstance(check, str):
            request = scope(Target.parse(check), Server.of(worker.cfg, root_path), state)
            judge(check, await ask_asgi(app, request))
        elif inspect.iscoroutinefunction(check):
            _judge_result(check, await check(worker))
        else:
            _judge_result(check, await asyncio.to_thread(check, worker))
    except (Exception, SystemExit) as exc:
        _fail(check, exc)
