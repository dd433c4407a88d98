"""What an application may ask and say, under ASGI: on its event loop, with tasks."""

from __future__ import annotations

import os
import re
import signal

import pytest
from server import ASGI_WORKERS, Service, wait_gone

APP = """\
import asyncio, os
import gunicorn_hot
import asgi
from asgi import RELEASE, held, note

hold = gunicorn_hot.hold_ready() if RELEASE in ("B", "D") else None


@gunicorn_hot.on_drain
def first():
    asyncio.get_running_loop()
    note("called", f"{RELEASE} {os.getpid()} sync")
    raise RuntimeError("on purpose")


@gunicorn_hot.on_drain
async def second():
    if RELEASE == "B":
        await held("leave")
    note("called", f"{RELEASE} {os.getpid()} async")


async def warm():
    await held("warm")
    if RELEASE == "D":
        hold.fail("no model here")
    else:
        hold.ready()


async def app(scope, receive, send):
    if scope["type"] == "lifespan" and hold is not None:
        app.task = asyncio.create_task(warm())
    if scope["type"] == "http" and scope["path"] == "/healthz":
        note("asked", f"{RELEASE} {os.getpid()}")
        assert scope["state"] is not None
        await send({"type": "http.response.start", "status": 503 if RELEASE == "C" else 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data base is away"})
    elif scope["type"] == "http" and scope["path"] == "/wait":
        note("waiting", RELEASE)
        await gunicorn_hot.wait_draining()
        assert gunicorn_hot.draining()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-gen", RELEASE.encode())]})
        await send({"type": "http.response.body", "body": b"bye"})
    else:
        await asgi.app(scope, receive, send)
"""


def serve(service: Service, worker_class: str, *code: str, **settings: int) -> None:
    pytest.importorskip(worker_class.partition(".")[0] if "." in worker_class else "gunicorn.workers.gasgi")
    service.configure(*code, worker_class=worker_class, hot_check="/healthz", hot_drain_timeout=40, **settings)
    (service.folder / "app.py").rename(service.folder / "asgi.py")
    service.write("app.py", APP)
    service.start()


@pytest.mark.parametrize("worker_class", ASGI_WORKERS)
def test_tasks_are_told_and_waited_for(service: Service, worker_class: str) -> None:
    serve(service, worker_class)
    assert len(service.wait_file("asked", lines=2).splitlines()) == 2
    with service.connect() as connection:
        connection.send_request("/wait")
        service.wait_file("waiting", lines=1)
        service.release("B")
        old = service.master
        new = service.begin_upgrade()
        service.wait_log(r"Waiting: worker \(pid: \d+\) is held by hold_ready\(\) at \S+app.py:6")
        service.wait_file("warm.held", lines=2)
        assert "is ready after" not in service.log
        service.write("warm")
        answer = connection.answer()
        assert (answer.gen, answer.body) == ("A", b"bye")
    wait_gone(old)
    service.master = new
    called = [line.split() for line in service.wait_file("called", lines=4).splitlines()]
    assert sorted(word for _, _, word in called) == ["async", "async", "sync", "sync"]
    assert len(re.findall("Exception in on_drain callback", service.log)) == 2
    # A stop is a drain, too, and ends when the callbacks have.
    service.signal(signal.SIGTERM)
    service.wait_file("leave.held", lines=2)
    service.write("leave")
    wait_gone(new)
    assert service.read("called").count("B ") == 4


@pytest.mark.parametrize("worker_class", ASGI_WORKERS)
def test_what_is_not_ready_fails_the_upgrade(service: Service, worker_class: str) -> None:
    serve(service, worker_class)
    service.write("warm")
    for release, reason in (
        ("C", r"failed to boot: hot_check '/healthz' was answered '503': data base is away"),
        ("D", r"failed to boot: no model here \(said to hold_ready\(\) at \S+app.py:6\)"),
    ):
        mark = service.mark()
        service.release(release)
        service.begin_upgrade()
        found = service.wait_log("Upgrade failed: (.*)", after=mark)[0][1]
        assert re.search(reason, found), found
        assert service.ask().gen == "A"


HOOK = """
def on_drain(worker):
    with open("hook", "a") as file:
        file.write(f"{worker.pid}\\n")
"""


@pytest.mark.parametrize("reason", ["stopped", "max_requests"])
@pytest.mark.parametrize("worker_class", ASGI_WORKERS)
def test_a_worker_that_leaves_by_itself_drains(service: Service, worker_class: str, reason: str) -> None:
    # One more than the harness asks for, to see that it serves.
    serve(service, worker_class, HOOK, workers=1, max_requests=2 if reason == "max_requests" else 0)
    (worker,) = service.workers()
    with service.connect() as connection:
        connection.send_request("/wait")
        service.wait_file("waiting", lines=1)
        if reason == "stopped":
            os.kill(worker, signal.SIGTERM)
        else:
            # uvicorn counts a request when it has been answered. If this worker is gone, the next one answers.
            service.ask()
        assert connection.answer().body == b"bye"
    wait_gone(worker)
    assert service.read("hook").splitlines()[0] == str(worker)
    assert service.read("called").count(f"A {worker} ") == 2
