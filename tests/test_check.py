"""`hot_check`: requests without a socket, and what becomes of a worker whose application does not pass."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Iterable
from types import SimpleNamespace
from typing import Any
from wsgiref.validate import validator

import pytest
from server import Service
from test_app_side import AS_IT_IS, application, skip_without

from gunicorn_hot import check, hold_ready, holds, settings
from gunicorn_hot.check import Answer, Server, Target
from gunicorn_hot.holds import NotReady

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]

# --- The request ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "target"), [
    ("/healthz", Target("", "/healthz", "")),
    ("/healthz?deep=1&x=%20", Target("", "/healthz", "deep=1&x=%20")),
    ("/a:b//c", Target("", "/a:b//c", "")),
    ("//www.example.com/healthz", Target("www.example.com", "/healthz", "")),
    ("//www.example.com:8443", Target("www.example.com:8443", "/", "")),
])
def test_a_target_has_parts(text: str, target: Target) -> None:
    assert Target.parse(text) == target


@pytest.mark.parametrize(("server", "target", "host"), [
    (Server("http", 80), "/", "localhost"),
    (Server("https", 443), "/", "localhost"),
    (Server("http", 8000), "/", "localhost:8000"),
    (Server("http", 8000), "//www.example.com/", "www.example.com"),
])
def test_a_host_is_named(server: Server, target: str, host: str) -> None:
    assert server.host(Target.parse(target)) == host
    assert check.environ(Target.parse(target), server, {})["HTTP_HOST"] == host
    assert (b"host", host.encode()) in check.scope(Target.parse(target), server)["headers"]


@pytest.mark.parametrize(("address", "is_ssl", "server"), [
    ([("0.0.0.0", 8000), ("0.0.0.0", 1)], False, ("http", 8000)),
    (["/run/app.sock", ("::1", 8443)], True, ("https", 8443)),
    (["/run/app.sock"], False, ("http", 80)),
    ([7], True, ("https", 443)),
])
def test_a_server_is_the_one_that_is_configured(
    address: list[Any], is_ssl: bool, server: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCRIPT_NAME", raising=False)
    assert Server.of(SimpleNamespace(address=address, is_ssl=is_ssl)) == Server(*server, "")
    monkeypatch.setenv("SCRIPT_NAME", "/app")
    assert Server.of(SimpleNamespace(address=address, is_ssl=is_ssl)).prefix == "/app"


def test_a_path_is_decoded_as_the_standards_say() -> None:
    target, server = Target.parse("/app/%C3%BC%2F?q=%C3%BC"), Server("http", 80, "/app")
    environ = check.environ(target, server, {"wsgi.multithread": False})
    assert environ["PATH_INFO"].encode("latin-1").decode() == "/ü/"
    assert environ["SCRIPT_NAME"] == "/app"
    assert (environ["QUERY_STRING"], environ["RAW_URI"]) == ("q=%C3%BC", "/app/%C3%BC%2F?q=%C3%BC")
    assert environ["wsgi.multithread"] is False
    scope = check.scope(target, server)
    assert (scope["path"], scope["raw_path"]) == ("/app/ü/", b"/app/%C3%BC%2F")
    assert (scope["root_path"], scope["query_string"]) == ("/app", b"q=%C3%BC")


def ask(app: Any, target: str = "/healthz") -> Answer:
    return check.ask_wsgi(app, check.environ(Target.parse(target), Server("http", 8000), {}))


def test_the_environ_and_the_calls_are_what_pep_3333_demands() -> None:
    closed = []

    class Pieces:
        def __iter__(self) -> Iterable[bytes]:
            yield b"a" * 200
            yield b"b" * 200

        def close(self) -> None:
            closed.append(True)

    def app(environ: Environ, start_response: StartResponse) -> Any:
        assert environ["wsgi.input"].read(1) == b""
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Pieces()

    # The standard library's validator asserts on anything else, on either side.
    assert ask(validator(app)) == Answer("200 OK", b"a" * 200 + b"b" * 100)
    assert closed


def test_an_answer_may_be_written_and_replaced() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [])(b"lost")
        try:
            raise RuntimeError
        except RuntimeError as exc:
            start_response("500 No", [], (type(exc), exc, None))(b"written ")
        return [b"returned"]

    assert ask(app) == Answer("500 No", b"written returned")


def test_what_is_no_answer_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="did not call start_response"):
        ask(lambda environ, start_response: [])

    def twice(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [])
        start_response("200 OK", [])

    with pytest.raises(RuntimeError, match="called twice"):
        ask(twice)


@pytest.mark.parametrize("status", ["200 OK", "204", "302 Found", "399 x"])
def test_a_good_answer(status: str) -> None:
    check.judge("/healthz", Answer(status, b""))


@pytest.mark.parametrize(
    ("page", "text"),
    [
        # Flask's, for an exception.
        ("<!doctype html>\n<html lang=en>\n<title>500 Internal Server Error</title>\n<h1>Internal Server Error</h1>\n"
         "<p>The server encountered an internal error &amp; was unable to complete your request. Either the server is "
         "overloaded or there is an error in the application.</p>",
         "500 Internal Server Error Internal Server Error The server encountered an internal error & was unable to "
         "complete your …"),
        ("\n<html><head><style>body { color: red }</style><title>no table</title>", "no table"),
        ("<html><title>no table</title><script>if (1 < 2)", "no table"),
        ("<html><title>no table</title><a href='", "no table"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
    ],
)  # fmt: skip
def test_of_a_page_the_text_is_quoted(page: str, text: str) -> None:
    with pytest.raises(NotReady) as raised:
        check.judge("/x", Answer("500 Oh", page.encode()))
    assert str(raised.value) == f"hot_check '/x' was answered '500 Oh': {text}"


@pytest.mark.parametrize("status", ["400 Bad Request", "503 Service Unavailable", "100 Continue", "", "fine"])
def test_a_bad_answer_is_quoted(status: str) -> None:
    with pytest.raises(NotReady, match=re.escape(f"hot_check '/x' was answered {status!r}: no data base")):
        check.judge("/x", Answer(status, b"no\n  data base\n"))


# --- ASGI -------------------------------------------------------------------------------------------------------


Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def worker(value: Any) -> Any:
    return SimpleNamespace(cfg=SimpleNamespace(hot_check=value, is_ssl=False, address=[("127.0.0.1", 8000)]))


def answers(status: int, body: bytes = b"") -> Any:
    """An application as frameworks are: it answers, and then waits for the client to leave."""
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        assert (scope["type"], scope["method"], scope["path"]) == ("http", "GET", "/healthz")
        assert scope["state"] == {"db": "open"}
        scope["state"]["mine"] = True
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        listening = asyncio.create_task(receive())  # type: ignore[arg-type]
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await asyncio.sleep(0)
        assert not listening.done()
        await send({"type": "http.response.body"})
        assert await listening == {"type": "http.disconnect"}

    return app


def run(value: Any, app: Any) -> None:
    state = {"db": "open"}
    asyncio.run(check.run_async(worker(value), app, state=state))
    assert state == {"db": "open"}, "a request's state is a copy"


def test_an_asgi_application_is_asked() -> None:
    run("/healthz", answers(200))
    with pytest.raises(NotReady, match="hot_check '/healthz' was answered '503': no data base"):
        run("/healthz", answers(503, b"no data base"))


def test_an_asgi_application_that_raises_or_says_nothing() -> None:
    async def broken(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        raise LookupError("no data base")

    async def silent(scope: Any, receive: Receive, send: Send) -> None:
        pass

    with pytest.raises(NotReady, match="hot_check '/healthz' raised LookupError: no data base"):
        run("/healthz", broken)
    with pytest.raises(NotReady, match="raised RuntimeError: the application returned without a response"):
        run("/healthz", silent)


def test_a_framework_is_asked() -> None:
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def health(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{request.state.db} {request.url}", status_code=int(request.query_params["as"]))

    async def broken(request: Request) -> PlainTextResponse:
        raise LookupError("no data base")

    app = Starlette(routes=[Route("/health", health), Route("/broken", broken)])
    run("/health?as=200", app)
    with pytest.raises(NotReady, match=r"'503': open http://localhost:8000/health\?as=503"):
        run("/health?as=503", app)
    with pytest.raises(NotReady, match="'404': Not Found"):
        run("/", app)
    with pytest.raises(NotReady, match="raised LookupError: no data base"):
        run("/broken", app)


def test_holds_are_awaited_on_a_loop() -> None:
    said: list[str] = []
    hold, other = hold_ready(), hold_ready()

    async def main() -> None:
        waiting = asyncio.create_task(holds.released(said.append))
        await asyncio.sleep(0)
        thread = threading.Thread(target=hold.ready)
        thread.start()
        while len(said) < 2:
            await asyncio.sleep(0)
        assert not waiting.done()
        other.fail("no model")
        with pytest.raises(NotReady, match=r"no model \(said to hold_ready\(\) at .*test_check.py"):
            await waiting
        thread.join()

    try:
        asyncio.run(main())
    finally:
        holds._holds.clear()
    assert said[0].count("hold_ready() at") == 2
    assert said[1].count("hold_ready() at") == 1


def test_a_callable_does_not_hold_up_the_loop() -> None:
    ran = []

    def function(worker: Any) -> None:
        ran.append(threading.current_thread() is threading.main_thread())

    async def coroutine(worker: Any) -> None:
        ran.append(asyncio.get_running_loop().is_running())

    async def fails(worker: Any) -> bool:
        return False

    run(function, None)
    run(coroutine, None)
    assert ran == [False, True]
    with pytest.raises(NotReady, match=r"hot_check .*fails returned False"):
        run(fails, None)
    run(None, None)


# --- The setting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "complaint"), [
    ("healthz", "not a path, which begins with"),
    ("http://localhost/", "not a path, which begins with"),
    ("/a b", "percent-encode"),
    ("/ü", "percent-encode"),
    (7, "neither a path nor a callable"),
    (lambda: None, "arity"),
])
def test_a_wrong_value_is_refused(value: Any, complaint: str) -> None:
    with pytest.raises((TypeError, ValueError), match=complaint):
        settings.HotCheck().set(value)


def test_it_is_shown_and_checked(service: Service) -> None:
    service.configure(hot_check="/healthz")
    shown = service.run(*service.command("--print-config")).stdout
    assert re.search(r"^hot_check\s+= /healthz$", shown, re.MULTILINE), shown
    assert service.run(*service.command("--check-config")).returncode == 0
    service.configure(hot_check="healthz")
    done = service.run(*service.command("--check-config"))
    assert done.returncode != 0
    assert "Invalid value for hot_check: healthz" in done.stdout
    assert "not a path, which begins with" in done.stdout


# --- Real workers -----------------------------------------------------------------------------------------------


HEALTH = """
def app(environ, start_response):
    if environ["PATH_INFO"] != "/healthz":
        return subject(environ, start_response)
    say("asked", environ["HTTP_USER_AGENT"].split()[-1])
    if RELEASE == "broken":
        raise LookupError("no data base")
    if RELEASE == "slow":
        until_there("go")
    start_response("503 Not now" if RELEASE == "bad" else "200 OK", [])
    return [b"data base is away"]
"""


@pytest.mark.parametrize("worker_class", ["sync", "gthread", "gevent"])
def test_an_upgrade_to_what_does_not_answer_well(service: Service, worker_class: str) -> None:
    skip_without(worker_class)
    application(service, HEALTH)
    service.configure(worker_class=worker_class, hot_check="/healthz", hot_ready_timeout=20)
    service.start()
    # Each worker of the first generation was asked too.
    assert {line.split()[2] for line in service.wait_file("asked", lines=2).splitlines()} == {"(hot_check)"}
    for release, reason in (
        ("bad", "hot_check '/healthz' was answered '503 Not now': data base is away"),
        ("broken", "hot_check '/healthz' raised LookupError: no data base"),
    ):
        mark = service.mark()
        service.release(release)
        service.begin_upgrade()
        text = service.wait_log(r"Upgrade failed: (.*)", after=mark)[0][1]
        assert re.fullmatch(rf"worker \(pid: \d+\) failed to boot: {re.escape(reason)}", text), text
        assert service.ask().gen == "A"
    service.upgrade("C")
    assert service.ask().gen == "C"


def test_a_check_that_takes_too_long_is_named(service: Service) -> None:
    application(service, HEALTH)
    service.configure(hot_check="/healthz", hot_ready_timeout=6)
    service.start()
    service.release("slow")
    service.begin_upgrade()
    reason = service.wait_log("Upgrade failed: (.*)")[0][1]
    pattern = r"not ready in 6s \(hot_ready_timeout\): worker \(pid: \d+\) is in hot_check '/healthz'; 0 of 2 .* ready"
    assert re.fullmatch(pattern, reason), reason


def test_a_first_start_that_does_not_pass(service: Service) -> None:
    application(service, HEALTH)
    service.configure(hot_check="/healthz")
    service.release("bad")
    done = service.run()
    assert done.returncode == 3
    assert "NotReady: hot_check '/healthz' was answered '503 Not now': data base is away" in service.log


def test_a_callable_is_called_in_each_worker(service: Service) -> None:
    application(service, AS_IT_IS)
    service.configure(
        "def hot_check(worker):",
        "    from app import RELEASE, say",
        "    assert worker.wsgi",
        "    say('checked', worker.pid)",
        "    if RELEASE == 'bad':",
        "        raise LookupError('no data base')",
    )
    service.start()
    checked = service.wait_file("checked", lines=2).splitlines()
    assert sorted(checked) == sorted(f"A {pid} {pid}" for pid in service.workers())
    service.release("bad")
    service.begin_upgrade()
    reason = service.wait_log("Upgrade failed: (.*)")[0][1]
    assert reason.endswith("failed to boot: hot_check hot_check raised LookupError: no data base")
